"""utils/reports/run_report.py: a run's report, read back with Python's own HTML parser."""

import doctest
import json
import math
import re
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.logging_utils
import utils.reports.run_curves
import utils.reports.run_report
from tests.parsed_html import ParsedHtml
from tests.test_markup import HOSTILE
from utils.config import Config
from utils.config_file import parse_config
from utils.errors import UsageError
from utils.logging_utils import (
    EVENT,
    LOSS_SPIKE,
    SAMPLE_TAG,
    SKIPPED_STEP,
    STARTED,
    DualLogger,
    metrics_path,
)
from utils.metrics import (
    BITS_PER_BYTE,
    MFU,
    TOKENS_PER_SECOND,
    TOKENS_SEEN,
    TRAIN_LOSS,
    VALIDATION_LOSS,
)
from utils.reports.run_curves import COLUMNS, read_run, thinned
from utils.reports.run_report import write_run_report

RUN, OTHER = "run_2026_11_22_10_00", "run_2026_11_22_11_00_other"


class Clock:
    """Stands in for the module `time`: it goes on only when told to."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(utils.logging_utils, "time", clock)
    return clock


def config_of(**training: Any) -> Config:
    return parse_config({"training": training}, "test", Path("/base"))


def write_log(log_dir: Path, *records: dict[str, Any], name: str = RUN) -> None:
    """The records as they would be logged, without a logger."""
    path = metrics_path(log_dir, name)
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"time": 1.8e9, **record}) + "\n" for record in records))


def report(log_dir: Path, *compare: str) -> ParsedHtml:
    return ParsedHtml(write_run_report(log_dir, RUN, compare).read_text(encoding="utf-8"))


def values_of(parsed: ParsedHtml) -> dict[str, str]:
    names = [text for element, text in parsed.texts if element == "dt"]
    values = [text for element, text in parsed.texts if element == "dd"]
    return dict(zip(names, values, strict=False))


def cells_of(parsed: ParsedHtml) -> list[str]:
    return [text for element, text in parsed.texts if element == "td"]


@pytest.mark.parametrize("module", [utils.reports.run_report, utils.reports.run_curves])
def test_examples_of_the_docstrings(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_report_is_one_file_that_loads_and_runs_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, {"step": 1, TRAIN_LOSS: 3.0}, {"step": 2, TRAIN_LOSS: 2.0})
    path = write_run_report(tmp_path, RUN)
    assert path == metrics_path(tmp_path, RUN).with_name("report.html")
    text = path.read_text(encoding="utf-8")
    parsed = ParsedHtml(text)
    attributes = {key for _, found in parsed.tags for key in found}
    assert not attributes & {"src", "href", "srcset", "action", "data"}
    assert not {name for name, _ in parsed.tags} & {"script", "link", "img", "iframe", "a"}
    assert not re.search(r"https?://|<script", text)
    policies = [found["content"] for _, found in parsed.tags if "http-equiv" in found]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert write_run_report(tmp_path, RUN).read_text(encoding="utf-8") == text


def test_the_figures_on_top_are_those_of_the_log(tmp_path: Path, clock: Clock) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        for step, loss in ((0, 9.0), (10, 3.0), (20, 4.0)):
            clock.now += 30
            logger.log_scalars(step, {VALIDATION_LOSS: loss, BITS_PER_BYTE: loss / 3})
        clock.now += 30
        logger.log_scalars(25, {TRAIN_LOSS: 3.5, TOKENS_PER_SECOND: 123_456.0})
    values = values_of(report(tmp_path))
    assert values["steps"] == "25"
    assert values["time"] == "2 min 00 s"
    assert values["best loss, at step 10"] == "3.0000"
    assert values["its perplexity"] == f"{math.exp(3):.2f}"
    assert values["its bits per byte"] == "1.0000"
    assert values["last validation loss"] == "4.0000"
    assert values["last training loss"] == "3.5000"
    assert values["tokens a second"] == "123,456"
    assert values["skipped steps"] == "0"


def test_each_curve_that_was_logged_is_drawn(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        *({"step": step, TRAIN_LOSS: 10 / step, "train/learning_rate": 1e-3} for step in (1, 2, 4)),
        {"step": 4, VALIDATION_LOSS: 2.0},
    )
    parsed = report(tmp_path)
    lines = [found for name, found in parsed.tags if name == "polyline"]
    assert [len((found["points"] or "").split()) for found in lines] == [3, 3]
    dots = [found for name, found in parsed.tags if name == "circle"]
    assert len(dots) == 1, "one point is no line"
    captions = parsed.text("figcaption")
    for missing in ("Bits per byte", "Gradient norm", "Throughput"):
        assert f"{missing}: nothing logged yet." in captions


def test_learning_rates_share_a_plot_and_are_told_apart(tmp_path: Path) -> None:
    rates = {"train/learning_rate": 1e-3, "train/muon_learning_rate": 2e-2}
    write_log(tmp_path, *({"step": step, **rates, "val/learning_rate": 1} for step in (1, 2)))
    path = write_run_report(tmp_path, RUN)
    plots = re.findall("<svg.*?</svg>", path.read_text(encoding="utf-8"))
    (plot,) = (plot for plot in plots if "<title>Learning rate</title>" in plot)
    assert plot.count("<polyline") == 2
    assert re.findall(r">([a-z]+/\w*)</text>", plot) == list(rates)


def test_a_run_without_a_record_has_a_report(tmp_path: Path) -> None:
    metrics_path(tmp_path, RUN).parent.mkdir(parents=True)
    values = values_of(report(tmp_path))
    assert values["steps"] == "0"
    assert report(tmp_path, RUN).text("h1") == RUN


def test_values_that_are_not_finite_are_counted_not_drawn(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        *({"step": step, TRAIN_LOSS: loss} for step, loss in enumerate([2.0, "nan", "inf", 1.0])),
        {"step": 3, VALIDATION_LOSS: "nan", BITS_PER_BYTE: "inf"},
    )
    parsed = report(tmp_path)
    assert "3 values that are not finite are not drawn." in parsed.text("figcaption")
    assert values_of(parsed)["last validation loss"] == "nan"
    assert not any(name.startswith("best") for name in values_of(parsed))
    (line,) = (found for name, found in parsed.tags if name == "polyline")
    assert "nan" not in (line["points"] or "")


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [5.0, 5.0],
        [-1.0, 1.0],
        [1e-30, 1e30],
        [1e308, 1e308],
        [-1.7e308, 1.7e308],
        [5e-324, 1.7e308],
        [5e-324, 1e-322],
        [5.0, 5.0 + 1e-12],
    ],
)
def test_any_range_of_values_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    write_log(
        tmp_path,
        *(
            {"step": step, TRAIN_LOSS: value, TOKENS_PER_SECOND: value}
            for step, value in enumerate(values)
        ),
    )
    lines = [found for name, found in report(tmp_path).tags if name == "polyline"]
    assert len(lines) == 2
    assert not re.search("nan|inf", "".join(found["points"] or "" for found in lines))


ANY_TEXT = st.sampled_from([*HOSTILE, "\ud800", "\0"]) | st.text()
ANY_NUMBER = st.floats() | st.integers(-(10**400), 10**400)
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | ANY_NUMBER | ANY_TEXT | st.sampled_from(["nan", "inf", "-inf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)
KNOWN_KEYS = [
    *("time", STARTED, EVENT, "loss", "gradient_norm", "windows", f"{SAMPLE_TAG}1"),
    *(f"{SAMPLE_TAG}x", f"{SAMPLE_TAG}01", "train/learning_rate", "train/\ud800learning_rate"),
    *(TRAIN_LOSS, VALIDATION_LOSS, BITS_PER_BYTE, TOKENS_PER_SECOND, TOKENS_SEEN, MFU),
]
ANY_RECORD = st.dictionaries(
    st.sampled_from(KNOWN_KEYS) | ANY_TEXT, ANY_VALUE | ANY_NUMBER, max_size=8
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100) | ANY_VALUE, ANY_RECORD), max_size=8),
    st.dictionaries(ANY_TEXT, ANY_VALUE, max_size=3),
)
def test_no_log_is_too_odd_for_a_report(
    found: list[tuple[Any, dict[str, Any]]], beside: dict[str, Any]
) -> None:
    with TemporaryDirectory() as folder:
        log_dir = Path(folder)
        write_log(log_dir, *({**record, "step": step} for step, record in found))
        path = metrics_path(log_dir, RUN)
        path.with_name("config.json").write_text(json.dumps({"training": beside, **beside}))
        path.with_name("environment.json").write_text(json.dumps(beside))
        write_log(log_dir, {"step": 1, TRAIN_LOSS: 1.0}, name=OTHER)
        svgs = re.findall("<svg.*?</svg>", write_run_report(log_dir, RUN, [OTHER]).read_text())
    numbers = re.findall(r'(?:points|cx|cy|x|y|x1|y1)="([^"]*)"', "".join(svgs))
    assert not re.search("nan|inf", "".join(numbers))


def test_of_an_odd_log_the_rest_is_shown(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        {"step": 1, TRAIN_LOSS: None, VALIDATION_LOSS: 3.0},
        {"step": "two", TRAIN_LOSS: 9.0},
        {"step": True, TRAIN_LOSS: 9.0},
        {"step": 3, TRAIN_LOSS: 2.0, VALIDATION_LOSS: False, "time": None},
        {"step": 4, TRAIN_LOSS: "2.5", VALIDATION_LOSS: 10**400},
        {"step": 5, EVENT: SKIPPED_STEP, "windows": None, "loss": "much", "time": "late"},
        {"step": 6, EVENT: LOSS_SPIKE, "windows": [7, None, 8], "loss": 4, "time": 1.8e9 + 60},
        {"step": 6, f"{SAMPLE_TAG}x": "no number", f"{SAMPLE_TAG}1": 5, f"{SAMPLE_TAG}2": "text"},
    )
    config = {"training": {"metrics_window_steps": "\ud800", "sample_prompts": None}}
    metrics_path(tmp_path, RUN).with_name("config.json").write_text(json.dumps(config))
    parsed = report(tmp_path)
    values = values_of(parsed)
    assert (values["steps"], values["time"]) == ("6", "1 min 00 s")
    assert (values["last training loss"], values["last validation loss"]) == ("2.0000", "3.0000")
    assert cells_of(parsed)[:5] == [SKIPPED_STEP, "5", LOSS_SPIKE, "6", "4"]
    assert "7, 8" in parsed.text("div")
    assert [text for element, text in parsed.texts if element == "h3"] == ["prompt 2"]
    assert parsed.text("pre") == "text"


def test_a_line_that_a_crash_spoiled_is_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, {"step": 1, TRAIN_LOSS: 3.0})
    with metrics_path(tmp_path, RUN).open("ab") as file:
        file.write(b'{"step": 2, "train/loss": 4.0, "val')
    values = values_of(report(tmp_path))
    assert (values["steps"], values["last training loss"]) == ("1", "3.0000")


def test_a_long_run_makes_a_small_file_that_shows_its_extremes(tmp_path: Path) -> None:
    points = [(step, 3 + math.sin(step)) for step in range(100_000)]
    points[54_321] = (54_321, 1000.0)
    points[12_345] = (12_345, 0.001)
    kept = thinned(points)
    assert len(kept) <= 2 * COLUMNS + 2
    assert {points[0], points[-1], points[54_321], points[12_345]} <= set(kept)
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    write_log(
        tmp_path,
        *({"step": s, TRAIN_LOSS: y, TOKENS_PER_SECOND: y, VALIDATION_LOSS: y} for s, y in points),
    )
    assert write_run_report(tmp_path, RUN).stat().st_size < 100_000


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Such a report has the elements of one with harmless text, and no others."""

    def elements(log_dir: Path, text: str) -> tuple[list[str], str]:
        with closing(DualLogger(log_dir, RUN)) as logger:
            logger.log_config(config_of(sample_prompts=[text]), {text: text})
            logger.log_text(1, f"{SAMPLE_TAG}1", text)
            logger.log_event(1, text, loss=1.0, windows=[1])
        parsed = report(log_dir)
        return [name for name, _ in parsed.tags], parsed.text("pre")

    for number, hostile in enumerate(HOSTILE):
        found, shown = elements(tmp_path / str(number), hostile)
        assert found == elements(tmp_path / f"{number}_harmless", "x")[0]
        assert shown == hostile


