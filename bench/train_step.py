"""How fast a training step is: ours against nanoGPT's compiled one.

`python -m bench.train_step --nanogpt FOLDER` times both on one GPU, in one process, in turns, on
the same random tokens already there, for each `--dropout`. Ours is what train.py runs: the model,
the optimizers and `TrainStep` of the configuration, with AdamW as in nanoGPT, and with Muon.

`--data` instead compares steps fed by the real loader with steps on batches already in hand, and
`--numerics STEPS` the losses of the fast step with those of a plain fp32 model.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.measure import (
    Timing,
    bench_parser,
    environment_of,
    paragraph,
    positive,
    publish,
    side_by_side,
    table,
    times_as_fast,
)
from bench.nanogpt import PEER, add_options, synchronize
from bench.random_tokens import config_with_data
from bench.train_loading import compare_loading
from bench.train_numerics import compare_losses
from bench.training_steps import Step, nanogpt, ours, take_steps
from model import create_model
from utils.cli import config_from, run_script
from utils.compile_cache import use_compile_cache
from utils.config import Config
from utils.config_file import override
from utils.device import choose_device, memory_errors, release_memory
from utils.terminal import say
from utils.throughput import flops_per_token, peak_tokens_per_second

GOAL = 1.25  # times nanoGPT
PACKAGES = ("torch", "triton", "numpy")
BATCHES = 8  # different ones, in turns
WARM_UP_STEPS = 5  # beside the first
DATASET_TOKENS = 4_000_000  # random ones, where no dataset is prepared


class Measured(NamedTuple):
    """One contender: what its start took, and its time in each round of `steps` steps."""

    first_seconds: float  # from making it to the end of its first step
    memory_bytes: int  # the most that it held; 0 where the device does not tell
    timing: Timing
    steps: int

    @property
    def step_ms(self) -> float:
        return 1e3 * self.timing.wall_median / self.steps


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = config_from(args)
    environment = environment_of(PACKAGES, with_gpu=True)
    device = choose_device(args.device)
    use_compile_cache(config.paths.compile_cache_dir)
    title, part = "Training step", ""
    with tempfile.TemporaryDirectory() as folder:
        if args.numerics:
            title, part = "Losses of the fast training step against plain fp32", "numerics"
            made = config_with_data(config, Path(folder), DATASET_TOKENS)
            body, values = compare_losses(made, device, args.numerics)
        elif args.data:
            title, part = "Waiting for data while training", "data"
            made = config_with_data(config, Path(folder), DATASET_TOKENS)
            body, values = compare_loading(made, device, args.repeats, args.steps)
        else:
            body, values = compare_speed(args, config, device)
    publish(args, "train_step", title, body, values, environment, part)


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("train_step", "Compare training steps: ours, nanoGPT's.", repeats=5)
    add_options(parser)
    parser.add_argument("--device", help="cuda (default), cuda:N or cpu")
    parser.add_argument(
        "--dropout", type=float, nargs="+", default=[0.0, 0.1], help="(default: 0 and 0.1)"
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=["adamw", "muon"],
        default=["adamw", "muon"],
        help="ours to time (default: both)",
    )
    parser.add_argument("--steps", type=positive, default=20, help="steps of a round (default: 20)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--numerics", type=positive, metavar="STEPS", help="compare losses with plain fp32 instead"
    )
    modes.add_argument(
        "--data", action="store_true", help="compare with steps that wait for no data instead"
    )
    return parser


def compare_speed(
    args: argparse.Namespace, config: Config, device: torch.device
) -> tuple[str, dict[str, object]]:
    """The section and the values for each dropout."""
    if not args.nanogpt:
        say("without --nanogpt there is no peer: only our own steps are timed", "yellow")
    sections, values = [], []
    for dropout in args.dropout:
        shaped = override(config, {"model.dropout": dropout, "model.attention_dropout": dropout})
        figures = _measure(args, shaped, device)
        torch.compiler.reset()
        release_memory(device)
        text = f"Dropout {dropout:g}:\n\n{_table(figures, shaped, device)}"
        say(text)
        sections.append(text)
        values.append({"dropout": dropout, "contenders": _values(figures)})
    rows, window = config.training.batch_size, config.model.max_position_embeddings
    about = (
        f"Batches of {rows} x {window:,} random tokens, already on the device; {args.repeats}"
        f" rounds of {args.steps} steps each, in turns, by the median round; the ratio is the"
        " median of the rounds' ratios. Memory is the most that each held."
    )
    body = "\n\n".join([paragraph(about), *sections])
    return body, {"goal": GOAL, "rows": rows, "window": window, "results": values}


def _measure(args: argparse.Namespace, config: Config, device: torch.device) -> dict[str, Measured]:
    """Every contender, all alive at once, in turns."""
    window, vocab_size = config.model.max_position_embeddings, args.nanogpt_vocab
    builders: dict[str, Callable[[], Step]] = {}
    if args.nanogpt:
        builders[PEER] = partial(nanogpt, args.nanogpt, config, device, window, vocab_size)
    for name in args.optimizers:
        made = override(config, {"training.optimizer": name})
        builders[f"ours, {name}"] = partial(ours, made, device, window)
    size = (BATCHES, config.training.batch_size, window + 1)
    batches = list(torch.randint(config.model.vocab_size, size, device=device))
    hint = "Lower training.batch_size, or time fewer at once with --optimizers."
    with memory_errors("the models that are compared, all at once", hint):
        return time_steps(builders, batches, device, args.repeats, args.steps)


def time_steps(
    builders: Mapping[str, Callable[[], Step]],
    batches: Sequence[Tensor],
    device: torch.device,
    repeats: int,
    steps: int,
) -> dict[str, Measured]:
    """Make each contender, warm it up, and then time all in turns, `steps` steps a round."""
    rounds: dict[str, Callable[[], object]] = {}
    starts: dict[str, tuple[float, int]] = {}
    for name, build in builders.items():
        held_bytes = _start_counting(device)
        began = time.perf_counter()
        step = build()
        step(batches[0])
        synchronize(device)
        first_seconds = time.perf_counter() - began
        say(f"{name}: {first_seconds:.1f} s to the end of the first step")
        supply = itertools.cycle(batches)
        take_steps(step, supply, WARM_UP_STEPS, device)
        starts[name] = (first_seconds, _most_held_bytes(device) - held_bytes)
        rounds[name] = partial(take_steps, step, supply, steps, device)
    timings = side_by_side(rounds, repeats)
    return {name: Measured(*starts[name], timing, steps) for name, timing in timings.items()}


def _start_counting(device: torch.device) -> int:
    """Bytes held now; the peak starts anew."""
    release_memory(device)
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _most_held_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _table(figures: Mapping[str, Measured], config: Config, device: torch.device) -> str:
    window = config.model.max_position_embeddings
    tokens = config.training.batch_size * window
    parameters = create_model(config).parameter_count()
    peak = peak_tokens_per_second(config.model, parameters, window, device)
    ratios = _ratios(figures)
    rows = []
    for name, found in figures.items():
        rate = 1e3 * tokens / found.step_ms
        rows.append(
            [
                name,
                f"{found.first_seconds:.1f}",
                f"{found.step_ms:.1f}",
                f"{rate / 1e3:.1f}",
                f"{rate / peak:.1%}" if peak else "-",
                f"{found.memory_bytes / 2**30:.1f}" if found.memory_bytes else "-",
                f"{ratios[name]:.3f} x" if ratios else "-",
            ]
        )
    header = ["", "first step, s", "ms/step", "thousand tokens/s", "MFU", "GiB", "to nanoGPT"]
    reached = "; ".join(f"{ratio:.3f} x ({name})" for name, ratio in ratios.items() if name != PEER)
    flops = flops_per_token(config.model, parameters, window)
    return (
        f"{table(header, rows)}\n\n{parameters:,} parameters, {flops / 1e6:,.0f} MFLOP a token."
        f" Goal: {GOAL:g} x nanoGPT. Reached: {reached or 'not compared'}."
    )


def _ratios(figures: Mapping[str, Measured]) -> dict[str, float]:
    """How many times as fast as nanoGPT; empty without it."""
    if PEER not in figures:
        return {}
    peer = figures[PEER].timing.wall
    return {name: times_as_fast(found.timing.wall, peer) for name, found in figures.items()}


def _values(figures: Mapping[str, Measured]) -> dict[str, object]:
    ratios = _ratios(figures)
    return {
        name: {
            "first_seconds": found.first_seconds,
            "memory_bytes": found.memory_bytes,
            "step_ms": found.step_ms,
            "ratio": ratios.get(name),
            **found.timing.values(),
        }
        for name, found in figures.items()
    }


if __name__ == "__main__":
    run_script(main)
