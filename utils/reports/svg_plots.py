"""Plots as inline SVG: axes, lines with a legend, bars, marked values and labelled points.

Colours and fonts are the page's (report.css), so a plot is light or dark as the page is.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from utils.reports.markup import Html, tag

# The drawing's units are pixels where a plot has its full width; 0, 0 is the axes' top left.
PLOT_WIDTH, PLOT_HEIGHT = 408, 220
LEFT, RIGHT, BOTTOM = 52, 20, 48
ROW = 18  # a line of text above the axes: the name of the upward axis, legend, marked values
GAP = 5  # between text and what it belongs to
SWATCH = 18
MOST_TICKS = 6
SERIES_STYLES = 8  # of report.css; more series than these look like the first again
LOG_RATIO = 3  # values that differ by more are easier to tell apart on a logarithmic axis
LEAST_LENGTH = 0.02  # of an axis, as a share of its values: noise is not blown up
LARGEST, SMALLEST = 1e300, 1e-300  # magnitudes on an axis: beyond them, arithmetic overflows

_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TOO_LARGE = 1e15  # for these


def short_number(value: float) -> str:
    """A number for an axis.

    >>> [short_number(value) for value in (0, 0.25, 10, 2500, 100_000, 3e6, 1e20)]
    ['0', '0.25', '10', '2.5k', '100k', '3M', '1e+20']
    """
    for size, suffix in _SUFFIXES:
        if size <= abs(value) < _TOO_LARGE:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def percent(share: float) -> str:
    """A share for an axis: "2.5%"."""
    return f"{100 * share:g}%"


@dataclass(frozen=True)
class Axis:
    """One direction of a plot: values from `low` to `high`; both are above 0 if it `is_log`."""

    label: str
    low: float
    high: float
    is_log: bool = False
    format_tick: Callable[[float], str] = short_number

    def position(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`, and at the nearer end beyond them."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """A handful of round values within the axis, ascending."""
        ticks = log_ticks if self.is_log else linear_ticks
        return ticks(self.low, self.high)


def axis_for(label: str, values: Iterable[float], from_zero: bool = False) -> Axis:
    """An axis that finite `values` fit on: logarithmic if they are positive and far apart.

    `from_zero` makes it linear, and shows 0. Values above LARGEST lie on the edge, and those below
    SMALLEST count as 0.
    """
    values = list(values) or [0.0, 1.0]
    low, high = (_in_reach(end) for end in (min(values), max(values)))
    if low > 0 and high > LOG_RATIO * low and not from_zero:
        low = max(low, high * 1e-9)  # what is below lies on the edge
        margin = (high / low) ** 0.03
        return Axis(label, low / margin, high * margin, is_log=True)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    least = LEAST_LENGTH * max(abs(low), abs(high)) or 1.0
    missing = max(least - (high - low), 0.0) / 2
    margin = missing + 0.03 * (high - low)
    is_floor = from_zero and low == 0
    return Axis(label, 0.0 if is_floor else low - margin, high + margin)


def _in_reach(value: float) -> float:
    return 0.0 if abs(value) < SMALLEST else min(max(value, -LARGEST), LARGEST)


def linear_ticks(low: float, high: float) -> list[float]:
    """
    >>> linear_ticks(0, 0.11)
    [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    """
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(digit for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; on a short axis, twice and five times them, too; on a very short one, others.

    >>> log_ticks(3, 20_000), log_ticks(30, 600)
    ([10.0, 100.0, 1000.0, 10000.0], [50.0, 100.0, 200.0, 500.0])
    >>> log_ticks(120, 180)
    [120.0, 130.0, 140.0, 150.0, 160.0, 170.0, 180.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5)):
        values = [float(f"{digit}e{power}") for power in powers for digit in digits]
        ticks = [value for value in values if low <= value <= high]
        if len(ticks) > 2:
            break
    if len(ticks) < 3:
        return linear_ticks(low, high)
    return ticks[:: -(-len(ticks) // (2 * MOST_TICKS))]


@dataclass
class Plot:
    """A drawing that grows until it is rendered. `title` is for those who cannot see it."""

    title: str
    x: Axis
    y: Axis
    _shapes: list[Html] = field(default_factory=list)
    _labels: list[Html] = field(default_factory=list)  # on top of all shapes
    _names: list[str] = field(default_factory=list)  # of the series
    _marks: list[tuple[float, str]] = field(default_factory=list)

    def bars(self, edges: Sequence[float], heights: Sequence[float], hints: Sequence[str]) -> None:
        """A bar between each two neighbours of `edges`; a pointer on it shows its hint."""
        for (left, right), height, hint in zip(pairwise(edges), heights, hints, strict=True):
            if height:
                x, y = self._place(left, height)
                width = self._place(right, height)[0] - x
                rect = {"x": x, "y": y, "width": width, "height": PLOT_HEIGHT - y}
                self._shapes.append(tag("rect", tag("title", hint), class_="bar", **rect))

    def line(self, points: Sequence[tuple[float, float]], name: str) -> None:
        """A series of (x, y) from left to right, with its name, unless it is "", in the legend.

        A single point is drawn as a dot.
        """
        places = [self._place(*point) for point in points]
        style = self._series_class()
        hint = tag("title", name or self.y.label)
        if len(places) == 1:
            ((x, y),) = places
            self._shapes.append(tag("circle", hint, cx=x, cy=y, r=1.75, class_=f"dot {style}"))
        elif places:
            steps = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
            self._shapes.append(tag("polyline", hint, points=steps, class_=style))
        self._names.append(name)

    def mark(self, x: float, text: str) -> None:
        """A value of the x axis: a line up to its text above the axes."""
        self._marks.append((x, text))

    def point(self, x: float, y: float, text: str) -> None:
        """A dot with text at its upper right."""
        left, top = self._place(x, y)
        self._shapes.append(tag("circle", cx=left, cy=top, r=3.5))
        self._labels.append(_text(text, left + GAP, top - GAP))

    def render(self) -> Html:
        rows = 1 + sum(map(bool, self._names)) + len(self._marks)
        top = ROW * rows + GAP
        parts = [
            tag("title", self.title),
            *self._axes(top),
            *self._shapes,
            *self._drawn_legend(top),
            *self._drawn_marks(),
            *self._labels,
        ]
        width, height = LEFT + PLOT_WIDTH + RIGHT, top + PLOT_HEIGHT + BOTTOM
        return tag("svg", *parts, viewBox=f"{-LEFT} {-top} {width} {height}", role="img")

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return PLOT_WIDTH * self.x.position(x), PLOT_HEIGHT * (1 - self.y.position(y))

    def _axes(self, top: int) -> list[Html]:
        parts = []
        for value in self.y.ticks():
            y = self._place(self.x.low, value)[1]
            parts.append(_stroke("grid", 0, y, PLOT_WIDTH, y))
            parts.append(_text(self.y.format_tick(value), -GAP, y + 4, "end", "tick"))
        for value in self.x.ticks():
            x = self._place(value, self.y.low)[0]
            parts.append(_stroke("axis", x, PLOT_HEIGHT, x, PLOT_HEIGHT + GAP))
            label = self.x.format_tick(value)
            parts.append(_text(label, x, PLOT_HEIGHT + ROW, "middle", "tick"))
        return [
            *parts,
            _stroke("axis", 0, PLOT_HEIGHT, PLOT_WIDTH, PLOT_HEIGHT),
            _text(self.y.label, -LEFT, ROW - GAP - top),
            _text(self.x.label, PLOT_WIDTH / 2, PLOT_HEIGHT + 2 * ROW + 4, "middle"),
        ]

    def _drawn_legend(self, top: int) -> list[Html]:
        parts = []
        named = [(number, name) for number, name in enumerate(self._names) if name]
        for row, (number, name) in enumerate(named):
            y = ROW * (row + 2) - GAP - top
            swatch = _stroke(self._series_class(number), 0, y - 4, SWATCH, y - 4)
            parts += [swatch, _text(name, SWATCH + GAP, y)]
        return parts

    def _drawn_marks(self) -> list[Html]:
        """Each text in a row of its own, inwards of its line, and the outermost on top."""
        lines, texts = [], []
        outwards = sorted(self._marks, key=lambda mark: abs(self.x.position(mark[0]) - 0.5))
        for row, (value, text) in enumerate(outwards):
            x = self._place(value, self.y.low)[0]
            y = -ROW * row - GAP
            is_left = self.x.position(value) < 0.5
            lines.append(_stroke("mark", x, y - ROW + GAP, x, PLOT_HEIGHT))
            texts.append(
                _text(text, x + (GAP if is_left else -GAP), y, "start" if is_left else "end")
            )
        return [*lines, *texts]

    def _series_class(self, number: int | None = None) -> str:
        number = len(self._names) if number is None else number
        return f"series series-{number % SERIES_STYLES}"


def _stroke(class_: str, x1: float, y1: float, x2: float, y2: float) -> Html:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def _text(text: str, x: float, y: float, anchor: str = "start", class_: str | None = None) -> Html:
    return tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=class_)
