"""How much sooner we reach nanoGPT's validation loss, on the same tokens and the same GPU.

`python -m bench.time_to_loss --nanogpt FOLDER` trains nanoGPT by its own recipe (bench/nanogpt.py)
and ours through train.py, each in a process of its own with a GPU of its own, once for each seed,
on the configuration's dataset without dropout. Both are validated on the same held-out windows.

Where time is short, `--only` trains one side, `--save` keeps every run as it ends, and `--load`
adds those of an earlier call.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from typing import NamedTuple

from bench.loss_runs import Bounds, Run, run_nanogpt, run_ours
from bench.measure import bench_parser, environment_of, paragraph, positive, publish, table
from bench.nanogpt import LOG_STEPS, PEER, STEPS, add_options
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


class Summary(NamedTuple):
    """A recipe against nanoGPT's mean final loss. Lists are by seed; None is "not reached"."""

    recipe: str
    settings: dict[str, object]
    seeds: list[int]
    final_losses: list[float]
    steps: list[int | None]  # to the first validation at or below it
    training_seconds: list[float | None]
    clock_seconds: list[float | None]
    training_ratio: float | None = None  # times sooner than nanoGPT, of the means
    clock_ratio: float | None = None


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = override(config_from(args), {"model.dropout": 0.0, "model.attention_dropout": 0.0})
    environment = environment_of(PACKAGES, with_gpu=True)
    recipes = dict(map(parse_recipe, args.ours or RECIPES))
    runs = [Run(**values) for path in args.load for values in json.loads(path.read_text())]
    wanted = [] if args.only == NEITHER else jobs(args, _bounds(args, config), recipes)
    for run in run_all(wanted, slots(args)):
        runs.append(run)
        say(run.line())
        if args.save:
            write_json(args.save, [run._asdict() for run in runs])
    if not runs:
        raise UsageError("there is no finished run to tell of")
    runs.sort(key=lambda run: (run.recipe != PEER, run.recipe, run.seed))
    summaries = summarise(runs)
    values = {
        "goal": GOAL,
        "windows": args.windows,
        "results": [summary._asdict() for summary in summaries],
        "validations": [
            {"recipe": run.recipe, "seed": run.seed, "losses": run.validations} for run in runs
        ],
    }
    title = "Time to nanoGPT's validation loss"
    publish(args, "time_to_loss", title, _body(args.windows, summaries, runs), values, environment)


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
        train_windows=info["train_size"],
        windows=args.windows,
        our_interval=args.ours_every,
        peer_steps=args.steps,
        peer_interval=args.every,
        peer_folder=args.nanogpt and args.nanogpt.absolute(),
        peer_vocab=args.nanogpt_vocab,
    )


def jobs(
    args: argparse.Namespace, bounds: Bounds, recipes: Mapping[str, Mapping[str, object]]
) -> Iterator[Job]:
    """All trainings that were asked for: nanoGPT's, the longest, first."""
    if args.only != "ours" and bounds.peer_folder:
        yield from (partial(run_nanogpt, bounds, seed) for seed in args.seeds)
    elif args.only != "ours":
        warn("without --nanogpt there is no peer: only ours is trained")
    if args.only != "nanogpt":
        for name, settings in recipes.items():
            yield from (partial(run_ours, bounds, name, settings, seed) for seed in args.seeds)


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


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """Each recipe, nanoGPT first, as `runs` are; without a run of nanoGPT nothing is reached."""
    names = dict.fromkeys(run.recipe for run in runs)
    by_recipe = {name: [run for run in runs if run.recipe == name] for name in names}
    peers = by_recipe.get(PEER, [])
    target = mean(run.final_loss for run in peers) if peers else float("-inf")
    found: list[Summary] = []
    for name, group in by_recipe.items():
        steps = [run.validations[-1][0] if name == PEER else run.first_at(target) for run in group]
        pairs = list(zip(group, steps, strict=True))
        summary = Summary(
            name,
            group[0].settings,
            [run.seed for run in group],
            [run.final_loss for run in group],
            steps,
            [None if step is None else run.training_seconds(step) for run, step in pairs],
            [None if step is None else run.clock_seconds(step) for run, step in pairs],
        )
        if peers:
            peer = found[0] if found else summary
            summary = summary._replace(
                training_ratio=_ratio(peer.training_seconds, summary.training_seconds),
                clock_ratio=_ratio(peer.clock_seconds, summary.clock_seconds),
            )
        found.append(summary)
    return found


def _ratio(peer: Sequence[float | None], ours: Sequence[float | None]) -> float | None:
    """How many times as long the peer takes, of the means; None unless all have arrived."""
    reached = [seconds for seconds in ours if seconds is not None]
    if len(reached) < len(ours):
        return None
    return mean(seconds for seconds in peer if seconds is not None) / mean(reached)


def _body(windows: int, summaries: Sequence[Summary], runs: Sequence[Run]) -> str:
    rows = [
        [
            summary.recipe,
            " ".join(f"{loss:.3f}" for loss in summary.final_losses),
            _joined(summary.steps, ",.0f"),
            _joined(summary.training_seconds, ".1f"),
            _joined(summary.clock_seconds, ".1f"),
            _times(summary.training_ratio),
            _times(summary.clock_ratio),
        ]
        for summary in summaries
    ]
    header = ["", "final losses", "steps", "s of training", "s on the clock", "ratio", "clock"]
    best = max((s.training_ratio or 0.0 for s in summaries if s.recipe != PEER), default=0.0)
    target = mean(summaries[0].final_losses) if summaries[0].recipe == PEER else None
    goal = f"{GOAL:g} x sooner to {target:.4f}, nanoGPT's mean" if target else f"{GOAL:g} x sooner"
    about = (
        "A figure for each seed: ours differ by their initial weights, nanoGPT's by weights and"
        " batches. Steps are those to the first validation at or below nanoGPT's mean final loss,"
        f" on the same {windows:,} windows for all; nanoGPT's are all that it takes. Seconds of"
        f" training are those of the steps, in stretches of {LOG_STEPS}, of which the first counts"
        " like the others' mean: no start-up, no compiling, no validating. Seconds on the clock are"
        " from the start of the process to the end of that validation, all included."
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
