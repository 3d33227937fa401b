"""The learning rate: linear warm-up, then a cosine down to a minimum."""

import math
from typing import Any

from utils.optimizer import Optimizers


def learning_rate_at(
    step: int, peak: float, minimum: float, warmup_steps: int, total_steps: int
) -> float:
    """The learning rate of the optimizer step numbered `step`, counted from 0.

    It rises in equal parts to `peak`, which the first step after warm-up takes, and reaches
    `minimum` at step `total_steps`, where it stays. Warm-up comes first, however short the run.

    >>> [learning_rate_at(s, 1.0, 0.1, warmup_steps=1, total_steps=3) for s in (0, 1, 2, 3, 4)]
    [0.5, 1.0, 0.55, 0.1, 0.1]
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return minimum
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Scheduler:
    """Sets the learning rates of the next step; call `step()` after each.

    The schedule is AdamW's; other groups have the same share of their own peaks.
    """

    def __init__(
        self,
        optimizers: Optimizers,
        peak: float,
        minimum: float,
        warmup_steps: int,
        total_steps: int,
    ) -> None:
        self.optimizers = optimizers
        self.shape = {
            "peak": peak,
            "minimum": minimum,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
        }
        self.steps_taken = 0
        self._apply()

    @property
    def learning_rate(self) -> float:
        """What the next optimizer step will use."""
        return learning_rate_at(self.steps_taken, **self.shape)  # type: ignore[arg-type]

    def step(self) -> None:
        self.steps_taken += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        return {"steps_taken": self.steps_taken, "shape": dict(self.shape)}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Go on where `state` was; return what its schedule had otherwise, one sentence each.

        The configured schedule holds from here on: a resumed run may be given more steps.
        """
        self.steps_taken = state["steps_taken"]
        self._apply()
        before = state["shape"]
        return [
            f"{name} of the learning rate was {before.get(name)}, is now {value}"
            for name, value in self.shape.items()
            if before.get(name) != value
        ]

    def _apply(self) -> None:
        self.optimizers.scale_learning_rates(self.learning_rate / self.shape["peak"])
