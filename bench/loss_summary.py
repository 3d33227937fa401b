"""Recipes against nanoGPT: the steps and seconds that each takes to its final loss."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from bench.loss_runs import Run
from bench.nanogpt import PEER


class Summary(NamedTuple):
    """A recipe against nanoGPT's mean final loss. Lists are by seed; None is "not reached"."""

    recipe: str
    settings: dict[str, object]
    step_tokens: int
    seeds: list[int]
    final_losses: list[float]
    steps: list[int | None]  # to the first validation at or below it
    training_seconds: list[float | None]
    clock_seconds: list[float | None]
    training_ratio: float | None = None  # times sooner than nanoGPT, of the means
    clock_ratio: float | None = None


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
            group[0].step_tokens,
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
