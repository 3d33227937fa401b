"""What a training step waits for data: bench/train_step.py --data."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from bench.measure import Timing, paragraph, side_by_side, table, times_as_fast
from bench.training_steps import endless, ours, take_steps
from dataloader import create_simple_train_val_dataloaders
from utils.config import Config
from utils.config_file import override

IN_HAND = "batches in hand"
# dataloader.train_device, and how much longer than with batches in hand a step may take
PLACES = {"tokens on the GPU": ("cuda", 0.01), "tokens in main memory": ("cpu", 0.02)}
BATCHES_IN_HAND = 8


def compare_loading(
    config: Config, device: torch.device, repeats: int, steps: int
) -> tuple[str, dict[str, object]]:
    """Steps on batches in hand against those fed by the loader, with its tokens in both places.

    Returns the section and the values.
    """
    loaders = {
        name: create_simple_train_val_dataloaders(
            config=override(config, {"dataloader.train_device": place}), device=device
        )[0]
        for name, (place, _) in PLACES.items()
        if place == "cpu" or device.type == "cuda"
    }
    first = next(iter(loaders.values()))
    step = ours(config, device, first.windows.window)
    # Copies: a loader may use the memory of a batch again.
    taken = itertools.islice(endless(first, device), BATCHES_IN_HAND)
    supplies: dict[str, Iterator[Tensor]] = {
        IN_HAND: itertools.cycle([batch.clone() for batch in taken])
    }
    supplies |= {name: endless(loader, device) for name, loader in loaders.items()}
    rounds: dict[str, Callable[[], object]] = {
        name: partial(take_steps, step, supply, steps, device) for name, supply in supplies.items()
    }
    for call in rounds.values():  # warms up
        call()
    timings = side_by_side(rounds, repeats)
    shares = {name: waiting_share(timings, name) for name in loaders}
    return _body(timings, shares, repeats, steps), {
        "goals": {name: PLACES[name][1] for name in loaders},
        "steps": steps,
        "waiting_shares": shares,
        "timings": {name: timing.values() for name, timing in timings.items()},
    }


def waiting_share(timings: Mapping[str, Timing], name: str) -> float:
    """How much longer than with batches in hand a step takes: the median of the rounds."""
    return times_as_fast(timings[IN_HAND].wall, timings[name].wall) - 1


def _body(
    timings: Mapping[str, Timing], shares: Mapping[str, float], repeats: int, steps: int
) -> str:
    rows = [
        [
            name,
            f"{1e3 * timing.wall_median / steps:.2f}",
            f"{shares[name]:+.2%}" if name in shares else "-",
        ]
        for name, timing in timings.items()
    ]
    goals = ", ".join(f"{PLACES[name][1]:.0%} with {name}" for name in shares)
    about = (
        f"{repeats} rounds of {steps} steps each, in turns; the median round, and the median of the"
        " rounds' ratios to batches in hand."
    )
    return (
        f"{paragraph(about)}\n\n{table(['', 'ms/step', 'longer by'], rows)}\n\nGoal: under {goals}."
    )
