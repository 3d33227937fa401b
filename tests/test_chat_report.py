"""utils/chat/report.py: statistics that mean what they say, and fit."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from utils.chat import columns
from utils.chat.completion import Completion, TextCodec
from utils.chat.models import LoadedModel
from utils.chat.report import Result, emit_json, say_restarts, say_statistics, say_summary
from utils.generation import Engine
from utils.sampling import Sampling


def result(label: str = "checkpoint_best.pt", **values: Any) -> Result:
    parts = cast(tuple[Engine, TextCodec], (SimpleNamespace(), SimpleNamespace()))
    model = LoadedModel(label, Path(label), 150, 10_000, 512, None, *parts)
    defaults = {
        "text": " said",
        "tokens": 100,
        "seconds": 2.0,
        "first_token_seconds": 0.0123,
        "log_probability": -230.0,
        "restarts": 0,
        "finish": "length",
        "seed": 7,
    }
    completion = Completion(**{**defaults, **values})
    return Result(model, "The", Sampling(100, 0.8, 50, 0.95, seed=7), [completion])


def test_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    say_statistics(result())
    assert capsys.readouterr().err == (
        "100 tokens in 2.00 s, 50.0 tokens/s, first token after 12.3 ms\n"
        "mean log-probability -2.300 (perplexity 10.0); reached the maximum length; seed 7\n"
    )
    say_statistics(result(tokens=0, seconds=0.0, first_token_seconds=None, log_probability=0.0))
    assert capsys.readouterr().err == ("0 tokens in 0.00 s\nreached the maximum length; seed 7\n")


def test_json_has_the_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json(result(restarts=2))
    emit_json(result(tokens=0, seconds=0.0, first_token_seconds=None, log_probability=0.0))
    emit_json(result(log_probability=-math.inf))
    full, empty, impossible = map(json.loads, capsys.readouterr().out.splitlines())
    assert full["time_to_first_token_seconds"] == 0.0123
    assert full["mean_log_probability"] == -2.3
    assert full["window_restarts"] == 2
    assert empty["time_to_first_token_seconds"] is empty["mean_log_probability"] is None
    assert impossible["mean_log_probability"] is None, "JSON has no infinity"


@pytest.mark.parametrize(
    ("restarts", "words"),
    [(1, "the window of 512 tokens was full: generation"), (1200, "was full 1,200 times: gen")],
)
def test_a_full_window_is_said_once_a_text(
    capsys: pytest.CaptureFixture[str], restarts: int, words: str
) -> None:
    say_restarts([result(restarts=restarts)])
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    say_restarts([result("one"), result("two", restarts=1)])
    assert capsys.readouterr().err.startswith("two: the window")


def test_windows_full_of_several_samples_are_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = [result(restarts=count).completions[0] for count in (2, 0, 1)]
    say_restarts([replace(result(), completions=samples)])
    assert capsys.readouterr().err == (
        "the window of 512 tokens was full in 2 of 3 samples: generation went on from its last"
        " half\n"
    )


def test_the_summary_names_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    fast = result("fast", seconds=1.0, tokens=20, log_probability=-60.0)
    long = result("long", seconds=4.0, tokens=200, log_probability=-700.0)
    quick = result("quick", seconds=2.0, tokens=180, log_probability=-500.0)
    likely = result("likely", seconds=3.0, tokens=100, log_probability=-200.0)
    say_summary([fast, long, quick, likely])
    said = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["fastest", "fast", "1.00", "s"] in said
    assert ["most", "tokens", "long", "200"] in said
    assert ["highest", "speed", "quick", "90.0", "tokens/s"] in said
    assert ["best", "log-prob", "likely", "-2.000"] in said


def test_nothing_generated_has_no_winner(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = result(tokens=0, seconds=0.0, first_token_seconds=None, log_probability=0.0)
    say_summary([nothing, nothing])
    assert "fastest" not in capsys.readouterr().err


@pytest.mark.parametrize(("width", "last"), [(130, "end"), (100, "perplexity"), (60, "log-prob")])
def test_the_table_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, last: str
) -> None:
    monkeypatch.setattr(columns, "terminal_columns", lambda: width)
    say_summary([result("checkpoint_latest.pt"), result("checkpoint_step_1000.pt")])
    _, _, header, *lines = capsys.readouterr().err.splitlines()
    assert header.endswith(last)
    assert all(len(line) < width for line in (header, *lines))
