"""utils/terminal.py: colour, plain progress lines, and questions only on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable

import pytest

from tests.conftest import REPOSITORY
from utils.errors import UsageError
from utils.terminal import (
    Progress,
    ask,
    can_redraw,
    emit,
    format_seconds,
    say,
    style,
    use_colour,
    warn,
)

COLOUR_VARIABLES = ("NO_COLOR", "FORCE_COLOR", "TERM")


class Stream(io.StringIO):
    """A text stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COLOUR_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),  # no-color.org: only when it is not empty
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ({"TERM": "xterm-256color"}, True, True),
    ],
)
def test_where_colour_belongs(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    is_terminal: bool,
    expected: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert use_colour(Stream(is_terminal)) is expected


@pytest.mark.parametrize(
    ("term", "is_terminal", "expected"),
    [("xterm", True, True), ("xterm", False, False), ("dumb", True, False), (None, True, False)],
)
def test_where_the_cursor_can_move(
    monkeypatch: pytest.MonkeyPatch, term: str | None, is_terminal: bool, expected: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")  # which is about colour alone
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert can_redraw(Stream(is_terminal)) is expected


def test_a_character_that_the_output_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UsageError, match=r"(?s)ascii, which has no '\\u6f22'.*utf-8"):
        emit("plain, then 漢")


def test_style_codes() -> None:
    terminal_stream, file = Stream(True), Stream(False)
    assert style("best", "green", "bold", stream=terminal_stream) == "\033[32;1mbest\033[0m"
    assert style("best", "green", stream=file) == "best"
    assert style("best", stream=terminal_stream) == "best"


def test_messages_go_to_stderr_and_results_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("a message")
    warn("a doubt")
    emit("a result")
    emit("no newline", end="")
    captured = capsys.readouterr()
    assert captured.err == "a message\nwarning: a doubt\n"
    assert captured.out == "a result\nno newline"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still until it is moved by some seconds."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_plain_progress_is_a_line_every_few_seconds(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("Cleaning", total=100, unit="files") as progress:
        for _ in range(60):
            clock(0.2)
            progress.advance(1, "latest note")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Cleaning: 25 of 100 files (25%), 5 files/s, 15 s left, latest note",
        "Cleaning: 50 of 100 files (50%), 5 files/s, 10 s left, latest note",
    ]


def test_progress_in_bytes_from_where_it_stood(clock: Callable[[float], None]) -> None:
    with Progress("Reading", total=4e6, unit="B", initial=1e6) as progress:
        clock(2)
        progress.advance(2e6)
        assert progress.line() == "Reading: 3.0 of 4.0 MB (75%), 1.0 MB/s, 1.0 s left"


def test_progress_without_a_total(clock: Callable[[float], None]) -> None:
    with Progress("Reading", total=None, unit="lines") as progress:
        clock(4)
        progress.advance(2)
        assert progress.line() == "Reading: 2 lines, 0.5 lines/s"


def test_progress_on_a_terminal_is_a_bar_below_messages() -> None:
    """Through a real pseudo-terminal: the bar redraws with carriage returns, messages stay."""
    code = """
        from utils.terminal import Progress, say
        with Progress("Counting", 3, "steps") as progress:
            progress.advance(1, "loss 1.5")
            say("a message")
            progress.advance(2)
    """
    output = run_on_terminal(code)
    assert "a message\r\n" in output
    assert re.search(r"\rCounting: +33%.*loss 1\.5", output)


def test_a_long_note_has_the_room_of_the_bar() -> None:
    code = """
        from utils.terminal import Progress, say
        with Progress("Training", 40, "steps", leaves_room=True) as progress:
            progress.advance(10, "loss 1.5, 441.3k tokens/s")
            say("redrawn after a message")
    """
    assert re.search(
        r"\rTraining: 10/40 \[\d\d:\d\d<[\d:?]+\], loss 1\.5, 441\.3k tokens/s",
        run_on_terminal(code),
    )


def test_no_colour_is_honoured_on_a_terminal() -> None:
    code = """
        from utils.terminal import say, warn
        say("plain", "red"); warn("words")
    """
    assert "\033[31mplain\033[0m" in run_on_terminal(code)
    assert "\033[" not in run_on_terminal(code, NO_COLOR="1")


def test_ask_on_a_terminal() -> None:
    code = """
        from utils.terminal import ask, emit
        emit("answer: " + repr(ask("Which run? ", "--run")))
    """
    assert "answer: 'the second'" in run_on_terminal(code, typed=b"  the second \n")


def test_ask_ends_with_the_input() -> None:
    code = """
        from utils.terminal import ask, emit
        try:
            ask("Which run? ", "--run")
        except EOFError:
            emit("no more input")
    """
    assert "no more input" in run_on_terminal(code, typed=b"\x04")


def test_ask_without_a_terminal_names_the_flag() -> None:
    with pytest.raises(UsageError, match="there is no terminal to ask 'Which run\\?' on") as caught:
        ask("Which run? ", "--run NAME")
    assert caught.value.hint == "Give --run NAME."
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def run_on_terminal(code: str, typed: bytes = b"", **environment: str) -> str:
    """What a Python process on a pseudo-terminal writes, `typed` being typed to it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    variables = {name: v for name, v in os.environ.items() if name not in COLOUR_VARIABLES}
    variables |= {"TERM": "xterm", **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=REPOSITORY,
        env=variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, typed)
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:  # Linux ends a terminal whose other side is closed with EIO
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0, output
    return output.decode()
