"""Train the model on a prepared dataset: python train.py

Writes checkpoints to checkpoints/run_.../, and logs to logs/tensorboard and logs/raw_metrics.
Ctrl-C saves and says how to resume; a resumed run is the uninterrupted one.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

import itertools
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from dataloader import create_simple_train_val_dataloaders
from model import create_model
from tokenizer import CodeLlamaTokenizer
from utils.articles import changed_since
from utils.checkpoint import Checkpoint
from utils.cli import config_from, run_script, shared_options
from utils.config import Config
from utils.device import choose_device, seed_everything
from utils.errors import DatasetError, Interrupted
from utils.interrupts import InterruptGuard
from utils.metrics import MetricsTracker
from utils.optimizer import build_optimizers
from utils.reports.run_report import write_run_report
from utils.runs import LATEST
from utils.scheduler import Scheduler
from utils.terminal import emit, warn
from utils.throughput import peak_tokens_per_second
from utils.training.command_line import options_to_repeat, parse
from utils.training.guards import StepGuard
from utils.training.messages import conclude, introduce_model, introduce_run
from utils.training.plan import Plan
from utils.training.preparation import prepare
from utils.training.recorder import Recorder, check_compared
from utils.training.resume import check_resumable
from utils.training.run_checkpoints import RunCheckpoints, check_room
from utils.training.run_place import RunPlace, claimed_place, opened_origin
from utils.training.state import Position, TrainingState
from utils.training.step import TrainStep
from utils.training.validation import Validator


class Trainer:
    """One training run: everything it needs, and everything a checkpoint of it holds."""

    # What `train` opens, for as long as it goes on.
    interrupts: InterruptGuard
    recorder: Recorder
    checkpoints: RunCheckpoints
    validator: Validator

    def __init__(
        self,
        config: Config,
        device: torch.device,
        test_mode: bool = False,
        resume_from: Checkpoint | None = None,
    ) -> None:
        self.config, self.device, self.settings = config, device, config.training
        seed_everything(self.settings.seed)
        self.tokenizer = CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)
        self.train_loader, self.val_loader, self.info = create_simple_train_val_dataloaders(
            test_mode=test_mode, config=config, device=device
        )
        self._check_current(f"python dataset_prep.py{' --test' * test_mode}")
        self.plan = Plan.of(self.settings, len(self.train_loader))
        self.model = create_model(config).to(device)
        self.state = self._fresh_state()
        if resume_from is not None:
            self._restore(resume_from)
        self.train_step = TrainStep(self.model, self.state.optimizers, device, self.settings)

    def _check_current(self, command: str) -> None:
        """Refuse a dataset of another tokenizer, and warn of texts that changed since it was made.

        A text may change while a run goes on, or between its parts; another tokenizer would make
        its samples and its export nonsense.
        """
        paths = self.config.paths
        if self.info["tokenizer_sha256"] != self.tokenizer.sha256:
            raise DatasetError(
                "the dataset was made with another tokenizer than the one in"
                f" {paths.tokenizer_dir}",
                f"Run `{command}` again, with the same --config and --set.",
            )
        changed = changed_since(paths.cleaned_dir, self.info["text_sha256"])
        if changed:
            warn(
                f"cleaned again since the dataset was made from it: {', '.join(changed)};"
                f" `{command}` brings it up to date"
            )

    def _fresh_state(self) -> TrainingState:
        settings, shape = self.settings, self.config.model
        optimizers = build_optimizers(self.model, settings)
        scheduler = Scheduler(
            optimizers,
            peak=settings.peak_learning_rate,
            minimum=settings.min_learning_rate,
            warmup_steps=settings.warmup_steps,
            total_steps=self.plan.total_steps,
        )
        metrics = MetricsTracker(
            settings.metrics_window_steps,
            settings.early_stopping_patience,
            settings.early_stopping_min_delta,
            peak_tokens_per_second(
                shape, self.model.parameter_count(), self.info["window"], self.device
            ),
        )
        guard = StepGuard(settings.max_skipped_steps, settings.spike_deviations)
        return TrainingState(self.model, optimizers, scheduler, metrics, guard, self.device)

    def _restore(self, checkpoint: Checkpoint) -> None:
        changes = check_resumable(
            checkpoint, self.config, self.tokenizer.sha256, self.info["dataset_fingerprint"]
        )
        changes += self.state.restore(checkpoint)
        # Mapped tensors keep the old file on the disk when the first save replaces it, and on
        # Windows forbid that: from here on no one needs them.
        for tensors in (checkpoint.model, checkpoint.optimizer, checkpoint.rng):
            tensors.clear()
        for change in changes:
            warn(f"resuming with a change: {change}")

    @property
    def position(self) -> Position:
        return self.state.position

    @property
    def is_finished(self) -> bool:
        return self.position.step >= self.plan.total_steps or self.state.metrics.should_stop

    def snapshot(self, run_name: str = "") -> Checkpoint:
        """A checkpoint of the run as it is now; its tensors are the run's own."""
        fingerprint = self.info["dataset_fingerprint"]
        return self.state.snapshot(self.config, self.tokenizer.sha256, fingerprint, run_name)

    def train(self, place: RunPlace, options: Sequence[str], compare: Sequence[str] = ()) -> None:
        """Train to the end, or until a signal: then save, and raise Interrupted.

        `options` are what the command that goes on needs beside `--resume`; `compare` are runs
        that the report lays beside this one.
        """
        with (
            InterruptGuard("saving after this step") as self.interrupts,
            Recorder(
                self.state, self.config, place, self.plan.total_steps, compare
            ) as self.recorder,
            RunCheckpoints(
                self.state,
                partial(self.snapshot, place.name),
                place,
                self.settings,
                self.recorder.logger.flush,
            ) as self.checkpoints,
        ):
            self.validator = Validator(
                self.state, self.val_loader, self.tokenizer, self.recorder.logger, self.settings
            )
            self._loop(["--resume", str(place.folder / LATEST), *options])

    def _loop(self, resume_options: Sequence[str]) -> None:
        batches = self._batches()
        self.state.metrics.start_clock()
        self._validate_and_save_if_due()
        self._stop_if_interrupted(resume_options)
        while not self.is_finished:
            self._step(batches)
            self._validate_and_save_if_due()
            self._stop_if_interrupted(resume_options)

    def _batches(self) -> Iterator[Tensor]:
        """Training batches (rows, window) without end, from the run's position on."""
        while True:
            self.train_loader.set_position(*self.plan.place_of(self.position.step))
            left = self.plan.batches_left(self.position.step)
            for batch in itertools.islice(self.train_loader, left):
                yield batch.to(self.device, non_blocking=True)

    def _step(self, batches: Iterator[Tensor]) -> None:
        """One step; if its loss or gradient is not finite, all it does is to use up its batches
        and its place in the schedule.
        """
        state = self.state
        learning_rate = state.scheduler.learning_rate
        began = time.perf_counter()
        taken = [next(batches) for _ in range(self.plan.batches_per_step)]
        data_seconds = time.perf_counter() - began
        loss, norm = self.train_step.gradients(taken)
        if state.guard.admits(loss, norm):
            self.train_step.apply()
            tokens = sum(batch.numel() for batch in taken)
            state.metrics.record_step(loss, norm, tokens, data_seconds)
            if spike := state.guard.spike(loss):
                self.recorder.spiked(state.position.step + 1, spike, self._windows())
        else:
            self.train_step.discard()
            state.metrics.start_clock()
            self.recorder.skipped(state.position.step + 1, loss, norm, self._windows())
        state.scheduler.step()
        state.position.step += 1
        self.recorder.step_done(learning_rate)
        self.checkpoints.check()
        state.guard.check(state.position.step)

    def _windows(self) -> list[int]:
        """The indices, in the training dataset, of the windows of the step being taken."""
        epoch, first = self.plan.place_of(self.position.step)
        batches = range(first, first + self.plan.batches_per_step)
        return [i for batch in batches for i in self.train_loader.indices_of(epoch, batch)]

    def _validate_and_save_if_due(self) -> None:
        """Validate at every interval and at both ends, once a step; save then, and in between."""
        step, is_best = self.position.step, False
        is_due = step % self.plan.validation_interval == 0 or self.is_finished
        if is_due and self.position.validated_step != step:
            is_best = self.validator.validate(lambda: self.interrupts.received is not None)
        self.checkpoints.save_if_due(is_best)
        if self.position.validated_step == step:
            self.recorder.write_report()

    def _stop_if_interrupted(self, resume_options: Sequence[str]) -> None:
        number = self.interrupts.received
        if number is None:
            return
        self.checkpoints.save()
        self.checkpoints.wait()
        raise Interrupted(
            f"stopped at step {self.position.step:,}, saved",
            f"Go on with: {shlex.join(['python', 'train.py', *resume_options])}",
            number,
        )


