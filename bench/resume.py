"""What a run that may be cut costs: exactness of resuming, standing still to save, starting.

`python -m bench.resume` trains through train.py, in processes of its own, on the configuration's
dataset, or on random tokens where none is prepared. A cut is a SIGTERM in the middle of the run.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from bench.measure import bench_parser, environment_of, paragraph, positive, publish, table
from bench.random_tokens import config_with_data
from bench.run_difference import Difference, difference
from bench.training_runs import Launch, TrainingRun, write_config
from utils.cli import config_from, run_script
from utils.config import Config
from utils.errors import TrainingError
from utils.files import format_bytes
from utils.metrics import STEP_MS
from utils.runs import LATEST
from utils.terminal import say, say_error

PACKAGES = ("torch", "triton", "numpy")
SAVING_GOAL, STARTING_GOAL_SECONDS = 0.05, 20.0
DATASET_TOKENS = 4_000_000
NEVER = 10**9
SETTLING_STEPS = 5  # left out of step times
SAVE_INTERVAL_STEPS = 100
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


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    environment = environment_of(PACKAGES, with_gpu=True)
    parts: dict[str, Callable[[argparse.Namespace, Config, Path], tuple[str, object]]] = {
        "exact": compare_resuming,
        "saving": measure_saving,
        "start": measure_starting,
    }
    with tempfile.TemporaryDirectory() as name:
        config = config_with_data(config_from(args), Path(name) / "data", DATASET_TOKENS)
        sections, values = [], {}
        for part in args.only or parts:
            try:
                text, values[part] = parts[part](args, config, Path(name))
            except TrainingError as error:  # what was measured before it is not lost
                text = f"{part}: failed"
                say_error(error)
            say(text)
            sections.append(text)
    body = "\n\n".join(sections)
    title = "Resuming, saving, starting"
    publish(args, "resume", title, body, values, environment, "-".join(args.only or []))


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("resume", "Measure resuming, saving and starting.", repeats=None)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument(
        "--only", nargs="+", choices=["exact", "saving", "start"], help="(default: all)"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=list(MODES), default=list(MODES), help="(default: all)"
    )
    parser.add_argument(
        "--steps", type=positive, default=200, help="of a run to resume (default: 200)"
    )
    parser.add_argument(
        "--save-steps", type=positive, default=350, help="of a run that saves (default: 350)"
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


def compare_resuming(args: argparse.Namespace, config: Config, folder: Path) -> tuple[str, object]:
    """Each mode: once through, once more, and cut and resumed; are they the same to the bit?"""
    rows: list[list[str]] = []
    values: dict[str, object] = {}
    for name in args.modes:
        try:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                again, resumed, cut_step, step_ms = _resume(args, config, Path(place), MODES[name])
        except TrainingError as error:
            say_error(f"{name}: {error}")
            rows.append([name, "-", "-", "failed", "failed"])
            values[name] = {"error": str(error)}
            continue
        say(f"{name}: again {again}; resumed {resumed}; {step_ms:.1f} ms/step")
        rows.append([name, f"{step_ms:.1f}", f"{cut_step:,}", str(again), str(resumed)])
        values[name] = {
            "step_ms": step_ms,
            "cut_after_step": cut_step,
            "again": again._asdict(),
            "resumed": resumed._asdict(),
        }
    header = ["", "ms/step", "cut after step", "run twice", "cut and resumed"]
    about = (
        f"Runs of {args.steps} steps: one uninterrupted, one more, and one that SIGTERM cut and"
        " `--resume` took to its end, against the first: weights, optimizer and random state,"
        " losses and gradient norms. Deterministic is torch.use_deterministic_algorithms."
    )
    return f"{paragraph(about)}\n\n{table(header, rows)}", values


def _resume(
    args: argparse.Namespace, config: Config, place: Path, mode: Mode
) -> tuple[Difference, Difference, int, float]:
    """How far a second and a resumed run are from the first, where it was cut, and its ms/step."""
    cut = max(args.steps // 4, 1)
    settings = {
        **mode.settings,
        "training.max_steps": args.steps,
        "training.checkpoint_interval_steps": cut,
    }

    def start(name: str) -> Launch:
        return launch(args, config, place / name, settings, mode.is_deterministic)

    first, second = start("first").run(), start("second").run()
    third = start("third")
    cut_step = third.run(stop_after=cut).last_checkpoint().step
    resumed = third.run(is_resumed=True)
    assert cut_step is not None
    return (
        difference(first, second),
        difference(first, resumed),
        cut_step,
        median(step_milliseconds(first)),
    )


def step_milliseconds(run: TrainingRun) -> list[float]:
    """Of each step but the first few."""
    return [record[STEP_MS] for record in run.steps()[SETTLING_STEPS:]]


def measure_saving(args: argparse.Namespace, config: Config, folder: Path) -> tuple[str, object]:
    """How long training stands still for a save at every 100th step."""
    extra, medians, size_bytes = {}, {}, 0
    for name, interval in (("saving", SAVE_INTERVAL_STEPS), ("not saving", NEVER)):
        settings = {
            "training.max_steps": args.save_steps,
            "training.checkpoint_interval_steps": interval,
        }
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run = launch(args, config, Path(place), settings).run()
            size_bytes = (run.run_folder / LATEST).stat().st_size
        extra[name], medians[name] = extra_seconds([record["time"] for record in run.steps()])
    lost = mean(extra["saving"]) - mean(extra["not saving"])
    share = lost / (SAVE_INTERVAL_STEPS * medians["not saving"])
    rows = [
        [name, f"{1e3 * medians[name]:.1f}", " ".join(f"{seconds:.3f}" for seconds in extra[name])]
        for name in extra
    ]
    about = (
        f"Saving {format_bytes(size_bytes)} at every {SAVE_INTERVAL_STEPS}th step; seconds beyond"
        " the median step, summed up over the steps that follow each such step, up to the next."
    )
    text = (
        f"{paragraph(about)}\n\n"
        f"{table(['', 'median ms/step', 'seconds beyond'], rows)}\n\n"
        f"A save costs {lost:.3f} s, {share:.2%} of its interval. Goal: at most {SAVING_GOAL:.0%}."
    )
    return text, {
        "checkpoint_bytes": size_bytes,
        "seconds_beyond": extra,
        "median_seconds": medians,
        "share": share,
        "goal": SAVING_GOAL,
    }


def extra_seconds(times: Sequence[float]) -> tuple[list[float], float]:
    """For the steps after each 100th, up to the next: seconds beyond the median step; the median.

    `times` are the ends of steps 1, 2, 3 ...
    """
    spans = [after - before for before, after in pairwise(times)]  # of steps 2, 3 ...
    usual = median(spans[SETTLING_STEPS:])
    first = SAVE_INTERVAL_STEPS - 1
    return [
        sum(spans[start : start + SAVE_INTERVAL_STEPS])
        - usual * len(spans[start : start + SAVE_INTERVAL_STEPS])
        for start in range(first, len(spans), SAVE_INTERVAL_STEPS)
    ], usual


def measure_starting(args: argparse.Namespace, config: Config, folder: Path) -> tuple[str, object]:
    """Seconds from the start of train.py to the end of its first step, without and with a cache."""
    seconds = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name in ("empty compile cache", "warm compile cache"):
            settings = {
                "training.max_steps": 3,
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
        f" {VALIDATION_BATCHES} batches and the configured samples before it."
    )
    text = (
        f"{paragraph(about)}\n\n{table(['', 'seconds'], rows)}\n\n"
        f"Goal: {STARTING_GOAL_SECONDS:g} s with a warm cache."
    )
    return text, {"seconds": seconds, "goal_seconds": STARTING_GOAL_SECONDS}


if __name__ == "__main__":
    run_script(main)
