"""What sets two runs of the same training apart, in their logs and their last checkpoints."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bench.training_runs import TrainingRun
from utils.metrics import GRADIENT_NORM, TRAIN_LOSS


class Difference(NamedTuple):
    """What sets two runs of the same steps apart; nothing if they are the same to the bit."""

    tensors: int  # of weights, optimizer and random state that differ
    of_tensors: int
    largest: float  # difference of two numbers
    first_step: int | None  # whose loss or gradient norm differs

    def __str__(self) -> str:
        if not self.tensors and self.first_step is None:
            return "same to the bit"
        return (
            f"{self.tensors:,} of {self.of_tensors:,} tensors, by at most {self.largest:.1e};"
            f" losses from step {self.first_step}"
        )


def difference(one: TrainingRun, other: TrainingRun) -> Difference:
    """What two runs of the same configuration did differently."""
    ours, theirs = (
        dict(tensors_of([saved.model, saved.optimizer, saved.rng]))
        for saved in (one.last_checkpoint(), other.last_checkpoint())
    )
    assert ours.keys() == theirs.keys()
    gaps = [
        (tensor.double() - theirs[name].double()).abs().max().item()
        for name, tensor in ours.items()
        if not torch.equal(tensor, theirs[name])
    ]
    return Difference(len(gaps), len(ours), max(gaps, default=0.0), _first_other_step(one, other))


def tensors_of(values: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings and sequences, by where it stands."""
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from tensors_of(value, f"{name}.{key}")
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from tensors_of(value, f"{name}.{index}")


def _first_other_step(one: TrainingRun, other: TrainingRun) -> int | None:
    """The first step that is not in both logs with the same loss and the same gradient norm."""
    logs = [
        {record["step"]: (record[TRAIN_LOSS], record[GRADIENT_NORM]) for record in run.steps()}
        for run in (one, other)
    ]
    return next((s for s in sorted(logs[0].keys() | logs[1].keys()) if not _same(s, *logs)), None)


def _same(
    step: int, one: Mapping[int, tuple[float, float]], other: Mapping[int, tuple[float, float]]
) -> bool:
    return step in one and step in other and one[step] == other[step]
