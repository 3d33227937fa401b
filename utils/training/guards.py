"""The guard of a run's steps: nothing that is not finite gets in, and loss spikes are noticed."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from utils.errors import TrainingError

RECENT_LOSSES = 100
ENOUGH_LOSSES = 20  # fewer say too little about what is usual


@dataclass(frozen=True)
class Spike:
    """A loss that lies `deviations` standard deviations above the mean of recent ones."""

    loss: float
    mean: float
    deviations: float


class StepGuard:
    """Says of each step whether it may change the weights, and whether its loss is a spike.

    What it counts and remembers is part of a run's state: a resumed run goes on from there.
    """

    def __init__(self, max_skipped_steps: int, spike_deviations: float) -> None:
        self.max_skipped_steps, self.spike_deviations = max_skipped_steps, spike_deviations
        self.skipped_steps = self.skipped_in_a_row = self.spikes_in_a_row = 0
        self.recent_losses: deque[float] = deque(maxlen=RECENT_LOSSES)

    def admits(self, loss: float, gradient_norm: float) -> bool:
        """Whether both are finite; if not, one more step is counted as skipped."""
        is_finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        self.skipped_steps += not is_finite
        self.skipped_in_a_row = 0 if is_finite else self.skipped_in_a_row + 1
        return is_finite

    def check(self, step: int) -> None:
        """Raise TrainingError if too many steps in a row, up to `step`, were skipped."""
        if self.skipped_in_a_row >= self.max_skipped_steps:
            raise TrainingError(
                f"step {step:,}: the loss or the gradient was not finite for"
                f" {self.skipped_in_a_row} steps in a row; none of them changed the weights",
                "Resume from an earlier checkpoint with a lower training.learning_rate or"
                " training.muon_learning_rate.",
            )

    def spike(self, loss: float) -> Spike | None:
        """What is unusual about a finite loss, which is remembered if nothing is.

        A spike is not remembered, so that it cannot hide the next one. As many in a row as a
        judgement needs are no spikes any more but the new level, which is then learned afresh.
        """
        found = self._compare(loss)
        if found is None:
            self.spikes_in_a_row = 0
            self.recent_losses.append(loss)
            return None
        self.spikes_in_a_row += 1
        if self.spikes_in_a_row >= ENOUGH_LOSSES:
            self.spikes_in_a_row = 0
            self.recent_losses.clear()
        return found

    def _compare(self, loss: float) -> Spike | None:
        count = len(self.recent_losses)
        if count < ENOUGH_LOSSES:
            return None
        mean = sum(self.recent_losses) / count
        deviation = math.sqrt(sum((past - mean) ** 2 for past in self.recent_losses) / count)
        if loss - mean <= self.spike_deviations * deviation:
            return None
        return Spike(loss, mean, (loss - mean) / deviation if deviation else math.inf)

    def state_dict(self) -> dict[str, Any]:
        return {
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "spikes_in_a_row": self.spikes_in_a_row,
            "recent_losses": list(self.recent_losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped_steps = state["skipped_steps"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.spikes_in_a_row = state["spikes_in_a_row"]
        self.recent_losses.extend(state["recent_losses"])
