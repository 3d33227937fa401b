import doctest
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import utils.reports.svg_plots
from utils.reports.markup import STYLE_PATH
from utils.reports.svg_plots import (
    LARGEST,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    SERIES_STYLES,
    Axis,
    Plot,
    axis_for,
    linear_ticks,
    log_ticks,
    percent,
)

CHARACTER_WIDTH = 8  # units: wider than the 13-pixel letters of any usual font are on average


def plot_of(x_high: float = 10, y_high: float = 5) -> Plot:
    return Plot("A plot", Axis("across", 0, x_high), Axis("up", 0, y_high))


def parsed(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(plot.render())


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter("text")]


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(utils.reports.svg_plots)
    assert results.attempted > 0
    assert results.failed == 0


# Axes


def is_round(value: float, digits: set[int]) -> bool:
    """Whether it is one of the digits times a power of ten, to the last bit that print shows."""
    return value == 0 or (int(f"{value:e}"[0]) in digits and float(f"{value:.0e}") == value)


@given(st.floats(0, 1e9), st.floats(1e-6, 1e9))
def test_linear_ticks_are_few_even_and_within(low: float, length: float) -> None:
    assume(length > low / 100)  # no plot zooms in further
    ticks = linear_ticks(low, low + length)
    assert 2 <= len(ticks) <= 7
    assert all(low - length * 1e-6 <= tick <= low + length * (1 + 1e-6) for tick in ticks)
    steps = [right - left for left, right in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-4)
    assert float(f"{steps[0]:.0e}") == pytest.approx(steps[0], rel=1e-4)
    assert f"{steps[0]:.0e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(209, 484), (120, 180), (1_001, 1_999), (10, 11)])
def test_a_short_log_axis_has_ticks_too(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.floats(1e-6, 1e12), st.floats(0.1, 14))
def test_log_ticks_are_few_round_and_within(low: float, decades: float) -> None:
    high = low * 10**decades
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in ticks)
    if decades >= 1:
        assert all(is_round(tick, {1, 2, 5}) for tick in ticks)


@given(st.floats(1e-3, 1e6), st.floats(1.01, 1e6), st.floats(0, 1), st.booleans())
def test_a_position_is_the_share_of_the_way(
    low: float, factor: float, share: float, is_log: bool
) -> None:
    high = low * factor
    value = low * factor**share if is_log else low + (high - low) * share
    axis = Axis("", low, high, is_log)
    assert axis.position(value) == pytest.approx(share, abs=1e-6)
    assert axis.position(low / 2) == 0
    assert axis.position(high * 2) == 1


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@example([3e-322], False)
@given(st.lists(st.floats(-1e30, 1e30) | FINITE, min_size=1), st.booleans())
def test_a_fitting_axis_holds_all_values_and_has_ticks(
    values: list[float], from_zero: bool
) -> None:
    axis = axis_for("", values, from_zero)
    assert all(0 <= axis.position(value) <= 1 for value in values)
    assert axis.low < axis.high
    assert axis.high >= min(max(values), LARGEST)
    assert 2 <= len(axis.ticks()) <= 12
    if from_zero:
        assert axis.low <= 0 <= axis.high
    elif not axis.is_log:
        assert axis.low <= max(min(values), -LARGEST)


def test_values_far_apart_get_a_logarithmic_axis() -> None:
    assert axis_for("", [0.1, 10]).is_log
    assert not axis_for("", [5, 10]).is_log
    assert not axis_for("", [0, 10]).is_log
    assert not axis_for("", [0.1, 10], from_zero=True).is_log


def test_percent_has_no_rounding_noise() -> None:
    assert [percent(tick) for tick in linear_ticks(0, 0.3)] == [
        *("0%", "5%", "10%", "15%", "20%", "25%", "30%")
    ]


# Drawing


def test_a_line_goes_through_its_points() -> None:
    plot = plot_of()
    plot.line([(0, 0), (5, 5), (10, 2.5)], "rise & <fall>")
    (line,) = parsed(plot).iter("polyline")
    assert line.attrib["points"] == (
        f"0.00,{PLOT_HEIGHT:.2f} {PLOT_WIDTH / 2:.2f},0.00 {PLOT_WIDTH:.2f},{PLOT_HEIGHT / 2:.2f}"
    )


def test_series_are_told_apart_and_named_in_the_legend() -> None:
    plot = plot_of()
    for name in ("first", "second"):
        plot.line([(0, 1), (1, 2)], name)
    svg = parsed(plot)
    classes = [line.attrib["class"] for line in svg.iter("polyline")]
    assert len(set(classes)) == 2
    swatches = [
        line.attrib["class"] for line in svg.iter("line") if "series" in line.attrib["class"]
    ]
    assert swatches == classes
    assert [text for text in texts(svg) if text in {"first", "second"}] == ["first", "second"]


