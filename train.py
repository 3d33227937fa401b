"""Train the model on a prepared dataset: python train.py

Writes checkpoints to checkpoints/run_.../, and logs to logs/tensorboard and logs/raw_metrics.
Ctrl-C saves and says how to resume; a resumed run is the uninterrupted one.
"""

import itertools
import math
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dataloader import create_simple_train_val_dataloaders
from model import create_model
from tokenizer import CodeLlamaTokenizer
from utils.articles import changed_since
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.cli import config_from, run_script, script_parser, shared_options
from utils.config import Config
from utils.device import autocast, choose_device, describe_device, seed_everything
from utils.errors import DatasetError, Interrupted, TrainingError, UsageError
from utils.evaluation import continuations, mean_loss
from utils.files import sole_writer
from utils.interrupts import InterruptGuard
from utils.logging_utils import DualLogger, is_logged, metrics_path, tensorboard_dir
from utils.metrics import TRAIN_LOSS, VALIDATION_LOSS, MetricsTracker, perplexity
from utils.optimizer import build_optimizer
from utils.resume import check_resumable, folder_to_go_on_in
from utils.runs import (
    BEST,
    LATEST,
    find_checkpoint,
    new_run_folder,
    prune_step_checkpoints,
    step_name,
)
from utils.scheduler import Scheduler
from utils.terminal import Progress, format_seconds, printable, say, warn
from utils.training_state import Position, TrainingState


