"""The part of a run's report that lays other runs over it."""

from collections.abc import Sequence

from utils.metrics import BITS_PER_BYTE, TOKENS_PER_SECOND, TRAIN_LOSS, VALIDATION_LOSS
from utils.reports.markup import Html, section, spelled_out, table, tag, visible
from utils.reports.run_curves import RunLog, figure, shown_value
from utils.terminal import format_seconds

_STEP, _HOURS = "step", "hours of training"
_UNREMARKABLE = ("paths.", "cleaner.", "generation.")


def comparison_section(runs: Sequence[RunLog]) -> Html:
    """Losses of all runs against step and against hours, results, and what sets them apart."""
    plots = [
        figure(
            f"{title} over {x_label}",
            x_label,
            title,
            {
                spelled_out(run.name): run.curve_over_hours(tag_name)
                if x_label == _HOURS
                else run.curve(tag_name)
                for run in runs
            },
        )
        for tag_name, title in ((VALIDATION_LOSS, "validation loss"), (TRAIN_LOSS, "training loss"))
        for x_label in (_STEP, _HOURS)
    ]
    return section(
        "Runs compared",
        _results(runs),
        tag("div", *plots, class_="columns plots"),
        tag("h3", "What is configured differently"),
        _differences(runs),
    )


def _results(runs: Sequence[RunLog]) -> Html:
    header = ["run", "steps", "time", "best validation loss", "at step", "bits per byte"]
    rows = []
    for run in runs:
        row = [visible(run.name), f"{run.last_step:,}", format_seconds(3600 * run.hours)]
        best = run.best_validation()
        bits = dict(run.curve(BITS_PER_BYTE)).get(best[0]) if best else None
        row += [f"{best[1]:.4f}", f"{best[0]:,}"] if best else ["", ""]
        row.append("" if bits is None else f"{bits:.4f}")
        speeds = run.curve(TOKENS_PER_SECOND)
        row.append(f"{speeds[-1][1]:,.0f}" if speeds else "")
        rows.append(row)
    return table([*header, "tokens a second"], rows, last_is_total=False)


def _differences(runs: Sequence[RunLog]) -> Html:
    """One row for each key of the configurations and the environments that not all have alike."""
    described = [{**run.config, **run.environment} for run in runs]
    keys = dict.fromkeys(key for values in described for key in values)
    rows = [
        [
            visible(key),
            *(visible(shown_value(values[key])) if key in values else "" for values in described),
        ]
        for key in keys
        if not key.startswith(_UNREMARKABLE)
        and any(values.get(key, ...) != described[0].get(key, ...) for values in described)
    ]
    if not rows:
        return tag("p", "Nothing.")
    header = ["key", *(visible(run.name) for run in runs)]
    return table(header, rows, last_is_total=False)
