"""How much sooner we reach nanoGPT's validation loss, on the same tokens and the same GPU.

`python -m bench.time_to_loss --nanogpt FOLDER` trains nanoGPT by its own recipe (bench/nanogpt.py)
and ours through train.py, each in a process of its own with a GPU of its own, once for each seed,
on the configuration's dataset without dropout. Both are validated on the same held-out windows.

Where time is short, `--only` trains one side, `--save` keeps every run as it ends, and `--load`
adds those of earlier calls, which are not trained again. What a run ran on is told with it; those
of different GPUs, datasets or numbers of windows are not put together.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import mean

from bench.loss_runs import Bounds, Run, planned, train
from bench.loss_summary import Summary, summarise
from bench.measure import bench_parser, environment_of, paragraph, positive, publish, table
from bench.nanogpt import LOG_STEPS, PEER, STEPS, add_options
from bench.saved_runs import (
    check_comparable,
    environment_of_runs,
    left_to_train,
    load_runs,
    without_repeats,
)
from bench.training_runs import visible_gpus
from dataloader import create_simple_train_val_dataloaders
from utils.cli import config_from, run_script
from utils.config import Config
from utils.config_file import override
from utils.errors import PipelineError, UsageError
from utils.files import write_json
from utils.terminal import say, say_error, warn

GOAL = 3.0  # times sooner
PACKAGES = ("torch", "triton", "numpy")
RECIPES = (  # tried where --ours names none
    "muon=optimizer=muon,muon_learning_rate=0.02,learning_rate=0.002,min_learning_rate=0,"
    "warmup_steps=50,max_steps=600",
    "adamw=optimizer=adamw,learning_rate=0.002,min_learning_rate=0,warmup_steps=100,max_steps=1000",
)

NEITHER = "neither"

Job = Callable[[str | None], Run]  # takes the GPU to run on


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = override(config_from(args), {"model.dropout": 0.0, "model.attention_dropout": 0.0})
    recipes = dict(map(parse_recipe, args.ours or RECIPES))
    runs = without_repeats(load_runs(args.load))
    jobs: list[Job] = []
    if args.only != NEITHER:
        bounds = _bounds(args, config)
        plans = left_to_train(list(plan_runs(args, bounds, recipes)), runs)
        jobs = [partial(train, bounds, plan) for plan in plans]
    check_comparable(runs)
    if args.save:
        _save(args.save, runs)
    for run in run_all(jobs, slots(args)) if jobs else ():  # telling of runs needs no GPU
        runs.append(run)
        say(run.line())
        if args.save:
            _save(args.save, runs)
    if not runs:
        raise UsageError("there is no finished run to tell of")
    runs.sort(key=lambda run: (run.recipe != PEER, run.recipe, run.seed))
    summaries = summarise(runs)
    values = {
        "goal": GOAL,
        "windows": runs[0].windows,
        "dataset": runs[0].dataset,
        "results": [summary._asdict() for summary in summaries],
        "runs": [
            {
                "recipe": run.recipe,
                "seed": run.seed,
                "environment": run.environment,
                "validations": run.validations,
            }
            for run in runs
        ],
    }
    title, body = "Time to nanoGPT's validation loss", _body(summaries, runs)
    publish(args, "time_to_loss", title, body, values, environment_of_runs(runs))


def _save(path: Path, runs: Sequence[Run]) -> None:
    write_json(path, [run._asdict() for run in runs])


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("time_to_loss", "Compare the time to a validation loss.", repeats=None)
    add_options(parser)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: 1 2 3)")
    parser.add_argument(
        "--ours",
        action="append",
        metavar="NAME=KEY=VALUE,...",
        help="a recipe of ours: keys of the training section, or with a dot; repeatable",
    )
    parser.add_argument("--only", choices=["ours", "nanogpt", NEITHER], help="train only these")
    for option, default, what in (
        ("--steps", STEPS, "of nanoGPT"),
        ("--every", 200, "nanoGPT's steps between validations"),
        ("--ours-every", 50, "our steps between validations"),
        ("--windows", 1_024, "windows to validate on"),
        ("--gpus", 1, "trainings at once, a GPU each"),
    ):
        parser.add_argument(
            option, type=positive, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write finished runs to")
    parser.add_argument(
        "--load", type=Path, action="append", default=[], metavar="FILE", help="add saved runs"
    )
    return parser


def parse_recipe(text: str) -> tuple[str, dict[str, object]]:
    """The name and the dotted settings of "name=key=value,key=value"."""
    name, _, rest = text.partition("=")
    settings: dict[str, object] = {}
    for part in rest.split(","):
        key, has_value, value = part.partition("=")
        if not (name and key and has_value) or name == PEER:
            raise UsageError(f"--ours {text}: is not NAME=KEY=VALUE,KEY=VALUE")
        dotted = key if "." in key else f"training.{key}"
        try:
            settings[dotted] = json.loads(value)
        except json.JSONDecodeError:
            settings[dotted] = value
    return name, settings


def slots(args: argparse.Namespace) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES is for each of the trainings that go on at once."""
    if args.device == "cpu":
        return [None] * args.gpus
    gpus = visible_gpus()
    if len(gpus) < args.gpus:
        raise UsageError(f"--gpus {args.gpus}: there are {len(gpus)}")
    return list(gpus[: args.gpus])