# Events, samples, configuration


def test_skipped_steps_and_spikes_are_listed(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_event(1234, SKIPPED_STEP, loss=math.nan, gradient_norm=math.inf, windows=[7, 9])
        logger.log_event(2000, LOSS_SPIKE, loss=8.25, mean=3.0, windows=list(range(100)))
    parsed = report(tmp_path)
    cells = cells_of(parsed)
    assert cells[:4] == [SKIPPED_STEP, "1,234", "nan", "inf"]
    assert cells[4:7] == [LOSS_SPIKE, "2,000", "8.25"]
    assert "7, 9" in parsed.text("div")
    assert "62, 63 and 36 more" in parsed.text("div")
    assert values_of(parsed)["skipped steps"] == "1"


def test_text_of_each_prompt_is_shown_from_first_to_last(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_config(config_of(sample_prompts=["One day", "def f"]))
        for step in range(0, 100, 10):
            logger.log_text(step, f"{SAMPLE_TAG}1", f"One day {step}\nit \x07 <rained>")
            logger.log_text(step, f"{SAMPLE_TAG}2", f"def f{step}")
    parsed = report(tmp_path)
    assert [text for element, text in parsed.texts if element == "h3"] == ["prompt 1", "prompt 2"]
    steps = [text for element, text in parsed.texts if element == "p" and "step " in text]
    assert steps == [f"step {step}" for step in (0, 20, 40, 70, 90)] * 2
    assert "One day 90\nit " in parsed.text("pre")
    assert "<rained>" in parsed.text("pre")
    assert r"\x07" in parsed.text("span")


def test_texts_do_not_stand_under_a_prompt_that_came_later(tmp_path: Path) -> None:
    for start, prompt in enumerate(["One day", "def f"]):
        with closing(DualLogger(tmp_path, RUN, resumed_step=start)) as logger:
            logger.log_config(config_of(sample_prompts=[prompt]))
            logger.log_text(start, f"{SAMPLE_TAG}1", f"{prompt} ...")
    path = write_run_report(tmp_path, RUN)
    _, _, rest = path.read_text(encoding="utf-8").partition("Sample text</h2>")
    part, _, _ = rest.partition("</section>")
    assert (part.count("One day"), part.count("def f")) == (1, 1)


def test_what_differs_from_the_defaults_comes_first_and_all_is_folded(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_config(config_of(learning_rate=1e-4), {"device": "a GPU", "parameters": 5})
    text = write_run_report(tmp_path, RUN).read_text(encoding="utf-8")
    _, _, rest = text.partition("What differs from the defaults:")
    changed, _, all_keys = rest.partition("<details>")
    names = [t for element, t in ParsedHtml(f"<p>{changed}").texts if element == "dt"]
    assert names == ["training.learning_rate"]
    for key in ("training.batch_size", "paths.log_dir", "training.learning_rate"):
        assert f"<dt>{key}</dt>" in all_keys
    values = values_of(ParsedHtml(text))
    assert values["device"] == "a GPU"
    assert values["parameters"] == "5"


# Comparison


def compared(tmp_path: Path, clock: Clock) -> None:
    for name, rate, seconds in ((RUN, 1e-3, 36.0), (OTHER, 2e-3, 72.0)):
        with closing(DualLogger(tmp_path, name)) as logger:
            logger.log_config(config_of(learning_rate=rate), {"device": name})
            for step in (10, 20):
                clock.now += seconds
                logger.log_scalars(step, {VALIDATION_LOSS: rate * step, BITS_PER_BYTE: 1.0})
                logger.log_scalars(step, {TRAIN_LOSS: 1.0})


def test_compared_runs_lie_over_each_other(tmp_path: Path, clock: Clock) -> None:
    compared(tmp_path, clock)
    text = write_run_report(tmp_path, RUN, [OTHER, RUN]).read_text(encoding="utf-8")
    _, _, rest = text.partition("Runs compared</h2>")
    part, _, _ = rest.partition("</section>")
    assert part.count("<polyline") == 8, "two losses over two axes of two runs"
    assert part.count("hours of training</text>") == 2
    assert part.count(f">{OTHER}</text>") == 4
    cells = re.findall(r"<td>(.*?)</td>", part)
    assert cells[:7] == [RUN, "20", "1 min 12 s", "0.0100", "10", "1.0000", ""]
    assert cells[7:14] == [OTHER, "20", "2 min 24 s", "0.0200", "10", "1.0000", ""]
    differing = cells[14:]
    assert differing == ["training.learning_rate", "0.001", "0.002", "device", RUN, OTHER]


def test_a_run_is_also_known_by_its_folder(tmp_path: Path, clock: Clock) -> None:
    compared(tmp_path, clock)
    assert "Runs compared" in report(tmp_path, f"checkpoints/{OTHER}/").text("h2")


def test_an_unknown_run_is_refused_and_the_known_are_named(tmp_path: Path, clock: Clock) -> None:
    compared(tmp_path, clock)
    with pytest.raises(UsageError) as caught:
        write_run_report(tmp_path, RUN, ["run_of_nobody"])
    assert "run_of_nobody: no run of this name has logs in" in caught.value.what
    assert caught.value.hint == f"Runs, newest first: {OTHER}, {RUN}"
    assert not metrics_path(tmp_path, RUN).with_name("report.html").exists()
    with pytest.raises(UsageError, match="No run has any there"):
        write_run_report(tmp_path / "absent", RUN)


def test_hours_leave_out_pauses_and_lost_work(tmp_path: Path, clock: Clock) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        for step in (1, 2, 3):
            clock.now += 3600
            logger.log_scalars(step, {TRAIN_LOSS: 1.0})
    clock.now += 1e6
    with closing(DualLogger(tmp_path, RUN, resumed_step=2)) as logger:
        clock.now += 1800
        logger.log_scalars(3, {TRAIN_LOSS: 1.0})
    hours = [hour for hour, _ in read_run(tmp_path, RUN).curve_over_hours(TRAIN_LOSS)]
    assert hours == pytest.approx([1.0, 2.0, 2.5])
