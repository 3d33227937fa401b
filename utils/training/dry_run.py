"""The largest batch once before training, so that running out of memory is found at once."""

from collections.abc import Callable

import torch

from utils.device import (
    free_memory_bytes,
    is_out_of_memory,
    release_memory,
    restore_rng_state,
    rng_state,
)
from utils.errors import DeviceError
from utils.files import format_bytes
from utils.terminal import say

FINE_ROWS = 8  # up to here every number of rows is tried, above it the multiples


def ensure_batch_fits(
    try_rows: Callable[[int], None], rows: int, device: torch.device, accumulation: int = 1
) -> None:
    """Raise DeviceError unless `try_rows(rows)` has memory enough; it names what has.

    `try_rows` does everything to that many windows that training will: forward, backward,
    validation. It may run several times, with fewer rows, which it need not compile for, and
    drops the gradients even when it fails; random states are put back here. The settings that the
    error proposes keep the windows of a step (rows * accumulation) as they are, or as near as it
    goes.
    """
    states = rng_state(device)
    try:
        if _fits(try_rows, rows, device):
            return
        free_bytes = free_memory_bytes(device)
        say(f"A batch of {rows:,} windows does not fit; looking for the largest that does.")
        fitting = _largest_that_fits(try_rows, rows, device)
    finally:
        restore_rng_state(states, device)
    free = "" if free_bytes is None else f": {format_bytes(free_bytes)} of {device} are free for it"
    what = f"a batch of {rows:,} windows does not fit{free}"
    if not fitting:
        raise DeviceError(
            f"{what}, and neither does one window",
            "Use a larger GPU or a smaller model, or set dataloader.train_device to cpu.",
        )
    batch_size, steps = _same_step(rows * accumulation, fitting)
    kept = "as many" if batch_size * steps == rows * accumulation else f"{batch_size * steps:,}"
    raise DeviceError(
        f"{what}; the largest found to fit, uncompiled, is {fitting:,}",
        f"Set training.batch_size to {batch_size} and training.gradient_accumulation_steps to"
        f" {steps}: {kept} windows a step.",
    )


def _fits(try_rows: Callable[[int], None], rows: int, device: torch.device) -> bool:
    try:
        try_rows(rows)
        fits = True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    # Not in the handler: until its end the error holds the frames, and they hold the tensors.
    release_memory(device)
    return fits


def _largest_that_fits(try_rows: Callable[[int], None], rows: int, device: torch.device) -> int:
    """The largest candidate below `rows` that fits, or 0, by bisection: a try takes a while."""
    candidates: list[int] = [*range(min(FINE_ROWS, rows)), *range(FINE_ROWS, rows, FINE_ROWS)]
    low, high = 0, len(candidates)  # candidates[low] fits, those from `high` on do not
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(try_rows, candidates[middle], device):
            low = middle
        else:
            high = middle
    return candidates[low]


def _same_step(windows: int, fitting: int) -> tuple[int, int]:
    """Rows, at most `fitting`, and accumulation steps that make `windows` a step, or nearly.

    Exactly as many are worth up to twice the smallest number of steps.
    """
    fewest = -(-windows // fitting)
    for steps in range(fewest, 2 * fewest + 1):
        if windows % steps == 0:
            return windows // steps, steps
    return round(windows / fewest), fewest
