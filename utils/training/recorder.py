"""The recorder of a run: its progress for the eye, its numbers and incidents for the logs."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from utils.config import Config
from utils.errors import UsageError
from utils.logging_utils import (
    LOSS_SPIKE,
    SKIPPED_STEP,
    DualLogger,
    describe_run,
    metrics_path,
)
from utils.metrics import LEARNING_RATE, MUON_LEARNING_RATE, SKIPPED_STEPS
from utils.reports.run_comparison import comparison_section
from utils.reports.run_curves import read_run
from utils.reports.run_report import write_run_report
from utils.terminal import Progress, say, warn
from utils.training.guards import Spike
from utils.training.run_place import RunPlace
from utils.training.state import TrainingState

RENEWAL_SECONDS = 0.5  # nobody reads faster, and sums over the window at every step would be dear
SHOWN_WINDOWS = 6


class Recorder:
    """Shows and logs what happens to `state`, step by step. A context manager.

    The logs of a run that is not new go on behind the state's step. Windows are told as indices
    of the training dataset: dataset[index] is a window that the step had. `compare` are runs that
    the report lays beside this one.
    """

    def __init__(
        self,
        state: TrainingState,
        config: Config,
        place: RunPlace,
        total_steps: int,
        compare: Sequence[str] = (),
    ) -> None:
        self.state, self.config, self.compare = state, config, compare
        self.log_dir, self.run_name = config.paths.log_dir, place.name
        step = state.position.step
        is_validated = state.position.validated_step == step
        self.logger = DualLogger(
            self.log_dir, place.name, None if place.is_new else step, is_validated
        )
        self.progress = Progress("Training", total_steps, "steps", initial=step, leaves_room=True)
        self._renewed_seconds = time.monotonic()

    def step_done(self, learning_rate: float) -> None:
        """One more step lies behind the state; it had, or would have had, this learning rate."""
        step, metrics, guard = self.state.position.step, self.state.metrics, self.state.guard
        now, note = time.monotonic(), ""  # which leaves the words behind the progress as they are
        if now - self._renewed_seconds >= RENEWAL_SECONDS:
            self._renewed_seconds = now
            note = metrics.status(self.state.position.validation_loss, guard.skipped_steps)
        self.progress.advance(1, note)
        if step % self.config.training.log_interval_steps == 0:
            beside = {SKIPPED_STEPS: float(guard.skipped_steps), **self._rates(learning_rate)}
            self.logger.log_scalars(step, {**metrics.summary(), **beside})

    def _rates(self, learning_rate: float) -> dict[str, float]:
        """AdamW's learning rate, and Muon's, which follows it."""
        settings = self.config.training
        rates = {LEARNING_RATE: learning_rate}
        if settings.optimizer == "muon":
            share = learning_rate / settings.peak_learning_rate
            rates[MUON_LEARNING_RATE] = settings.muon_learning_rate * share
        return rates

    def skipped(self, step: int, loss: float, gradient_norm: float, windows: Sequence[int]) -> None:
        """The step numbered `step` changed nothing."""
        warn(
            f"step {step:,} was skipped: its loss is {loss:.4g} and its gradient norm"
            f" {gradient_norm:.4g}; it had {_shown(windows)}"
        )
        self.logger.log_event(
            step, SKIPPED_STEP, loss=loss, gradient_norm=gradient_norm, windows=windows
        )

    def spiked(self, step: int, spike: Spike, windows: Sequence[int]) -> None:
        """The loss of the step numbered `step` is unusual."""
        warn(
            f"step {step:,}: the loss rose to {spike.loss:.3f}, {spike.deviations:.1f} standard"
            f" deviations above its recent mean of {spike.mean:.3f}; it had {_shown(windows)}"
        )
        self.logger.log_event(step, LOSS_SPIKE, loss=spike.loss, mean=spike.mean, windows=windows)

    def write_report(self) -> Path | None:
        """Write report.html of all that was logged so far; None, with a warning, if it cannot be.

        Its time does not count as training.
        """
        try:
            self.logger.flush()
            return write_run_report(self.log_dir, self.run_name, self.compare)
        except Exception as error:  # whatever it is, no reason to stop training
            warn(f"the run's report cannot be written: {type(error).__name__}: {error}")
            return None
        finally:
            self.state.metrics.start_clock()

    def __enter__(self) -> Self:
        parameters = sum(parameter.numel() for parameter in self.state.model.parameters())
        self.logger.log_config(self.config, describe_run(self.state.device, parameters))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.__exit__(kind, error, trace)
        self.logger.close()
        is_quitting = error is not None and not isinstance(error, Exception)
        if not is_quitting and (path := self.write_report()):
            say(f"Report  {path}")


def check_compared(log_dir: Path, names: Sequence[str]) -> None:
    """Raise UsageError for a run that a report cannot lay beside another one."""
    for name in names:
        run = read_run(log_dir, name)
        try:
            comparison_section([run])
        except Exception as error:  # odd logs break the drawing in many ways
            raise UsageError(
                f"--compare {name}: its logs in {metrics_path(log_dir, run.name).parent} cannot"
                f" be drawn: {type(error).__name__}: {error}",
                "Leave this run out, or mend its logs.",
            ) from error


def _shown(windows: Sequence[int]) -> str:
    few = ", ".join(map(str, windows[:SHOWN_WINDOWS]))
    more = f" and {len(windows) - SHOWN_WINDOWS} more" if len(windows) > SHOWN_WINDOWS else ""
    return f"windows {few}{more}"