def test_a_line_of_one_point_is_a_dot_and_one_of_none_nothing() -> None:
    plot = plot_of()
    plot.line([], "nothing")
    plot.line([(5, 5)], "one")
    svg = parsed(plot)
    assert not list(svg.iter("polyline"))
    (dot,) = svg.iter("circle")
    assert (float(dot.attrib["cx"]), float(dot.attrib["cy"])) == (PLOT_WIDTH / 2, 0)
    assert dot.attrib["class"].endswith("series series-1")


def test_a_line_without_a_name_has_no_place_in_the_legend() -> None:
    plot, named = plot_of(), plot_of()
    for drawn, name in ((plot, ""), (named, "a name")):
        drawn.line([(0, 0), (1, 1)], name)
    assert len(texts(parsed(named))) == len(texts(parsed(plot))) + 1
    assert parsed(plot).find("polyline/title") is not None


def test_every_series_has_a_style() -> None:
    plot = plot_of()
    for number in range(20):
        plot.line([(0, 0), (1, 1)], f"series {number}")
    style = STYLE_PATH.read_text(encoding="utf-8")
    for line in parsed(plot).iter("polyline"):
        assert f".{line.attrib['class'].split()[1]} {{ stroke: " in style
    for number in range(SERIES_STYLES):
        assert len(re.findall(f"--series-{number}: #", style)) == 3, "light, dark and in print"


def test_bars_stand_between_their_edges_and_empty_ones_are_left_out() -> None:
    plot = plot_of()
    plot.bars([0, 2.5, 5, 10], [5, 0, 1], ["a", "b", "c"])
    bars = list(parsed(plot).iter("rect"))
    assert [bar.findtext("title") for bar in bars] == ["a", "c"]
    edges = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in bars]
    assert edges == [(0, PLOT_WIDTH / 4), (PLOT_WIDTH / 2, PLOT_WIDTH / 2)]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert heights == [PLOT_HEIGHT, PLOT_HEIGHT / 5]
    assert [float(bar.attrib["y"]) for bar in bars] == [0, PLOT_HEIGHT * 4 / 5]


@given(
    st.lists(st.floats(0, 10), max_size=6),
    st.lists(st.tuples(st.floats(0, 8), st.floats(0, 5)), max_size=4),
    st.integers(0, 3),
)
def test_no_text_is_clipped_and_none_above_the_axes_lies_on_another(
    marks: list[float], points: list[tuple[float, float]], series: int
) -> None:
    plot = plot_of()
    for number in range(series):
        plot.line([(0, 0), (10, 5)], f"series {number}")
    for number, value in enumerate(marks):
        plot.mark(value, f"mark {number} at {value:.3f}")
    for x, y in points:
        plot.point(x, y, "a point")
    svg = parsed(plot)
    left, top, width, height = map(float, svg.attrib["viewBox"].split())
    rows = []
    for text in svg.iter("text"):
        length = len(text.text or "") * CHARACTER_WIDTH
        x = float(text.attrib["x"])
        start = x - length * {"start": 0, "middle": 0.5, "end": 1}[text.attrib["text-anchor"]]
        assert left <= start
        assert start + length <= left + width
        assert top + 10 <= float(text.attrib["y"]) <= top + height - 4
        if text.text == "up" or (text.text or "").startswith(("mark", "series")):
            rows.append(float(text.attrib["y"]))
    assert len(rows) == 1 + series + len(marks)
    assert max(rows) < 0, "above the axes"
    assert all(below - above > 13 for above, below in pairwise(sorted(rows)))


def test_the_words_are_text_not_markup() -> None:
    plot = Plot("<t>", Axis("<x>", 1, 1000, is_log=True), Axis("<y>", 0, 1))
    plot.line([(1, 1)], "<line>")
    plot.mark(10, "<mark>")
    plot.point(10, 0.5, "<point>")
    svg = parsed(plot)
    assert svg.findtext("title") == "<t>"
    assert {"<x>", "<y>", "<line>", "<mark>", "<point>"} <= set(texts(svg))


def test_ticks_are_labelled_where_they_are() -> None:
    svg = parsed(Plot("", Axis("x", 1, 10_000, is_log=True), Axis("y", 0, 4)))
    ticks = [text for text in svg.iter("text") if text.attrib.get("class") == "tick"]
    across = {
        text.text: float(text.attrib["x"])
        for text in ticks
        if text.attrib["text-anchor"] == "middle"
    }
    assert across == {
        name: pytest.approx(PLOT_WIDTH * number / 4, abs=0.01)
        for number, name in enumerate(["1", "10", "100", "1k", "10k"])
    }
