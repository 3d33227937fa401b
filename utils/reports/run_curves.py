"""What a run's logs say, as curves over steps and over hours, and those curves drawn."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.config import Config
from utils.errors import UsageError
from utils.logging_utils import (
    EVENT,
    STARTED,
    logged_runs,
    metrics_path,
    read_metrics,
    read_records_beside,
)
from utils.metrics import VALIDATION_LOSS
from utils.reports.markup import Html, tag
from utils.reports.svg_plots import Axis, Plot, axis_for

COLUMNS = 300  # of a plot: of the points in one, only the highest and the lowest are drawn

_NOT_FINITE = ("nan", "inf", "-inf")  # words, for want of numbers in JSON
_LARGEST_COUNT = 1 << 53  # up to here, whole numbers are exact as float
_LAST_SECOND = 1e12

Points = Sequence[tuple[float, float]]  # (x, y) from left to right


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of metrics at `path` that have a step which is one, in order."""
    return [record for record in read_metrics(path) if is_count(record.get("step"))]


def is_count(value: object) -> bool:
    """Whether it is a whole number that a step or an index can be."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT


def number_of(value: object) -> float | None:
    """A logged number, which may be NaN or infinite; None for whatever is not a number.

    >>> [number_of(value) for value in (2, "-inf", "2", None, True)]
    [2.0, -inf, None, None, None]
    """
    if isinstance(value, float):
        return value
    if isinstance(value, bool) or not (isinstance(value, int) or value in _NOT_FINITE):
        return None
    try:
        return float(value)
    except OverflowError:  # whole numbers of JSON have no bounds
        return None


@dataclass(frozen=True)
class RunLog:
    """Everything logged of one run; values of a tag that are not of its kind are left out."""

    name: str
    records: Sequence[Mapping[str, Any]]  # see `read_records`
    config: Mapping[str, Any]  # by dotted key
    environment: Mapping[str, Any]

    def curve(self, tag_name: str) -> list[tuple[int, float]]:
        """(step, value) of all points of a tag; values may be NaN and infinite."""
        return [(record["step"], value) for record, value in self._values(tag_name)]

    def curve_over_hours(self, tag_name: str) -> list[tuple[float, float]]:
        """The same against the hours that the run had been on by then."""
        return [(self._hours[id(record)], value) for record, value in self._values(tag_name)]

    def texts(self, tag_name: str) -> dict[int, str]:
        """Texts of a tag by step."""
        found = ((record["step"], record.get(tag_name)) for record in self.records)
        return {step: text for step, text in found if isinstance(text, str)}

    def tags(self) -> set[str]:
        """All keys of the records."""
        return {key for record in self.records for key in record}

    def events(self) -> list[Mapping[str, Any]]:
        return [record for record in self.records if EVENT in record]

    def best_validation(self) -> tuple[int, float] | None:
        """Step and value of the lowest finite validation loss."""
        finite = [point for point in self.curve(VALIDATION_LOSS) if math.isfinite(point[1])]
        return min(finite, key=lambda point: point[1], default=None)

    @property
    def hours(self) -> float:
        """How long the run was on, up to its last record."""
        return self._hours[id(self.records[-1])] if self.records else 0.0

    @property
    def last_step(self) -> int:
        return max((record["step"] for record in self.records), default=0)

    @cached_property
    def _hours(self) -> dict[int, float]:
        """By the id of a record. Pauses and work that was lost do not count."""
        hours, before, found = 0.0, None, {}
        for record in self.records:
            started, now = _clock(record.get(STARTED)), _clock(record.get("time"))
            began = before if started is None else started
            if now is not None:
                hours += max(now - began, 0.0) / 3600 if began is not None else 0.0
                before = now
            found[id(record)] = hours
        return found

    def _values(self, tag_name: str) -> Iterator[tuple[Mapping[str, Any], float]]:
        for record in self.records:
            if tag_name in record and (value := number_of(record[tag_name])) is not None:
                yield record, value


def logged_run(log_dir: Path, name: str) -> str:
    """The name of the run called `name`, or whose folder of checkpoints or logs that names.

    Raises UsageError, naming those there are, if it has no logs.
    """
    runs = logged_runs(log_dir)
    found = name if name in runs else Path(name).name
    if found not in runs:
        raise UsageError(
            f"{name}: no run of this name has logs in {log_dir}",
            f"Runs, newest first: {', '.join(runs[:6])}" if runs else "No run has any there.",
        )
    return found


def read_run(log_dir: Path, name: str) -> RunLog:
    """The logs of the run that `logged_run` finds."""
    found = logged_run(log_dir, name)
    path = metrics_path(log_dir, found)
    records = read_records(path) if path.exists() else []
    config, environment = read_records_beside(path)
    return RunLog(found, records, flat(config), environment)


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key."""
    return {
        f"{section}.{key}": value
        for section, values in config.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }


def default_config() -> dict[str, Any]:
    """What every key is if nothing is configured, as a run's config.json would hold it."""
    return flat(Config().model_dump(mode="json"))


def shown_value(value: Any) -> str:
    """A value of the configuration as config.json has it; text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def figure(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Points],
    from_zero: bool = False,
) -> Html:
    """A plot of series by name. Those without points are left out, and with all of them the plot.

    Points that are not finite cannot be drawn; how many there are is said below.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
    }
    drawn = {name: thinned(points) for name, points in finite.items() if points}
    missing = sum(map(len, series.values())) - sum(map(len, finite.values()))
    note = f"{missing:,} values that are not finite are not drawn." if missing else None
    if not drawn:
        return tag("figure", tag("figcaption", f"{title}: {note or 'nothing logged yet.'}"))
    xs, ys = zip(*(point for found in drawn.values() for point in found), strict=True)
    plot = Plot(title, _across(x_label, xs), axis_for(y_label, ys, from_zero))
    for name, found in drawn.items():
        plot.line(found, name)
    return tag("figure", plot.render(), *([tag("figcaption", note)] if note else []))


def _clock(value: object) -> float | None:
    """Seconds since 1970; None for what cannot be."""
    seconds = number_of(value)
    return seconds if seconds is not None and 0 <= seconds <= _LAST_SECOND else None


def _across(label: str, values: Sequence[float]) -> Axis:
    """From 0, unless all values are far from it."""
    first, last = min(values), max(values)
    low = first if first > last / 2 else 0.0
    return Axis(label, low, last if last > low else low + 1)


def thinned(points: Points) -> Points:
    """At most 2 COLUMNS + 2 of the points: both ends, and each column's highest and lowest."""
    if len(points) <= 2 * COLUMNS + 2:
        return points
    first, last = points[0][0], points[-1][0]
    width = (last - first) / COLUMNS or 1.0
    columns: dict[int, list[int]] = {}
    for index, (x, y) in enumerate(points):
        column = columns.setdefault(min(int((x - first) / width), COLUMNS - 1), [index, index])
        if y < points[column[0]][1]:
            column[0] = index
        if y > points[column[1]][1]:
            column[1] = index
    kept = {0, len(points) - 1, *(index for column in columns.values() for index in column)}
    return [points[index] for index in sorted(kept)]
