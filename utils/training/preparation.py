"""What a step needs before the first: room for the largest batch, compiled code, its graphs."""

import time
from functools import partial

import torch
from torch import Tensor

from utils.compile_cache import is_warm, mark_warm, use_compile_cache
from utils.config import Config
from utils.device import autocast, memory_errors
from utils.evaluation import evaluate
from utils.terminal import format_seconds, say
from utils.training.dry_run import ensure_batch_fits
from utils.training.step import TrainStep


def prepare(step: TrainStep, config: Config, window: int) -> None:
    """Make `step` ready for batches of windows as configured; no state of the run moves.

    On a GPU this takes a while, and says so. Raises DeviceError, naming the largest batch that
    fits, if memory is short.
    """
    settings, device = config.training, step.device
    rows = settings.batch_size
    if device.type != "cuda":
        step.prepare(rows, window)
        return
    began = time.perf_counter()
    use_compile_cache(config.paths.compile_cache_dir)
    shown = ("batch_size", "precision", "optimizer", "compile", "cuda_graphs")
    recipe = f"{config.model} {settings.model_dump(include=set(shown))} {window}"
    doing = "trying"
    if settings.compile:
        step.model.compile_for_training()  # type: ignore[operator]
        is_known = is_warm(recipe, device)
        doing = "loading compiled code and trying" if is_known else "compiling and trying"
    say(f"Start   {doing} a batch of {rows} x {window} tokens ...")
    try_rows = partial(try_batch, step, config.model.vocab_size, window)
    ensure_batch_fits(try_rows, rows, device, settings.gradient_accumulation_steps)
    with memory_errors(f"a step of {rows} x {window} tokens", "Lower training.batch_size."):
        step.prepare(rows, window)
        # Graphs keep their memory for good, so validation has to do with what they leave.
        validate(step, random_windows(step, config.model.vocab_size, rows, window))
    if settings.compile:
        mark_warm(recipe, device)
    say(f"        ready after {format_seconds(time.perf_counter() - began)}")


def try_batch(step: TrainStep, vocabulary: int, window: int, rows: int) -> None:
    """Forward, backward and validation of random windows; no state of the run moves."""
    settings = step.settings
    ids = random_windows(step, vocabulary, rows, window)
    is_real = rows == settings.batch_size  # other shapes are not worth compiling
    try:
        with torch.compiler.set_stance("default" if is_real else "force_eager"):
            with autocast(step.device, settings.precision):
                loss = step.model.loss(ids)  # type: ignore[operator]
            loss.backward()
        validate(step, ids)
    finally:
        step.model.train()
        step.optimizers.zero_grad()


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
