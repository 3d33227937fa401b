"""How fast a training step is: ours against nanoGPT's compiled one.

`python -m bench.train_step --nanogpt FOLDER` times both on one GPU, in one process, in turns, on
the same random tokens already there, for each `--dropout`. Ours is what train.py runs: the model,
the optimizers and `TrainStep` of the configuration, with AdamW as in nanoGPT, and with Muon. Each
dropout is a result of its own, told as soon as it is there; what fails is left out of it.

`--data` instead compares steps fed by the real loader with steps on batches already in hand, and
`--numerics STEPS` the losses of the fast step with those of a plain fp32 model.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from bench.measure import (
    bench_parser,
    environment_of,
    paragraph,
    positive,
    publish,
    table,
    times_as_fast,
)
from bench.nanogpt import PEER, add_options
from bench.random_tokens import config_with_data
from bench.step_timing import Measured, time_steps
from bench.train_loading import compare_loading
from bench.train_numerics import compare_losses
from bench.training_steps import Step, nanogpt, ours
from model import create_model
from utils.cli import config_from, run_script
from utils.compile_cache import use_compile_cache
from utils.config import Config
from utils.config_file import override
from utils.device import choose_device, release_memory
from utils.errors import TrainingError
from utils.terminal import say
from utils.throughput import flops_per_token, peak_tokens_per_second

GOAL = 1.25  # times nanoGPT
PACKAGES = ("torch", "triton", "numpy")
BATCHES = 8  # different ones, in turns
OPTIMIZERS = ["adamw", "muon"]
DATASET_TOKENS = 4_000_000  # random ones, where no dataset is prepared


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = config_from(args)
    environment = environment_of(PACKAGES, args.commit, with_gpu=True)
    device = choose_device(args.device)
    use_compile_cache(config.paths.compile_cache_dir)
    if not (args.numerics or args.data):
        compare_speed(args, config, device, environment)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = config_with_data(config, Path(folder), DATASET_TOKENS)
        if args.numerics:
            title, part = "Losses of the fast training step against plain fp32", "numerics"
            body, values = compare_losses(made, device, args.numerics)
        else:
            title, part = "Waiting for data while training", "data"
            body, values = compare_loading(made, device, args.repeats, args.steps)
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
        choices=OPTIMIZERS,
        default=OPTIMIZERS,
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
    args: argparse.Namespace, config: Config, device: torch.device, environment: dict[str, str]
) -> None:
    """Publish the figures of each dropout. Raises TrainingError in the end if anything failed."""
    if not args.nanogpt:
        say("without --nanogpt there is no peer: only our own steps are timed", "yellow")
    failed = []
    for dropout in args.dropout:
        shaped = override(config, {"model.dropout": dropout, "model.attention_dropout": dropout})
        figures, failures = _measure(args, shaped, device)
        failed += [f"{name} (dropout {dropout:g})" for name in failures]
        if figures:
            rows, window = config.training.batch_size, config.model.max_position_embeddings
            values = {
                **{"goal": GOAL, "rows": rows, "window": window, "dropout": dropout},
                **{"contenders": _values(figures), "failures": failures},
            }
            title, part = f"Training step, dropout {dropout:g}", f"dropout {dropout:g}"
            if args.optimizers != OPTIMIZERS:
                part += f" {' '.join(args.optimizers)}"
            body = _body(args, figures, failures, shaped, device)
            publish(args, "train_step", title, body, values, environment, part)
        torch.compiler.reset()
        release_memory(device)
    if failed:
        raise TrainingError(f"not measured: {', '.join(failed)}", "What went wrong stands above.")


def _measure(
    args: argparse.Namespace, config: Config, device: torch.device
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Every contender, all alive at once, in turns; and what went wrong with others."""
    window, vocab_size = config.model.max_position_embeddings, args.nanogpt_vocab
    builders: dict[str, Callable[[], Step]] = {}
    if args.nanogpt:
        builders[PEER] = partial(nanogpt, args.nanogpt, config, device, window, vocab_size)
    for name in args.optimizers:
        made = override(config, {"training.optimizer": name})
        builders[f"ours, {name}"] = partial(ours, made, device, window)
    size = (BATCHES, config.training.batch_size, window + 1)
    batches = list(torch.randint(config.model.vocab_size, size, device=device))
    return time_steps(builders, batches, device, args.repeats, args.steps)


def _body(
    args: argparse.Namespace,
    figures: Mapping[str, Measured],
    failures: Mapping[str, str],
    config: Config,
    device: torch.device,
) -> str:
    rows, window = config.training.batch_size, config.model.max_position_embeddings
    about = (
        f"Batches of {rows} x {window:,} random tokens, already on the device; {args.repeats}"
        f" rounds of {args.steps} steps each, in turns, by the median round; the ratio is the"
        " median of the rounds' ratios. Memory is the most that each held."
    )
    if failures:
        about += f" Failed, and left out: {', '.join(failures)}."
    return f"{paragraph(about)}\n\n{_table(figures, config, device)}"


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
                f"{found.step_ms:.1f}",
                f"{rate / 1e3:.1f}",
                f"{rate / peak:.1%}" if peak else "-",
                f"{found.memory_bytes / 2**30:.1f}" if found.memory_bytes else "-",
                f"{ratios[name]:.3f} x" if ratios else "-",
            ]
        )
    header = ["", "ms/step", "thousand tokens/s", "MFU", "GiB", "to nanoGPT"]
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
            "memory_bytes": found.memory_bytes,
            "step_ms": found.step_ms,
            "ratio": ratios.get(name),
            **found.timing.values(),
        }
        for name, found in figures.items()
    }


if __name__ == "__main__":
    run_script(main)
