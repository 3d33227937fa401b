"""What a step needs before the first: room for the largest batch, compiled code, its graphs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from utils.compile_cache import is_warm, mark_warm, use_compile_cache
from utils.config import Config
from utils.device import autocast, is_out_of_memory, memory_errors
from utils.errors import DeviceError
from utils.evaluation import evaluate
from utils.terminal import format_seconds, say
from utils.training.dry_run import ensure_batch_fits
from utils.training.step import TrainStep


def prepare(step: TrainStep, config: Config, window: int) -> None:
    """Make `step` ready for batches of windows as configured; no state of the run moves.

    On a GPU this takes a while, and says so. Raises DeviceError, naming the largest batch that
    fits, if memory is short, and if there is nothing to compile with.
    """
    settings, device = config.training, step.device
    rows = settings.batch_size
    if device.type != "cuda":
        step.prepare(rows, window)
        return
    began = time.perf_counter()
    shown = ("batch_size", "precision", "optimizer", "compile", "cuda_graphs")
    recipe = f"{config.model} {settings.model_dump(include=set(shown))} {window}"
    doing = "trying"
    if settings.compile:
        use_compile_cache(config.paths.compile_cache_dir)
        step.model.compile_for_training()  # type: ignore[operator]
        is_known = is_warm(recipe, device)
        doing = "loading compiled code and trying" if is_known else "compiling and trying"
    say(f"Start   {doing} a batch of {rows} x {window} tokens ...")
    try_rows = partial(try_batch, step, config.model.vocab_size, window)
    with compile_errors():
        ensure_batch_fits(try_rows, rows, device, settings.gradient_accumulation_steps)
        with memory_errors(f"a step of {rows} x {window} tokens", "Lower training.batch_size."):
            step.prepare(rows, window)
            # Graphs keep their memory for good, so validation has to do with what they leave.
            validate(step, random_windows(step, config.model.vocab_size, rows, window))
    if settings.compile:
        mark_warm(recipe, device)
    say(f"        ready after {format_seconds(time.perf_counter() - began)}")


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what torch.compile raises inside the block into DeviceError, unless memory ran out."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # its import takes seconds

        if not isinstance(error, TorchDynamoException) or is_out_of_memory(error):
            raise
        cause = getattr(error, "inner_exception", error)
        reason = str(cause).strip().partition("\n")[0]
        raise DeviceError(
            f"torch.compile does not work here: {type(cause).__name__}: {reason}",
            "It needs Triton, and a C compiler such as gcc. Without it training is slower:"
            " --set training.compile=false",
        ) from error


def try_batch(step: TrainStep, vocabulary: int, window: int, rows: int) -> None:
    """Forward, backward and validation of random windows; no state of the run moves.

    Graphs will keep a step's memory at its peak, so where they are on, validation has to do with
    the rest here, too.
    """
    settings = step.settings
    ids = random_windows(step, vocabulary, rows, window)
    is_real = rows == settings.batch_size  # other shapes are not worth compiling
    keeps_peak = step.device.type == "cuda" and settings.cuda_graphs
    kept = None
    try:
        with torch.compiler.set_stance("default" if is_real else "force_eager"):
            pass_through(step, ids)
            if keeps_peak:  # measured on a second pass: compiling takes memory of its own
                step.optimizers.zero_grad()
                torch.cuda.reset_peak_memory_stats(step.device)
                pass_through(step, ids)
                kept = freed_since_peak(step.device)
        validate(step, ids)
    finally:
        del kept
        step.model.train()
        step.optimizers.zero_grad()


def pass_through(step: TrainStep, ids: Tensor) -> None:
    """Forward and backward of `ids` (rows, window), which leaves gradients."""
    with autocast(step.device, step.settings.precision):
        loss = step.model.loss(ids)  # type: ignore[operator]
    loss.backward()


def freed_since_peak(device: torch.device) -> Tensor:
    """As many bytes as are in use less than at the peak, taken up again."""
    freed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return torch.empty(freed, dtype=torch.uint8, device=device)


def random_windows(step: TrainStep, vocabulary: int, rows: int, window: int) -> Tensor:
    """(rows, window) ids from a generator of their own, so that no random state moves."""
    generator = torch.Generator(step.device).manual_seed(0)
    return torch.randint(vocabulary, (rows, window), device=step.device, generator=generator)


def validate(step: TrainStep, ids: Tensor) -> None:
    """Validation of one batch, for the memory it takes and the code it compiles."""
    settings = step.settings
    vocabulary = int(ids.max()) + 1
    token_bytes = torch.ones(vocabulary, dtype=torch.int64, device=step.device)
    evaluate(step.model, [ids], step.device, settings.precision, settings.batch_size, token_bytes)
