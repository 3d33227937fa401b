"""What a run that may be cut costs: exactness of resuming, standing still to save, starting.

`python -m bench.resume` trains through train.py, in processes of its own, on the configuration's
dataset, or on random tokens where none is prepared. A cut is a SIGTERM in the middle of the run.
Each way to train is a result of its own, told as soon as it is there: four starts of train.py.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from bench.measure import bench_parser, environment_of, paragraph, positive, publish, table
from bench.random_tokens import config_with_data
from bench.run_difference import difference
from bench.training_runs import Launch, write_config
from utils.cli import config_from, run_script
from utils.config import Config
from utils.errors import TrainingError, UsageError
from utils.files import format_bytes
from utils.metrics import STEP_MS
from utils.runs import LATEST
from utils.terminal import say, say_error

PACKAGES = ("torch", "triton", "numpy")
SAVING_GOAL, STARTING_GOAL_SECONDS = 0.05, 20.0
PARTS = ["exact", "saving", "start"]
DATASET_TOKENS = 4_000_000
NEVER = 10**9
SETTLING_STEPS = 5  # left out of step times
SAVE_INTERVAL_STEPS = 100
NOT_SAVING = "not saving"
VALIDATION_BATCHES = 2


class Mode(NamedTuple):
    """A way to train that may or may not be exact."""

    settings: dict[str, object]
    is_deterministic: bool = False


MODES = {
    "default": Mode({}),
    "compile off": Mode({"training.compile": False}),
    "graphs off": Mode({"training.cuda_graphs": False}),
    "deterministic": Mode({}, True),
    "deterministic, compile off": Mode({"training.compile": False}, True),
}


class Finding(NamedTuple):
    """One result: its section and its values."""

    title: str
    body: str
    values: dict[str, object]


Measure = Callable[[argparse.Namespace, Config, Path], Finding]


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    measures = _measures(args)
    if "saving" in measures and args.save_steps < 2 * SAVE_INTERVAL_STEPS:
        raise UsageError(
            f"--save-steps {args.save_steps}: the first save is followed by too few steps",
            f"Take {2 * SAVE_INTERVAL_STEPS} or more.",
        )
    environment = environment_of(PACKAGES, args.commit, with_gpu=True)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        config = config_with_data(config_from(args), Path(name) / "data", DATASET_TOKENS)
        for part, measure in measures.items():
            try:
                title, body, values = measure(args, config, Path(name))
            except TrainingError as error:
                failed.append(part)
                say_error(f"{part}: {error}")
            else:
                publish(args, "resume", title, body, values, environment, part)
    if failed:
        raise TrainingError(f"not measured: {'; '.join(failed)}", "What went wrong stands above.")


def _measures(args: argparse.Namespace) -> dict[str, Measure]:
    """What is asked for, by the name of its section."""
    found: dict[str, Measure] = {}
    for part in args.only:
        if part == "exact":
            found |= {f"exact {mode}": partial(compare_resuming, mode) for mode in args.modes}
        else:
            found[part] = {"saving": measure_saving, "start": measure_starting}[part]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("resume", "Measure resuming, saving and starting.", repeats=None)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument(
        "--modes", nargs="+", choices=list(MODES), default=list(MODES), help="(default: all)"
    )
    parser.add_argument(
        "--steps", type=positive, default=80, help="of a run to resume (default: 80)"
    )
    parser.add_argument(
        "--save-steps", type=positive, default=400, help="of a run that saves (default: 400)"
    )
    return parser


def launch(
    args: argparse.Namespace,
    config: Config,
    folder: Path,
    settings: Mapping[str, object],
    is_deterministic: bool = False,
) -> Launch:
    """train.py with every step logged, validating only at both ends, and never saving between."""
    quiet = {
        "training.epochs": NEVER,
        "training.log_interval_steps": 1,
        "training.metrics_window_steps": 1,
        "training.validation_interval_epochs": float(NEVER),
        "training.max_validation_batches": VALIDATION_BATCHES,
        "training.checkpoint_interval_steps": NEVER,
        "training.keep_step_checkpoints": 1,
        "training.sample_prompts": [],
    }
    write_config(config, folder, {**quiet, **settings})
    return Launch(folder, args.device, is_deterministic=is_deterministic)


def compare_resuming(mode: str, args: argparse.Namespace, config: Config, folder: Path) -> Finding:
    """Once through, once more, and cut and resumed; are they the same to the bit?"""
    cut = max(args.steps // 4, 1)
    settings = {
        **MODES[mode].settings,
        "training.max_steps": args.steps,
        "training.checkpoint_interval_steps": cut,
    }
    with tempfile.TemporaryDirectory(dir=folder) as place:

        def start(name: str) -> Launch:
            return launch(args, config, Path(place) / name, settings, MODES[mode].is_deterministic)

        first, second, third = start("first").run(), start("second").run(), start("third")
        cut_step = third.run(stop_after=cut).last_checkpoint().step
        again, resumed = difference(first, second), difference(first, third.run(is_resumed=True))
    step_ms = median(record[STEP_MS] for record in first.steps()[SETTLING_STEPS:])
    about = (
        f"{args.steps} steps of {step_ms:.1f} ms, cut by SIGTERM after step {cut_step} and taken to"
        f" their end by `--resume`, against the same without a cut: {resumed}. Without a cut, once"
        f" more: {again}. Compared: weights, optimizer and random state, losses and gradient norms."
    )
    if MODES[mode].is_deterministic:
        about += " Deterministic is torch.use_deterministic_algorithms."
    values: dict[str, object] = {
        "step_ms": step_ms,
        "cut_after_step": cut_step,
        "again": again._asdict(),
        "resumed": resumed._asdict(),
    }
    return Finding(f"Resuming, {mode}", paragraph(about), values)


def measure_saving(args: argparse.Namespace, config: Config, folder: Path) -> Finding:
    """How much longer training takes for a save at every 100th step."""
    spans: dict[str, list[float]] = {}
    size_bytes = 0
    for name, interval in (("saving", SAVE_INTERVAL_STEPS), (NOT_SAVING, NEVER)):
        settings = {
            "training.max_steps": args.save_steps,
            "training.checkpoint_interval_steps": interval,
        }
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run = launch(args, config, Path(place), settings).run()
            size_bytes = (run.run_folder / LATEST).stat().st_size
        times = [record["time"] for record in run.steps()]
        spans[name] = [after - before for before, after in pairwise(times)]
    usual = median(spans[NOT_SAVING][SETTLING_STEPS:])
    extra = {name: extra_seconds(found, usual) for name, found in spans.items()}
    lost = mean(extra["saving"]) - mean(extra[NOT_SAVING])
    share = lost / (SAVE_INTERVAL_STEPS * usual)
    medians = {name: median(found[SETTLING_STEPS:]) for name, found in spans.items()}
    rows = [
        [name, f"{1e3 * medians[name]:.1f}", " ".join(f"{seconds:.3f}" for seconds in extra[name])]
        for name in extra
    ]
    about = (
        f"Saving {format_bytes(size_bytes)} at every {SAVE_INTERVAL_STEPS}th step; how much longer"
        f" than {SAVE_INTERVAL_STEPS} times the median step without saving the"
        f" {SAVE_INTERVAL_STEPS} steps after each such step take, in seconds."
    )
    text = (
        f"{paragraph(about)}\n\n"
        f"{table(['', 'median ms/step', 'seconds longer'], rows)}\n\n"
        f"A save costs {lost:.3f} s, {share:.2%} of its interval. Goal: at most {SAVING_GOAL:.0%}."
    )
    values = {
        "checkpoint_bytes": size_bytes,
        "seconds_longer": extra,
        "median_seconds": medians,
        "share": share,
        "goal": SAVING_GOAL,
    }
    return Finding("Saving while training", text, values)


def extra_seconds(spans: Sequence[float], usual: float) -> list[float]:
    """For each whole stretch of 100 steps behind a 100th: seconds beyond as many `usual` ones.

    `spans` are the seconds of steps 2, 3, 4 ...
    """
    size = SAVE_INTERVAL_STEPS
    starts = range(size - 1, len(spans) - size + 1, size)
    return [sum(spans[start : start + size]) - size * usual for start in starts]


def measure_starting(args: argparse.Namespace, config: Config, folder: Path) -> Finding:
    """Seconds from the start of train.py to the end of its first step, without and with a cache."""
    seconds = {}
    batches = config.training.max_validation_batches
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name in ("empty compile cache", "warm compile cache"):
            settings = {
                "training.max_steps": 3,
                "training.max_validation_batches": batches,
                "training.sample_prompts": config.training.sample_prompts,
                "paths.compile_cache_dir": str(Path(place) / "cache"),
            }
            run = launch(args, config, Path(place) / name.split()[0], settings).run()
            seconds[name] = run.steps()[0]["time"] - run.began
            say(f"{name}: {seconds[name]:.1f} s to the end of the first step; what it said, when:")
            for when, line in run.lines:
                say(f"  {when - run.began:6.1f} s  {line}", "dim")
    rows = [[name, f"{found:.1f}"] for name, found in seconds.items()]
    about = (
        "From the start of train.py to the end of the first step, with a validation of"
        f" {'all' if batches is None else f'at most {batches:,}'} batches and the configured"
        " samples before it."
    )
    text = (
        f"{paragraph(about)}\n\n{table(['', 'seconds'], rows)}\n\n"
        f"Goal: {STARTING_GOAL_SECONDS:g} s with a warm cache."
    )
    values: dict[str, object] = {
        "seconds": seconds,
        "validation_batches": batches,
        "goal_seconds": STARTING_GOAL_SECONDS,
    }
    return Finding("Starting to train", text, values)


if __name__ == "__main__":
    run_script(main)
