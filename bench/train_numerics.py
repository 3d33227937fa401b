"""Whether the fast training step learns what plain arithmetic learns: train_step.py --numerics.

The same initial weights take the same batches with the same optimizer, without dropout: through
the step that train.py takes, through the model uncompiled in bf16, and through the model in fp32
with stock kernels, TF32 off. How far two runs part without being wrong is shown by further fp32
runs whose initial weights are nudged, each by other random numbers.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.measure import paragraph, table
from bench.training_steps import endless
from dataloader import create_simple_train_val_dataloaders
from model import LanguageModel, create_model
from utils.config import Config, TrainingConfig
from utils.config_file import override
from utils.device import autocast, memory_errors, release_memory, seed_everything
from utils.errors import PipelineError
from utils.optimizer import Optimizers, build_optimizers
from utils.scheduler import Scheduler
from utils.terminal import Progress, say, say_error
from utils.training.step import TrainStep

WINDOW_STEPS = 20
WARM_UP_SHARE = 0.5  # of the steps: a spike early on would part any two runs for good
NUDGE = torch.finfo(torch.bfloat16).eps / 2  # at most, relative: what rounding to bf16 does


class Way(NamedTuple):
    """One way to train."""

    precision: str
    is_fast: bool  # as train.py does it: compiled, own kernels, graphs
    nudge_seed: int | None = None  # of what initial weights are nudged by


PLAIN, FAST = "plain fp32", "fast step"
WAYS = {
    PLAIN: Way("fp32", is_fast=False),
    FAST: Way("bf16", is_fast=True),
    "fp32, nudged": Way("fp32", is_fast=False, nudge_seed=1),
    "fp32, nudged again": Way("fp32", is_fast=False, nudge_seed=2),
    "plain bf16": Way("bf16", is_fast=False),
}
NUDGED = [name for name, way in WAYS.items() if way.nudge_seed is not None]


def compare_losses(
    config: Config, device: torch.device, steps: int
) -> tuple[str, dict[str, object]]:
    """Train each way for `steps` steps on the dataset; the section and the values."""
    config = override(config, {"model.dropout": 0.0, "model.attention_dropout": 0.0})
    cpu = torch.device("cpu")
    loader, _, info = create_simple_train_val_dataloaders(config=config, device=cpu)
    batches = [batch.clone() for batch in itertools.islice(endless(loader, cpu), steps)]
    losses: dict[str, list[float]] = {}
    for name, way in WAYS.items():
        try:
            with memory_errors(f"training in {name}", "Lower training.batch_size."):
                losses[name] = train(config, way, device, batches)
        except (PipelineError, RuntimeError) as error:
            if name == PLAIN:
                raise
            say_error(f"{name} is left out: {error}")
            continue
        finally:
            torch.compiler.reset()
            release_memory(device)
        gaps = distances(losses, name)
        say(
            f"{name}: loss {losses[name][0]:.4f} to {losses[name][-1]:.4f}; from {PLAIN}"
            f" {statistics.mean(gaps):.2e} in the mean, {max(gaps):.2e} at most"
        )
    return _body(config, losses, info["window"]), {
        "steps": steps,
        "losses": losses,
        "mean_distances": {
            name: statistics.mean(distances(losses, name)) for name in losses if name != PLAIN
        },
        "window_steps": WINDOW_STEPS,
        "largest_distances": {name: largest(losses, name) for name in losses if name != PLAIN},
    }


def train(config: Config, way: Way, device: torch.device, batches: Sequence[Tensor]) -> list[float]:
    """The loss of each step."""
    changes = {
        "training.precision": way.precision,
        "training.gradient_accumulation_steps": 1,
        "training.cuda_graphs": way.is_fast and config.training.cuda_graphs,
    }
    settings = override(config, changes).training
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    seed_everything(settings.seed)
    model = create_model(config)
    if way.nudge_seed is not None:
        nudge(model, way.nudge_seed)
    model.to(device)
    optimizers = build_optimizers(model, settings)
    scheduler = Scheduler(
        optimizers,
        peak=settings.peak_learning_rate,
        minimum=settings.min_learning_rate,
        warmup_steps=round(WARM_UP_SHARE * len(batches)),
        total_steps=len(batches),
    )
    take = fast_step if way.is_fast else plain_step
    step = take(model, optimizers, device, settings, batches[0].size(1))
    losses = []
    with Progress("Training", len(batches), "steps") as progress:
        for batch in batches:
            losses.append(step(batch.to(device)))
            scheduler.step()
            progress.advance()
    return losses


def nudge(model: LanguageModel, seed: int) -> None:
    """Change every weight at random, about as far as rounding it to bf16 would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.empty_like(parameter.data).uniform_(-NUDGE, NUDGE, generator=generator)
        parameter.data.mul_(1 + noise)