def main(arguments: Sequence[str]) -> None:
    args = parse(arguments)
    config = config_from(args, {"training.epochs": 1 if args.test else None})
    log_dir = config.paths.log_dir
    if args.report:
        emit(str(write_run_report(log_dir, args.report, args.compare)))
        return
    check_compared(log_dir, args.compare)  # now, not after hours of training
    device = choose_device(args.device)
    with ExitStack() as held:
        origin = held.enter_context(opened_origin(args.resume, config)) if args.resume else None
        trainer = Trainer(config, device, args.test, origin.checkpoint if origin else None)
        introduce_model(
            trainer.model.parameter_count(), device, trainer.plan, config, trainer.info["window"]
        )
        check_room(trainer.snapshot(), origin.folder if origin else None, trainer.plan.total_steps)
        prepare(trainer.train_step, config, trainer.info["window"])
        place = held.enter_context(claimed_place(config.paths, args.name, origin))
        introduce_run(place, trainer.position.step, trainer.plan, log_dir)
        trainer.train(place, options_to_repeat(args), args.compare)
    folder, runs = place.folder, config.paths.checkpoint_dir
    name = folder.name if folder.parent == runs else str(folder)
    conclude(trainer.state, ["--run", name, *shared_options(args)])


if __name__ == "__main__":
    run_script(main)
