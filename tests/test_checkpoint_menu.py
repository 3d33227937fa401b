"""utils/chat/checkpoint_menu.py: what its lists say of files, on terminals of any width."""

from pathlib import Path

import pytest

from tests.terminals import type_answers
from tests.tiny import tiny_config
from utils.chat import columns
from utils.chat.checkpoint_menu import ListedCheckpoint, choose_checkpoints, choose_run
from utils.checkpoint import CheckpointSummary
from utils.display_width import display_width
from utils.runs import BEST, LATEST, CheckpointFile, step_name

BLUE, GREEN, NONE = "\x1b[34m", "\x1b[32m", "  "


def listed(name: str, step: int | None, loss: float | None) -> ListedCheckpoint:
    kind = {LATEST: "latest", BEST: "best"}.get(name, "step")
    file = CheckpointFile(Path("run_1", name), kind, step, 1.7e9, 470_000_000)
    return ListedCheckpoint(file, CheckpointSummary(tiny_config(), step, loss, 117_531_648))


def lines_of(
    entries: list[ListedCheckpoint],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int = 120,
) -> list[str]:
    """The list of checkpoints, its heading left out."""
    monkeypatch.setattr(columns, "terminal_columns", lambda: width)
    type_answers(monkeypatch, "1")
    choose_checkpoints(entries, several=False)
    return capsys.readouterr().err.splitlines()[2:]


@pytest.mark.parametrize(
    ("others", "notes"),
    [
        ([(LATEST, 200, 3.5), (step_name(200), 200, 3.5)], ["latest", ""]),
        ([(LATEST, 150, 3.0), (step_name(150), 150, 3.0)], ["latest, best", "best"]),
        ([(LATEST, 180, 3.0), (step_name(100), 100, 3.0)], ["latest", ""]),
    ],
    ids=["worse", "the same step", "the same loss at another step"],
)
def test_the_best_is_the_step_that_training_calls_so(
    others: list[tuple[str, int, float]],
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    entries = [listed(BEST, 150, 3.0), *(listed(*values) for values in others)]
    _, best, latest, step = lines_of(entries, monkeypatch, capsys)
    assert best.startswith(GREEN)
    assert latest.startswith(BLUE)
    assert step.startswith(GREEN if notes[1] else NONE)
    for line, note in zip((latest, step), notes, strict=True):
        assert line.removesuffix("\x1b[0m").partition("117.5 M")[2].strip() == note


def test_foreign_files_without_a_step_are_not_taken_for_the_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [listed(LATEST, None, None), listed(BEST, None, None)]
    _, latest, best = lines_of(entries, monkeypatch, capsys)
    assert latest.endswith("  latest")
    assert best.endswith("  best")


@pytest.mark.parametrize(
    ("width", "last"), [(120, "parameters"), (90, "size"), (80, "saved"), (60, "val loss")]
)
def test_lists_fit_the_terminal(
    width: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [listed(LATEST, 1500, 3.0), listed(BEST, 1500, 3.0), listed(step_name(500), 500, 4.0)]
    header, *lines = lines_of(entries, monkeypatch, capsys, width)
    assert header.endswith(last)
    assert lines[0].endswith("latest, best")
    assert all(display_width(line) < width for line in (header, *lines))


def test_runs_fit_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run_2026_01_01_00_00", "run_2026_01_02_00_00"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LATEST).touch()
    monkeypatch.setattr(columns, "terminal_columns", lambda: 60)
    type_answers(monkeypatch, "1")
    choose_run(tmp_path)
    first, second = capsys.readouterr().err.splitlines()[2:4]
    assert first.endswith("most recent")
    assert second.endswith(":00") or second[-3] == ":", "its date"
    assert len(first) < 60
