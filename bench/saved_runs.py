"""Trainings of earlier calls of bench/time_to_loss.py: read, and put together only if they fit."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.loss_runs import Run
from utils.errors import UsageError
from utils.terminal import say

# What all runs of a comparison share.
SHARED: dict[str, Callable[[Run], object]] = {
    "GPUs": lambda run: run.gpu,
    "numbers of windows to validate on": lambda run: run.windows,
    "datasets": lambda run: run.dataset,
}


def load_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs of files that `--save` wrote; UsageError for any other file."""
    runs: list[Run] = []
    for path in paths:
        try:
            runs += [Run(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"--load {path}: holds no runs as --save writes them: {error}",
                "Train them again if an earlier version of this bench saved them.",
            ) from None
    return runs


def without_repeats(runs: Iterable[Run]) -> list[Run]:
    """The first run of each recipe and seed."""
    first: dict[tuple[str, int], Run] = {}
    for run in runs:
        if first.setdefault((run.recipe, run.seed), run) is not run:
            say(f"{run.recipe}, seed {run.seed}: there more than once, taken once", "yellow")
    return list(first.values())


def left_to_train(plans: Sequence[Run], done: Sequence[Run]) -> list[Run]:
    """The plans that no run fulfils. Raises UsageError, before any training, if they do not fit."""
    check_comparable([*done, *plans])
    names = {(run.recipe, run.seed) for run in done}
    return [plan for plan in plans if (plan.recipe, plan.seed) not in names]


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise UsageError unless only recipe and seed set runs apart, and one name is one recipe."""
    for what, of in SHARED.items():
        _check_same(f"the runs are of different {what}", [of(run) for run in runs])
    for name in {run.recipe for run in runs}:
        recipes = [
            json.dumps({**run.settings, "tokens of a step": run.step_tokens}, sort_keys=True)
            for run in runs
            if run.recipe == name
        ]
        _check_same(f"the runs called {name} are of different recipes", recipes)


def _check_same(problem: str, values: Iterable[object]) -> None:
    different = list(dict.fromkeys(map(str, values)))
    if len(different) > 1:
        raise UsageError(
            f"{problem}: {' and '.join(different)}", "Load only runs that can be compared."
        )


def environment_of_runs(runs: Iterable[Run]) -> dict[str, str]:
    """What `environment_of` found for any of the runs; all values of a key if they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.environment.items():
            found.setdefault(key, {})[value] = None
    return {key: " and ".join(values) for key, values in found.items()}
