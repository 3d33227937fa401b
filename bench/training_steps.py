"""Training steps as functions of a batch: what the benches of the training step share."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench.nanogpt import NanoGPT, synchronize
from dataloader import WindowLoader
from model import create_model
from utils.config import Config
from utils.config_file import override
from utils.device import seed_everything
from utils.optimizer import build_optimizers
from utils.training.step import TrainStep

Step = Callable[[Tensor], float | None]  # takes ids (rows, at least window); may tell the loss


def ours(config: Config, device: torch.device, window: int) -> Step:
    """Our training step, as train.py makes it, of one batch."""
    config = override(config, {"training.gradient_accumulation_steps": 1})
    settings = config.training
    seed_everything(settings.seed)
    model = create_model(config).to(device)
    if device.type == "cuda" and settings.compile:
        model.compile_for_training()
    step = TrainStep(model, build_optimizers(model, settings), device, settings)
    step.prepare(settings.batch_size, window)

    def take(ids: Tensor) -> float:
        loss, _ = step.gradients([ids[:, :window].contiguous()])
        step.apply()
        return loss

    return take


def nanogpt(
    folder: Path, config: Config, device: torch.device, window: int, vocab_size: int | None
) -> Step:
    """nanoGPT's training step of one batch (rows, window + 1)."""
    made = NanoGPT(folder, config, device, config.model.dropout, vocab_size)

    def take(ids: Tensor) -> None:
        made.step(ids[:, :window].contiguous(), ids[:, 1 : window + 1].contiguous())

    return take


def take_steps(step: Step, supply: Iterator[Tensor], steps: int, device: torch.device) -> None:
    """So many steps, to the end of the last."""
    for batch in itertools.islice(supply, steps):
        step(batch)
    synchronize(device)


def endless(loader: WindowLoader, device: torch.device) -> Iterator[Tensor]:
    """A loader's batches on `device`, epoch after epoch, as train.py takes them."""
    for epoch in itertools.count():
        loader.set_position(epoch, 0)
        for batch in loader:
            yield batch.to(device, non_blocking=True)
