"""Whether the fast training step learns what plain arithmetic learns: train_step.py --numerics.

The same initial weights take the same batches with the same optimizer, without dropout: through
the step that train.py takes, through the model uncompiled in bf16, and through the model in fp32
with stock kernels, TF32 off. How far two runs part without being wrong is shown by a second fp32
run whose initial weights are rounded to bf16.
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
from utils.optimizer import Optimizers, build_optimizers
from utils.scheduler import Scheduler
from utils.terminal import Progress, say
from utils.training.step import TrainStep

SHOWN_EVERY = 20  # steps
WARM_UP_SHARE = 0.5  # of the steps: a spike early on would part any two runs for good


class Way(NamedTuple):
    """One way to train."""

    precision: str
    is_fast: bool  # as train.py does it: compiled, own kernels, graphs
    is_nudged: bool = False  # initial weights rounded to bf16


PLAIN = "plain fp32"
WAYS = {
    PLAIN: Way("fp32", is_fast=False),
    "fast step": Way("bf16", is_fast=True),
    "plain bf16": Way("bf16", is_fast=False),
    "fp32, nudged": Way("fp32", is_fast=False, is_nudged=True),
}


def compare_losses(
    config: Config, device: torch.device, steps: int
) -> tuple[str, dict[str, object]]:
    """Train each way for `steps` steps on the dataset; the section and the values."""
    config = override(config, {"model.dropout": 0.0, "model.attention_dropout": 0.0})
    cpu = torch.device("cpu")
    loader, _, info = create_simple_train_val_dataloaders(config=config, device=cpu)
    batches = [batch.clone() for batch in itertools.islice(endless(loader, cpu), steps)]
    losses = {}
    for name, way in WAYS.items():
        with memory_errors(f"training in {name}", "Lower training.batch_size."):
            losses[name] = train(config, way, device, batches)
        torch.compiler.reset()
        release_memory(device)
        say(f"{name}: loss {losses[name][0]:.4f} to {losses[name][-1]:.4f}")
    distances = {name: distance(losses, name) for name in WAYS if name != PLAIN}
    values = {"steps": steps, "losses": losses, "mean_distances": distances}
    rows, window = config.training.batch_size, info["window"]
    about = (
        f"{steps} steps of {rows} x {window} tokens, {config.training.optimizer}, no dropout, the"
        f" same initial weights and batches."
    )
    return f"{paragraph(about)}\n\n{_table(losses, distances)}", values


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
    if way.is_nudged:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
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


def distance(losses: Mapping[str, Sequence[float]], name: str) -> float:
    """The mean distance of a way's losses from those of plain fp32."""
    pairs = zip(losses[name], losses[PLAIN], strict=True)
    return statistics.mean(abs(loss - plain) for loss, plain in pairs)


def _table(losses: Mapping[str, Sequence[float]], distances: Mapping[str, float]) -> str:
    count = len(losses[PLAIN])
    shown = sorted({1, *range(SHOWN_EVERY, count + 1, SHOWN_EVERY), count})
    rows = [
        [
            str(step),
            f"{losses[PLAIN][step - 1]:.4f}",
            *(f"{losses[name][step - 1] - losses[PLAIN][step - 1]:+.4f}" for name in distances),
        ]
        for step in shown
    ]
    rows.append(["mean distance", "", *(f"{value:.4f}" for value in distances.values())])
    header = ["step", f"loss, {PLAIN}", *(f"{name} - {PLAIN}" for name in distances)]
    return table(header, rows)