class Trainer:
    """One training run: everything it needs, and everything a checkpoint of it holds."""

    def __init__(
        self,
        config: Config,
        device: torch.device,
        test_mode: bool = False,
        resume_from: Checkpoint | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.settings = config.training
        seed_everything(self.settings.seed)
        self.tokenizer = CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)
        self.train_loader, self.val_loader, self.info = create_simple_train_val_dataloaders(
            test_mode=test_mode, config=config, device=device
        )
        self._check_current(f"python dataset_prep.py{' --test' * test_mode}")
        self.steps_per_epoch = len(self.train_loader) // self.settings.gradient_accumulation_steps
        if not self.steps_per_epoch:
            raise TrainingError(
                f"an epoch has {len(self.train_loader)} batches, fewer than"
                f" gradient_accumulation_steps ({self.settings.gradient_accumulation_steps})",
                "Lower batch_size or gradient_accumulation_steps, or prepare more text.",
            )
        self.total_steps = self.steps_per_epoch * self.settings.epochs
        if self.settings.max_steps is not None:
            self.total_steps = min(self.total_steps, self.settings.max_steps)
        self.validation_interval = max(
            1, round(self.settings.validation_interval_epochs * self.steps_per_epoch)
        )
        self.model = create_model(config).to(device)
        self.state = self._fresh_state()
        self.has_changed = True  # since the last save
        if resume_from is not None:
            self._restore(resume_from)
        if device.type == "cuda" and self.settings.compile:
            self.model.compile_for_training()

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
        settings = self.settings
        optimizer = build_optimizer(self.model, settings)
        scheduler = Scheduler(
            optimizer,
            peak=settings.learning_rate,
            minimum=settings.min_learning_rate,
            warmup_steps=settings.warmup_steps,
            total_steps=self.total_steps,
        )
        metrics = MetricsTracker(
            settings.metrics_window_steps,
            settings.early_stopping_patience,
            settings.early_stopping_min_delta,
        )
        return TrainingState(self.model, optimizer, scheduler, metrics, self.device)

    def _restore(self, checkpoint: Checkpoint) -> None:
        changes = check_resumable(
            checkpoint, self.config, self.tokenizer.sha256, self.info["dataset_fingerprint"]
        )
        changes += self.state.restore(checkpoint)
        self.has_changed = False
        for change in changes:
            warn(f"resuming with a change: {change}")

    def train(
        self, run_folder: Path, run_name: str, is_resumed: bool, options: Sequence[str]
    ) -> None:
        """Train to the end, or until a signal: then save, and raise Interrupted.

        `options` are what the command that goes on needs beside `--resume`.
        """
        self.run_folder, self.run_name, self.options = run_folder, run_name, options
        resumed_step = self.position.step if is_resumed else None
        logger = DualLogger(self.config.paths.log_dir, run_name, resumed_step)
        progress = Progress("Training", self.total_steps, "steps", initial=self.position.step)
        with InterruptGuard("saving after this step") as guard, closing(logger), progress:
            self.guard, self.logger, self.progress = guard, logger, progress
            logger.log_config(self.config)
            batches = self._batches()
            self.metrics.start_clock()
            self._validate_and_save_if_due()
            while not self._is_finished():
                self._step(batches)
                self._log_if_due()
                self._validate_and_save_if_due()

    def _validate_and_save_if_due(self) -> None:
        is_best = self._validate_if_due()
        self._save_if_due(is_best)
        self._stop_if_interrupted()

    @property
    def position(self) -> Position:
        return self.state.position

    @property
    def metrics(self) -> MetricsTracker:
        return self.state.metrics

    def _is_finished(self) -> bool:
        return self.position.step >= self.total_steps or self.metrics.should_stop

    def _batches(self) -> Iterator[Tensor]:
        """Training batches without end, from the run's position on."""
        accumulation = self.settings.gradient_accumulation_steps
        while True:
            epoch, step_in_epoch = divmod(self.position.step, self.steps_per_epoch)
            self.train_loader.set_position(epoch, step_in_epoch * accumulation)
            left = (self.steps_per_epoch - step_in_epoch) * accumulation
            for batch in itertools.islice(self.train_loader, left):
                yield batch.to(self.device, non_blocking=True)

    def _step(self, batches: Iterator[Tensor]) -> None:
        """One optimizer step. A loss or gradient that is not finite stops the run before it."""
        accumulation = self.settings.gradient_accumulation_steps
        losses, data_seconds, tokens = torch.zeros((), device=self.device), 0.0, 0
        for _ in range(accumulation):
            began = time.perf_counter()
            batch = next(batches)  # (rows, window)
            data_seconds += time.perf_counter() - began
            with autocast(self.device, self.settings.precision):
                loss = self.model(batch, labels=batch)["loss"] / accumulation
            loss.backward()
            losses += loss.detach()
            tokens += batch.numel()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        loss_value, norm_value = torch.stack([losses, norm]).tolist()  # waits for the device
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise TrainingError(
                f"step {self.position.step + 1}: the loss is {loss_value} and the gradient norm"
                f" {norm_value}; the weights were not changed",
                "Resume from the last checkpoint, or start again, with a lower"
                " training.learning_rate.",
            )
        learning_rate = self.state.scheduler.learning_rate
        self.state.optimizer.step()
        self.state.scheduler.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.position.step += 1
        self.has_changed = True
        self.metrics.record_step(loss_value, norm_value, learning_rate, tokens, data_seconds)
        self.progress.advance(1, self._note())

    def _note(self) -> str:
        """What the progress line says behind steps and time."""
        summary = self.metrics.summary()
        note = f"loss {summary[TRAIN_LOSS]:.3f}"
        if self.position.validation_loss is not None:
            note += f", val {self.position.validation_loss:.3f}"
        note += f", {summary['perf/tokens_per_second'] / 1e3:.1f}k tokens/s"
        if "mem/peak_gib" in summary:
            note += f", {summary['mem/peak_gib']:.1f} GiB"
        return note

    def _log_if_due(self) -> None:
        if self.position.step % self.settings.log_interval_steps == 0:
            self.logger.log_scalars(self.position.step, self.metrics.summary())

    def _validate_if_due(self) -> bool:
        """Validate at every interval and at both ends, once a step; true for a new best."""
        step = self.position.step
        is_due = step % self.validation_interval == 0 or self._is_finished()
        if not is_due or self.position.validated_step == step:
            return False
        began = time.perf_counter()
        loss = mean_loss(
            self.model,
            itertools.islice(self.val_loader, self.settings.max_validation_batches),
            self.device,
            self.settings.precision,
            self.settings.batch_size,
            should_stop=lambda: self.guard.received is not None,
        )
        if loss is None:
            return False
        is_best = self.metrics.record_validation(loss, step)
        self.position.validated_step, self.position.validation_loss = step, loss
        self.has_changed = True
        self.logger.log_scalars(step, {VALIDATION_LOSS: loss, "val/perplexity": perplexity(loss)})
        say(
            f"step {step:,}: validation loss {loss:.4f}, perplexity {perplexity(loss):,.1f}"
            f"{' (best so far)' if is_best else ''}, {format_seconds(time.perf_counter() - began)}",
            "green" if is_best else "bold",
        )
        self._sample()
        return is_best

    def _sample(self) -> None:
        """Show and log what the model makes of the sample prompts; no training state moves."""
        settings = self.settings
        generate = partial(
            self.model.generate, max_length=settings.sample_tokens, seed=settings.seed
        )
        prompts = [
            [self.tokenizer.bos_id, *self.tokenizer.encode(prompt)]
            for prompt in settings.sample_prompts
        ]
        texts = continuations(generate, prompts, self.device, settings.precision)
        for number, ids in enumerate(texts, start=1):
            text = self.tokenizer.decode(ids)
            self.logger.log_text(self.position.step, f"samples/{number}", text)
            say(f"  | {printable(' '.join(text.split()))}", "dim")

    def _save_if_due(self, is_best: bool) -> None:
        """Save after a validation, and at every step that is to keep a file of its own."""
        step = self.position.step
        is_kept = step > 0 and step % self.settings.checkpoint_interval_steps == 0
        if is_kept or self.position.validated_step == step:
            self._save([BEST] * is_best + [step_name(step)] * is_kept)

    def _stop_if_interrupted(self) -> None:
        number = self.guard.received
        if number is None:
            return
        self._save()
        command = ["python", "train.py", "--resume", str(self.run_folder / LATEST), *self.options]
        raise Interrupted(
            f"stopped at step {self.position.step:,}, saved",
            f"Go on with: {shlex.join(command)}",
            number,
        )

    def _save(self, also_as: Sequence[str] = ()) -> None:
        """Save as latest, and under more names, unless nothing has changed since the last save."""
        if not self.has_changed:
            return
        self.logger.flush()
        # Latest last: should we die in between, the run is resumed before it and comes here again.
        first, *others = [self.run_folder / name for name in (*also_as, LATEST)]
        snapshot = self.state.snapshot(
            self.config, self.tokenizer.sha256, self.info["dataset_fingerprint"], self.run_name
        )
        save_checkpoint(snapshot, first, others)
        prune_step_checkpoints(self.run_folder, self.settings.keep_step_checkpoints)
        self.has_changed = False
        self.metrics.start_clock()


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("Train the model on the dataset that dataset_prep.py made.")
    parser.add_argument(
        "--test", action="store_true", help="one epoch on the dataset of dataset_prep.py --test"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="PATH", help="go on from a checkpoint, or a run's latest"
    )
    parser.add_argument("--name", help="added to the run's name, for checkpoints and logs")
    parser.add_argument("--device", help="cuda (default), cuda:N or cpu")
    args = parser.parse_args(arguments)
    if args.name and not re.fullmatch(r"[\w.-]+", args.name):
        raise UsageError(f"--name {args.name!r} may have only letters, digits, '.', '_' and '-'")
    if args.name and args.resume:
        raise UsageError("--name is for a new run; a resumed one keeps its name")
    config = config_from(args, {"training.epochs": 1 if args.test else None})
    device = choose_device(args.device)
    options = shared_options(args) + ["--test"] * args.test
    if args.device:
        options += ["--device", args.device]
    with ExitStack() as stack:
        checkpoint = run_folder = None
        if args.resume:
            path = find_checkpoint(args.resume).resolve()
            stack.enter_context(sole_writer(path.parent, "training in"))
            checkpoint = load_checkpoint(path, config)
            run_folder = folder_to_go_on_in(checkpoint, path, config.paths.checkpoint_dir)
        trainer = Trainer(config, device, args.test, checkpoint)
        is_new = run_folder is None
        trainer.has_changed = is_new or path.name != LATEST  # a latest there is not of this state
        if run_folder is None:
            has_logs = partial(is_logged, config.paths.log_dir)
            run_folder = new_run_folder(config.paths.checkpoint_dir, args.name, has_logs)
            stack.enter_context(sole_writer(run_folder, "training in"))
        # A flat folder is no run's own, so its checkpoints say which run they are of.
        is_flat = run_folder == config.paths.checkpoint_dir
        run_name = checkpoint.run_name if checkpoint and is_flat else run_folder.name
        log_folder = metrics_path(config.paths.log_dir, run_name).parent
        stack.enter_context(sole_writer(log_folder, "logging into"))
        introduce(trainer, run_folder, is_new)
        trainer.train(run_folder, run_name, not is_new, options)
    name = run_folder.name if run_folder.parent == config.paths.checkpoint_dir else str(run_folder)
    conclude(trainer, ["--run", name, *shared_options(args)])


