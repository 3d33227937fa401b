"""The plan of a run: how many steps it takes, and which batches each of them has."""

from dataclasses import dataclass
from typing import Self

from utils.config import TrainingConfig
from utils.errors import TrainingError


@dataclass(frozen=True)
class Plan:
    """Lengths in optimizer steps; a step takes `batches_per_step` batches."""

    steps_per_epoch: int
    total_steps: int
    validation_interval: int
    batches_per_step: int

    @classmethod
    def of(cls, settings: TrainingConfig, batches_per_epoch: int) -> Self:
        """The plan for the configured run; TrainingError if an epoch has not even one step."""
        accumulation = settings.gradient_accumulation_steps
        steps_per_epoch = batches_per_epoch // accumulation
        if not steps_per_epoch:
            raise TrainingError(
                f"an epoch has {batches_per_epoch} batches, fewer than"
                f" gradient_accumulation_steps ({accumulation})",
                "Lower batch_size or gradient_accumulation_steps, or prepare more text.",
            )
        total_steps = steps_per_epoch * settings.epochs
        if settings.max_steps is not None:
            total_steps = min(total_steps, settings.max_steps)
        interval = max(1, round(settings.validation_interval_epochs * steps_per_epoch))
        return cls(steps_per_epoch, total_steps, interval, accumulation)

    def place_of(self, step: int) -> tuple[int, int]:
        """The epoch, and the batch within it, that the step after `step` others begins with."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return epoch, step_in_epoch * self.batches_per_step

    def batches_left(self, step: int) -> int:
        """How many batches of the epoch are still to come after `step` steps."""
        return (self.steps_per_epoch - step % self.steps_per_epoch) * self.batches_per_step
