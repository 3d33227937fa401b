"""Training steps timed in turns, on one device; what fails is left out."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.measure import Timing, side_by_side
from bench.nanogpt import synchronize
from bench.training_steps import Step, take_steps
from utils.device import memory_errors, release_memory
from utils.errors import PipelineError
from utils.terminal import say, say_error

WARM_UP_STEPS = 5  # beside the first
FAILURES = (PipelineError, RuntimeError)
MEMORY_HINT = "Lower training.batch_size, or time fewer at once with --optimizers."


class Measured(NamedTuple):
    """One contender: its time in each round of `steps` steps."""

    memory_bytes: int  # the most that it held; 0 where the device does not tell
    timing: Timing
    steps: int

    @property
    def step_ms(self) -> float:
        return 1e3 * self.timing.wall_median / self.steps


class Ready(NamedTuple):
    """A contender that has warmed up."""

    memory_bytes: int
    take_round: Callable[[], None]


class RoundError(Exception):
    """A contender failed in a round: its name, and what went wrong."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name = name


def time_steps(
    builders: Mapping[str, Callable[[], Step]],
    batches: Sequence[Tensor],
    device: torch.device,
    repeats: int,
    steps: int,
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Make each contender, warm it up, and then time all in turns, `steps` steps a round.

    What fails is left out, and told of in the second mapping. If it does so in a round, all rounds
    begin anew without it.
    """
    ready: dict[str, Ready] = {}
    failures: dict[str, str] = {}
    for name, build in builders.items():
        try:
            ready[name] = _warm_up(name, build, batches, device, steps)
        except FAILURES as error:
            failures[name] = str(error)
            say_error(f"{name}: {error}")
    timings: dict[str, Timing] = {}
    while ready and not timings:
        rounds = {name: partial(_take_round, name, found) for name, found in ready.items()}
        try:
            timings = side_by_side(rounds, repeats)
        except RoundError as error:
            failures[error.name] = str(error)
            say_error(f"{error.name}: {error}")
            del ready[error.name], rounds
        if not timings:  # not in the handler, where the error's frames still hold the model
            release_memory(device)
    measured = {
        name: Measured(ready[name].memory_bytes, timing, steps) for name, timing in timings.items()
    }
    return measured, failures


def _warm_up(
    name: str,
    build: Callable[[], Step],
    batches: Sequence[Tensor],
    device: torch.device,
    steps: int,
) -> Ready:
    held_bytes = _start_counting(device)
    began = time.perf_counter()
    with memory_errors("the models that are compared, all at once", MEMORY_HINT):
        step = build()
        step(batches[0])
        synchronize(device)
        say(f"{name}: {time.perf_counter() - began:.1f} s to the end of the first step")
        supply = itertools.cycle(batches)
        take_steps(step, supply, WARM_UP_STEPS, device)
    memory_bytes = _most_held_bytes(device) - held_bytes
    return Ready(memory_bytes, partial(take_steps, step, supply, steps, device))


def _take_round(name: str, contender: Ready) -> None:
    try:
        with memory_errors("the models that are compared, all at once", MEMORY_HINT):
            contender.take_round()
    except FAILURES as error:
        raise RoundError(name, str(error)) from error


def _start_counting(device: torch.device) -> int:
    """Bytes held now; the peak starts anew."""
    release_memory(device)
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _most_held_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