def introduce(trainer: Trainer, run_folder: Path, is_new: bool) -> None:
    """Say what is about to be trained, on what, and where to watch it."""
    settings, position = trainer.settings, trainer.state.position
    tokens_per_step = (
        settings.batch_size * settings.gradient_accumulation_steps * trainer.info["window"]
    )
    parameters = trainer.model.parameter_count()
    say(f"Model   {parameters:,} parameters on {describe_device(trainer.device)}")
    say(
        f"Plan    {trainer.total_steps:,} steps of {tokens_per_step:,} tokens, of"
        f" {trainer.steps_per_epoch:,} in an epoch; validation every"
        f" {trainer.validation_interval:,} steps"
    )
    say(f"Run     {run_folder}")
    say(f"Watch   tensorboard --logdir {tensorboard_dir(trainer.config.paths.log_dir)}")
    if settings.warmup_steps >= trainer.total_steps:
        warn(
            f"training.warmup_steps is {settings.warmup_steps:,}: the learning rate will not reach"
            " its peak"
        )
    if position.step:
        epoch = position.step // trainer.steps_per_epoch + 1
        say(f"Resume  after step {position.step:,}, in epoch {epoch}", "cyan")
        if is_new:
            say("        in a new run: the old one stays as it is", "cyan")
    if trainer.device.type == "cuda" and settings.compile:
        say("The first step compiles the model, which takes a while.", "dim")


def conclude(trainer: Trainer, options: Sequence[str]) -> None:
    """Say how it ended, and what to do with the result."""
    metrics = trainer.state.metrics
    why = "stopped early" if metrics.should_stop else "finished"
    best = "no validation loss was finite"
    if metrics.best_step is not None:
        best = f"best validation loss {metrics.best_loss:.4f} at step {metrics.best_step:,}"
    say(f"Training {why} after {trainer.state.position.step:,} steps: {best}", "bold")
    say(f"Next: {shlex.join(['python', 'Inference.py', *options])}")


if __name__ == "__main__":
    run_script(main)
