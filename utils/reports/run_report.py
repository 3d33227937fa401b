"""report.html of a training run: how it went, what it was made with, and runs beside it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files import atomic_write
from utils.logging_utils import EVENT, SAMPLE_TAG, SKIPPED_STEP, metrics_path
from utils.metrics import (
    BITS_PER_BYTE,
    GRADIENT_NORM,
    MFU,
    PEAK_MEMORY,
    TOKENS_PER_SECOND,
    TOKENS_SEEN,
    TRAIN_LOSS,
    VALIDATION_LOSS,
    perplexity,
)
from utils.reports.markup import (
    REPORT_NAME,
    Html,
    facts,
    folded,
    join,
    page,
    section,
    spelled_out,
    table,
    tag,
    tiles,
    visible,
)
from utils.reports.run_comparison import comparison_section
from utils.reports.run_curves import (
    RunLog,
    default_config,
    figure,
    is_count,
    number_of,
    read_run,
    shown_value,
)
from utils.terminal import format_seconds

SHOWN_SAMPLES = 5  # validations of which each prompt's text is shown
SHOWN_EVENTS = 100
SHOWN_WINDOWS = 64

_STEP = "step"
_LEARNING_RATE = re.compile(r"train/.*learning_rate")  # one for each kind of weights
_SAMPLE = re.compile(re.escape(SAMPLE_TAG) + r"([1-9][0-9]{0,5})")


def write_run_report(log_dir: Path, run_name: str, compare: Sequence[str] = ()) -> Path:
    """Write report.html into the run's folder of logs, beside metrics.jsonl; return its path.

    It is made of the files there alone, so it can be written while the run goes on. `compare`
    names runs to lay beside it. Raises UsageError if one of the runs has no logs, and OSError.
    """
    run = read_run(log_dir, run_name)
    others = {other.name: other for other in (read_run(log_dir, name) for name in compare)}
    others.pop(run.name, None)
    text = page(
        f"{spelled_out(run.name)}: training report",
        tag("header", tag("p", "Training report"), tag("h1", visible(run.name))),
        _figures_on_top(run),
        *([comparison_section([run, *others.values()])] if others else []),
        _curves(run),
        _events(run),
        _samples(run),
        _configuration(run),
        section("Environment", facts(_named(run.environment))),
    )
    path = metrics_path(log_dir, run.name).with_name(REPORT_NAME)
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def _figures_on_top(run: RunLog) -> Html:
    found = {"steps": f"{run.last_step:,}", "time": format_seconds(3600 * run.hours)}
    best = run.best_validation()
    if best is not None:
        found[f"best loss, at step {best[0]:,}"] = f"{best[1]:.4f}"
        found["its perplexity"] = f"{perplexity(best[1]):,.2f}"
    for name, tag_name, form in (
        ("its bits per byte", BITS_PER_BYTE, ".4f"),
        ("last validation loss", VALIDATION_LOSS, ".4f"),
        ("last training loss", TRAIN_LOSS, ".4f"),
        ("tokens trained on", TOKENS_SEEN, ",.0f"),
        ("tokens a second", TOKENS_PER_SECOND, ",.0f"),
        ("MFU", MFU, ".1%"),
        ("peak memory, GiB", PEAK_MEMORY, ".1f"),
    ):
        curve = run.curve(tag_name)
        if tag_name == BITS_PER_BYTE:
            curve = [point for point in curve if best is not None and point[0] == best[0]]
        if curve:
            found[name] = f"{curve[-1][1]:{form}}"
    skipped = sum(event[EVENT] == SKIPPED_STEP for event in run.events())
    found["skipped steps"] = f"{skipped:,}"
    return tiles(found)


def _curves(run: RunLog) -> Html:
    window = run.config.get("training.metrics_window_steps")
    training = f"training, mean of {window} steps" if is_count(window) else "training"
    losses = {training: run.curve(TRAIN_LOSS), "validation": run.curve(VALIDATION_LOSS)}
    rates = sorted(filter(_LEARNING_RATE.fullmatch, run.tags()))
    plots = [
        figure("Loss", _STEP, "loss, nats a token", losses),
        figure(
            "Bits per byte",
            _STEP,
            "bits per byte of validation text",
            {"": run.curve(BITS_PER_BYTE)},
        ),
        figure(
            "Learning rate",
            _STEP,
            "learning rate",
            {spelled_out(rate): run.curve(rate) for rate in rates},
            from_zero=True,
        ),
        figure(
            "Gradient norm",
            _STEP,
            "gradient norm, before clipping",
            {"": run.curve(GRADIENT_NORM)},
        ),
        figure(
            "Throughput",
            _STEP,
            "tokens a second",
            {"": run.curve(TOKENS_PER_SECOND)},
            from_zero=True,
        ),
    ]
    return section("Curves", tag("div", *plots, class_="columns plots"))


def _events(run: RunLog) -> Html:
    events = run.events()
    if not events:
        return section("Skipped steps and spikes", tag("p", "None."))
    rows = [
        [
            visible(str(event[EVENT])),
            f"{event['step']:,}",
            _number(event.get("loss")),
            _number(event.get("gradient_norm")),
            _windows(event.get("windows")),
        ]
        for event in events[:SHOWN_EVENTS]
    ]
    header = ["what", "step", "loss", "gradient norm", "windows of the batch"]
    more = len(events) - len(rows)
    notes = [tag("p", f"{more:,} more are in metrics.jsonl.")] if more else []
    return section("Skipped steps and spikes", table(header, rows, last_is_total=False), *notes)


def _number(value: object) -> str:
    number = number_of(value)
    return "" if number is None else f"{number:.4g}"


def _windows(logged: object) -> Html:
    windows = [window for window in logged if is_count(window)] if isinstance(logged, list) else []
    more = f" and {len(windows) - SHOWN_WINDOWS:,} more" if len(windows) > SHOWN_WINDOWS else ""
    shown = ", ".join(map(str, windows[:SHOWN_WINDOWS])) + more
    return folded(f"{len(windows):,}", tag("div", shown, class_="wrapped")) if windows else join([])


def _samples(run: RunLog) -> Html:
    numbers = sorted(int(found[1]) for found in map(_SAMPLE.fullmatch, run.tags()) if found)
    parts: list[Html] = []
    for number in numbers:
        texts = run.texts(f"{SAMPLE_TAG}{number}")
        if texts:  # under no configured prompt: it may have been another for the older ones
            parts.append(tag("h3", f"prompt {number}"))
        for step in spread(sorted(texts), SHOWN_SAMPLES):
            parts.append(tag("p", f"step {step:,}"))
            lines = (visible(line) for line in texts[step].split("\n"))
            parts.append(tag("pre", Html("\n".join(lines)), dir="auto"))
    note = "Each prompt and how the model went on: at first, in between, and at last."
    return section("Sample text", *([tag("p", note), *parts] if parts else [tag("p", "None yet.")]))


def spread(steps: Sequence[int], count: int) -> list[int]:
    """Up to `count` of the steps: the first, the last, and some evenly in between.

    >>> spread([0, 10, 20, 30, 40, 50, 60], 3), spread([5], 3)
    ([0, 30, 60], [5])
    """
    if len(steps) <= count:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (count - 1))] for index in range(count)]


def _configuration(run: RunLog) -> Html:
    """What differs from the defaults, and all of it folded away. Paths always differ."""
    defaults = default_config()
    changed = {
        key: value
        for key, value in run.config.items()
        if not key.startswith("paths.") and (key not in defaults or defaults[key] != value)
    }
    intro = "What differs from the defaults:" if changed else "Nothing differs from the defaults."
    return section(
        "Configuration",
        tag("p", intro),
        facts(_named(changed)),
        folded("All keys", facts(_named(run.config))),
    )


def _named(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(visible(name), visible(shown_value(value))) for name, value in values.items()]
