"""nanoGPT as a peer: its model in our shape, its optimizer, its training recipe.

Its code is not part of this repository: `--nanogpt` names a folder with its model.py (Karpathy,
github.com/karpathy/nanoGPT). What follows is its train.py, without logging and checkpoints.

`python -m bench.nanogpt --nanogpt FOLDER` trains it on the configuration's dataset and writes a
JSON line for each stretch of steps and each validation, with the names that our own logs have.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure import positive
from dataloader import WindowLoader, create_simple_train_val_dataloaders
from utils.cli import config_from, run_script, script_parser
from utils.compile_cache import use_compile_cache
from utils.config import Config
from utils.device import autocast, choose_device
from utils.errors import UsageError
from utils.metrics import STEP_MS, VALIDATION_LOSS
from utils.scheduler import learning_rate_at
from utils.terminal import emit
from utils.windows import Ids

PEER = "nanoGPT"
MODULE_NAME = "nanogpt_model"
LOG_STEPS = 10
IGNORED = -1  # its cross-entropy's ignore_index

# Its recipe for this size, by its train.py and its advice on runs this short.
STEPS, WARMUP_STEPS = 1_600, 100
LEARNING_RATE, MIN_LEARNING_RATE = 6e-4, 6e-5
WEIGHT_DECAY, BETAS, MAX_NORM = 0.1, (0.9, 0.95), 1.0


def add_options(parser: argparse.ArgumentParser, is_required: bool = False) -> None:
    """--nanogpt and --nanogpt-vocab."""
    parser.add_argument(
        "--nanogpt",
        type=Path,
        metavar="PATH",
        required=is_required,
        help="folder with nanoGPT's model.py, the peer",
    )
    parser.add_argument(
        "--nanogpt-vocab",
        type=positive,
        metavar="N",
        help="rows of nanoGPT's embedding (default: model.vocab_size)",
    )


def load_module(folder: Path) -> ModuleType:
    """nanoGPT's model.py, imported. Raises UsageError if it is not there."""
    path = folder / "model.py"
    if not path.is_file():
        raise UsageError(f"--nanogpt {folder}: has no model.py", "Name a checkout of nanoGPT.")
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class NanoGPT:
    """nanoGPT of the configuration's shape, with biases, on `device`, ready to train.

    It is compiled where we would be: on a GPU unless `training.compile` is false. As in its
    train.py, bf16 is autocast and TF32 allowed.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        device: torch.device,
        dropout: float,
        vocab_size: int | None = None,
    ) -> None:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        module, shape = load_module(folder), config.model
        self.device, self.precision = device, config.training.precision
        with redirect_stdout(sys.stderr):  # it prints what it makes
            self.model: nn.Module = module.GPT(
                module.GPTConfig(
                    block_size=shape.max_position_embeddings,
                    vocab_size=vocab_size or shape.vocab_size,
                    n_layer=shape.num_layers,
                    n_head=shape.num_heads,
                    n_embd=shape.hidden_size,
                    dropout=dropout,
                    bias=True,
                )
            ).to(device)
            self.optimizer: torch.optim.Optimizer = self.model.configure_optimizers(
                WEIGHT_DECAY, LEARNING_RATE, BETAS, device.type
            )
        is_compiled = device.type == "cuda" and config.training.compile
        self.forward = torch.compile(self.model) if is_compiled else self.model

    def step(
        self, inputs: Tensor, targets: Tensor, following: Iterator[object] | None = None
    ) -> None:
        """One optimizer step on (B, T) ids; the next batch is prepared while the GPU works."""
        with autocast(self.device, self.precision):
            _, loss = self.forward(inputs, targets)
        if following is not None:
            next(following)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @torch.no_grad()
    def mean_loss(self, windows: Sequence[Tensor]) -> float:
        """The mean loss a token over batches (B, T), each token predicted from those before it.

        Uncompiled: another graph would take longer than all validations.
        """
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for batch in windows:
            ids = batch.to(self.device)
            targets = nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORED)
            with autocast(self.device, self.precision):
                _, loss = self.model(ids, targets)
            total += loss.double() * len(ids)
        self.model.train()
        return (total / sum(map(len, windows))).item()


def random_batches(
    stream: Ids, rows: int, length: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Its get_batch: inputs and targets (rows, length) from anywhere in the tokens, without end."""
    while True:
        starts = torch.randint(len(stream) - length, (rows,)).tolist()
        taken = np.stack([stream[start : start + length + 1] for start in starts])
        both = torch.from_numpy(taken.astype(np.int64))
        if device.type == "cuda":
            both = both.pin_memory().to(device, non_blocking=True)
        yield both[:, :-1].contiguous(), both[:, 1:].contiguous()


class Ahead(Iterator[tuple[Tensor, Tensor]]):
    """An iterator whose next item can be made before it is wanted."""

    def __init__(self, source: Iterator[tuple[Tensor, Tensor]]) -> None:
        self.source, self.item = source, next(source)

    def __next__(self) -> tuple[Tensor, Tensor]:
        self.item = next(self.source)
        return self.item


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first_windows(loader: WindowLoader, count: int, rows: int) -> list[Tensor]:
    """The first `count` windows of a loader of `rows` at a time: those that training validates on.

    Whole batches only, at least one.
    """
    return list(itertools.islice(loader, max(count // rows, 1)))


def train(
    peer: NanoGPT, stream: Ids, windows: Sequence[Tensor], rows: int, steps: int, every: int
) -> Iterator[dict[str, float]]:
    """Train by its recipe; yields a record for every LOG_STEPS steps and every validation.

    A stretch of steps is timed to the GPU's end; one that a validation cuts begins anew after it.
    """
    length, device = windows[0].size(1), peer.device
    batches = Ahead(random_batches(stream, rows, length, device))
    began, first = time.perf_counter(), 1
    for step in range(1, steps + 1):
        peer.set_learning_rate(
            learning_rate_at(step - 1, LEARNING_RATE, MIN_LEARNING_RATE, WARMUP_STEPS, steps)
        )
        peer.step(*batches.item, following=batches)
        if step % LOG_STEPS == 0:
            synchronize(device)
            milliseconds = 1e3 * (time.perf_counter() - began) / (step + 1 - first)
            yield {"step": step, "time": time.time(), STEP_MS: milliseconds}
            began, first = time.perf_counter(), step + 1
        if step % every == 0 or step == steps:
            loss = peer.mean_loss(windows)
            yield {"step": step, "time": time.time(), VALIDATION_LOSS: loss}
            began, first = time.perf_counter(), step + 1


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("Train nanoGPT by its own recipe on the configuration's dataset.")
    parser.prog = "python -m bench.nanogpt"
    add_options(parser, is_required=True)
    parser.add_argument("--device", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--steps", type=positive, default=STEPS)
    parser.add_argument("--every", type=positive, default=200, help="steps between validations")
    parser.add_argument("--windows", type=positive, default=1024, help="to validate on")
    args = parser.parse_args(arguments)
    config, device = config_from(args), choose_device(args.device)
    use_compile_cache(config.paths.compile_cache_dir)
    torch.manual_seed(args.seed)
    rows = config.training.batch_size
    train_loader, val_loader, _ = create_simple_train_val_dataloaders(config=config, device="cpu")
    peer = NanoGPT(args.nanogpt, config, device, config.model.dropout, args.nanogpt_vocab)
    stream: Ids = train_loader.windows.stream.numpy()
    windows = first_windows(val_loader, args.windows, rows)
    for record in train(peer, stream, windows, rows, args.steps, args.every):
        emit(json.dumps(record))


if __name__ == "__main__":
    run_script(main)