def fast_step(
    model: LanguageModel,
    optimizers: Optimizers,
    device: torch.device,
    settings: TrainingConfig,
    window: int,
) -> Callable[[Tensor], float]:
    """The step that train.py takes."""
    if device.type == "cuda" and settings.compile:
        model.compile_for_training()
    step = TrainStep(model, optimizers, device, settings)
    step.prepare(settings.batch_size, window)

    def take(batch: Tensor) -> float:
        loss, _ = step.gradients([batch])
        step.apply()
        return loss

    return take


def plain_step(
    model: LanguageModel,
    optimizers: Optimizers,
    device: torch.device,
    settings: TrainingConfig,
    window: int,  # noqa: ARG001
) -> Callable[[Tensor], float]:
    """The model as it is, torch's own loss, backward and clipping."""

    def take(batch: Tensor) -> float:
        with autocast(device, settings.precision):
            loss: Tensor = model(batch, labels=batch)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizers.step()
        optimizers.zero_grad()
        return loss.item()

    return take


def distances(losses: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """How far the loss of each step is from that of plain fp32."""
    pairs = zip(losses[name], losses[PLAIN], strict=True)
    return [abs(loss - plain) for loss, plain in pairs]


def largest(losses: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """The largest distance in each window of steps; the last window may be shorter."""
    found = distances(losses, name)
    starts = range(0, len(found), WINDOW_STEPS)
    return [max(found[start : start + WINDOW_STEPS]) for start in starts]


def _body(config: Config, losses: Mapping[str, Sequence[float]], window: int) -> str:
    count, rows = len(losses[PLAIN]), config.training.batch_size
    about = (
        f"{count} steps of {rows} x {window} tokens, {config.training.optimizer}, no dropout, the"
        f" same initial weights and batches; the learning rate rises for {WARM_UP_SHARE:.0%} of the"
        f" steps. How far the losses are from those of {PLAIN} (loss of the last step shown), at"
        f" most, in windows of {WINDOW_STEPS} steps. Nudged are initial weights, each at random by"
        f" up to {NUDGE:.4f} of itself, as rounding to bf16 does: two runs may part so far without"
        " being wrong."
    )
    means = {name: statistics.mean(distances(losses, name)) for name in losses if name != PLAIN}
    text = f"{paragraph(about)}\n\n{_table(losses, means)}"
    noise = [means[name] for name in NUDGED if name in means]
    if noise and FAST in means:
        text += (
            f"\n\nMean distance of the {FAST}: {means[FAST]:.2e}; of nudged runs:"
            f" {min(noise):.2e} to {max(noise):.2e}."
        )
    return text


def _table(losses: Mapping[str, Sequence[float]], means: Mapping[str, float]) -> str:
    plain = losses[PLAIN]
    peaks = {name: largest(losses, name) for name in means}
    rows = []
    for number, first in enumerate(range(1, len(plain) + 1, WINDOW_STEPS)):
        last = min(first + WINDOW_STEPS - 1, len(plain))
        found = [f"{peaks[name][number]:.4f}" for name in means]
        rows.append([f"{first} to {last}", f"{plain[last - 1]:.4f}", *found])
    rows.append(["mean of all", "", *(f"{value:.4f}" for value in means.values())])
    return table(["steps", f"loss, {PLAIN}", *means], rows)
