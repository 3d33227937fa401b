"""Everything the scripts say: messages and progress on stderr, data on stdout, questions on a tty.

Colour follows NO_COLOR, FORCE_COLOR and TERM=dumb (https://no-color.org); progress is a bar on a
terminal and a plain line every few seconds elsewhere.
"""

import os
import re
import sys
import time
from collections import deque
from types import TracebackType
from typing import IO, Self

from tqdm import tqdm

from utils.errors import UsageError

PLAIN_INTERVAL_SECONDS = 5.0
RATE_LINES = 12  # a rate on plain lines is that of the last minute
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


class OutputClosedError(Exception):
    """The reader of our output, such as `head`, has seen enough."""


def use_colour(stream: IO[str]) -> bool:
    """Whether escape codes belong on `stream`: NO_COLOR wins over FORCE_COLOR, then a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def style(text: str, *names: str, stream: IO[str] | None = None) -> str:
    """`text` in the named styles, or unchanged where `stream` (default stderr) takes no colour."""
    if not names or not use_colour(stream or sys.stderr):
        return text
    codes = ";".join(_CODES[name] for name in names)
    return f"\033[{codes}m{text}\033[0m"


def say(text: str = "", *styles: str) -> None:
    """A message for the person: stderr, above a running progress bar.

    If nobody reads it any more (a closed pipe, a lost connection), work goes on without.
    """
    try:
        tqdm.write(style(text, *styles), file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def warn(text: str) -> None:
    say(f"{style('warning:', 'yellow')} {text}")


def say_error(error: object) -> None:
    shown = "\n".join(map(printable, str(error).split("\n")))
    say(f"{style('error:', 'red', 'bold')} {shown}")


def emit(text: str = "", end: str = "\n") -> None:
    """A result for the person or the next program: stdout. Raises OutputClosedError.

    Raises UsageError where stdout's encoding has no such character.
    """
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"standard output is {error.encoding}, which has no {error.object[error.start]!a}",
            "Set PYTHONIOENCODING=utf-8.",
        ) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputClosedError from None


def is_interactive() -> bool:
    """Whether questions can be asked: both ends are a terminal. NO_COLOR has no say in it."""
    streams = (sys.stdin, sys.stdout)  # None where one was closed
    return all(stream is not None and stream.isatty() for stream in streams)


def can_redraw(stream: IO[str]) -> bool:
    """Whether `stream` is a terminal that takes cursor movements. NO_COLOR has no say in it."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def ask(question: str, flag: str, strip: bool = True) -> str:
    """The answer typed to `question`; `strip` False keeps its outer spaces.

    Without a terminal it raises UsageError, which names `flag` as the way to answer. Ctrl-D
    raises EOFError.
    """
    if not is_interactive():
        raise UsageError(f"there is no terminal to ask {question.strip()!r} on", f"Give {flag}.")
    answer = input(question)
    return answer.strip() if strip else answer


def printable(text: str) -> str:
    """`text` with control characters spelled out, so that it cannot command a terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def format_seconds(seconds: float) -> str:
    """A duration for people: "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_ROOMY = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"


class Progress:
    """Progress with rate and time left: a bar on a terminal, else a line every few seconds.

    `unit` names what is counted ("B" is scaled to kB, MB, GB); `total` None means unknown. With
    `leaves_room` the bar and the rate give way to a long note. Use as a context manager; call
    `advance(count, note)` as work is done.
    """

    def __init__(
        self,
        label: str,
        total: float | None,
        unit: str,
        initial: float = 0,
        leaves_room: bool = False,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.initial = initial
        self.note = ""
        # (seconds, done) at the start and at each line since: rates are of the last of these.
        self.marks = deque([(time.monotonic(), initial)], maxlen=RATE_LINES)
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                desc=label,
                total=total,
                initial=initial,
                unit=unit if unit == "B" else f" {unit}",
                unit_scale=unit == "B" or (total is not None and total >= 100_000),
                dynamic_ncols=True,
                colour="green" if use_colour(sys.stderr) else None,
                file=sys.stderr,
                leave=False,
                bar_format=_ROOMY if leaves_room else None,
            )

    def advance(self, count: float = 1, note: str = "") -> None:
        """Count `count` more units done; `note` replaces the text behind the numbers."""
        self.done += count
        self.note = note or self.note
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.marks[-1][0] >= PLAIN_INTERVAL_SECONDS:
            say(self.line())
            self.marks.append((time.monotonic(), self.done))

    def line(self) -> str:
        """The state as one plain line."""
        since_seconds, since_done = self.marks[0]
        rate = (self.done - since_done) / max(time.monotonic() - since_seconds, 1e-9)
        parts = [f"{self.label}: {self._amount(self.done)}"]
        if self.total:
            done, _, _ = self._amount(self.done).partition(" ")
            share = self.done / self.total
            parts = [f"{self.label}: {done} of {self._amount(self.total)} ({share:.0%})"]
        parts.append(f"{self._amount(rate)}/s")
        if self.total and rate > 0:
            parts.append(f"{format_seconds(max(self.total - self.done, 0) / rate)} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _amount(self, count: float) -> str:
        if self.unit == "B":
            return f"{count / 1e6:,.1f} MB"
        return f"{count:,.0f} {self.unit}" if count >= 10 else f"{count:.3g} {self.unit}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