def _bounds(args: argparse.Namespace, config: Config) -> Bounds:
    _, _, info = create_simple_train_val_dataloaders(config=config, device="cpu")
    return Bounds(
        config=config,
        device=args.device,
        environment=environment_of(PACKAGES, args.commit, with_gpu=args.device != "cpu"),
        data=info,
        windows=args.windows,
        our_interval=args.ours_every,
        peer_steps=args.steps,
        peer_interval=args.every,
        peer_folder=args.nanogpt and args.nanogpt.absolute(),
        peer_vocab=args.nanogpt_vocab,
    )


def plan_runs(
    args: argparse.Namespace, bounds: Bounds, recipes: Mapping[str, Mapping[str, object]]
) -> Iterator[Run]:
    """All trainings that are asked for: nanoGPT's, the longest, first."""
    if args.only != "ours" and bounds.peer_folder:
        settings = {"training.max_steps": bounds.peer_steps}
        yield from (planned(bounds, PEER, settings, seed) for seed in args.seeds)
    elif args.only != "ours":
        warn("without --nanogpt there is no peer: only ours is trained")
    if args.only != "nanogpt":
        for name, changes in recipes.items():
            yield from (planned(bounds, name, changes, seed) for seed in args.seeds)


def run_all(wanted: Iterable[Job], gpus: Sequence[str | None]) -> Iterator[Run]:
    """Runs as they end, as many at once as there are `gpus`. Those that fail are said, no more."""
    free: SimpleQueue[str | None] = SimpleQueue()
    for gpu in gpus:
        free.put(gpu)

    def run(job: Job) -> Run:
        gpu = free.get()
        try:
            return job(gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(len(gpus)) as pool:
        for future in as_completed([pool.submit(run, job) for job in wanted]):
            try:
                yield future.result()
            except PipelineError as error:
                say_error(error)


def _body(summaries: Sequence[Summary], runs: Sequence[Run]) -> str:
    rows = [
        [
            summary.recipe,
            " ".join(map(str, summary.seeds)),
            f"{summary.step_tokens:,}",
            " ".join(f"{loss:.3f}" for loss in summary.final_losses),
            _joined(summary.steps, ",.0f"),
            _joined(summary.training_seconds, ".1f"),
            _joined(summary.clock_seconds, ".1f"),
            _times(summary.training_ratio),
            _times(summary.clock_ratio),
        ]
        for summary in summaries
    ]
    header = [
        *("", "seeds", "tokens a step", "final losses", "steps"),
        *("s of training", "s on the clock", "ratio", "clock"),
    ]
    best = max((s.training_ratio or 0.0 for s in summaries if s.recipe != PEER), default=0.0)
    target = mean(summaries[0].final_losses) if summaries[0].recipe == PEER else None
    goal = f"{GOAL:g} x sooner to {target:.4f}, nanoGPT's mean" if target else f"{GOAL:g} x sooner"
    about = (
        "A figure for each seed: ours differ by their initial weights, nanoGPT's by weights and"
        " batches. Steps are those to the first validation at or below nanoGPT's mean final loss,"
        f" on the same {runs[0].windows:,} windows for all; nanoGPT's are all that it takes."
        f" Seconds of training are those of the steps, in stretches of {LOG_STEPS}, of which the"
        " first counts like the others' mean: no start-up, no compiling, no validating. Seconds on"
        " the clock are from the start of the process to the end of that validation, all included."
    )
    return (
        f"{paragraph(about)}\n\n{table(header, rows)}\n\nMean validation loss over the"
        f" seeds:\n\n{_losses(runs)}\n\n"
        f"Goal: {goal}. Reached: {f'{best:.2f} x' if best else 'not yet'}."
    )


def _losses(runs: Sequence[Run]) -> str:
    """The mean loss of each recipe at each step that it was validated at."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for step, loss in run.validations:
            found.setdefault(run.recipe, {}).setdefault(step, []).append(loss)
    steps = sorted({step for losses in found.values() for step in losses})
    rows = [
        [f"{step:,}", *(f"{mean(f[step]):.4f}" if step in f else "" for f in found.values())]
        for step in steps
    ]
    return table(["step", *found], rows)


def _joined(values: Sequence[float | None], form: str) -> str:
    return " ".join("-" if value is None else format(value, form) for value in values)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x"


if __name__ == "__main__":
    run_script(main)
