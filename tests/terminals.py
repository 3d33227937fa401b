"""A script on a terminal of its own, and what a terminal shows of the text that it was sent."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from contextlib import suppress

import pytest

from tests.conftest import REPOSITORY

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PASTING = re.compile(r"\x1b\[\?2004([hl])")  # "mark what is pasted", on and off: nothing to see
_SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])")


class Terminal:
    """A program on a terminal of its own: the shell opens it, so that Ctrl-C is the real one."""

    def __init__(self, *command: str, columns: int = 80, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.slave = slave  # kept open: a terminal nobody holds loses what is unread
        self.resize(columns)
        name = os.ttyname(slave)
        # pytest's readline sets the size for all that it starts.
        dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        kept = {k: v for k, v in os.environ.items() if k not in dropped}
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" <{name} >{name} 2>&1', "sh", sys.executable, *command],
            cwd=REPOSITORY,
            env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )
        self.screen = ""
        self.marks_pasted = False
        self.seen = 0

    def resize(self, columns: int, rows: int = 24) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, words: str, seconds: float = 60) -> str:
        """Wait until `words` appear after what was expected before; returns what came up to it."""
        deadline = time.monotonic() + seconds
        while (found := self.screen.find(words, self.seen)) < 0:
            self._read(words, deadline)
        part = self.screen[self.seen : found + len(words)]
        self.seen = found + len(words)
        return part

    def expect_more(self, characters: int) -> None:
        """Wait for any text of some length."""
        deadline = time.monotonic() + 60
        while len(self.screen) < self.seen + characters:
            self._read(f"more than {self.screen[self.seen :]}", deadline)

    def _read(self, awaited: str, deadline: float) -> None:
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"{awaited!r} did not come; the screen:\n{self.screen}")
        read = os.read(self.master, 65536).decode("utf-8", "replace")
        self.screen += read
        for code in _PASTING.findall(self.screen):
            self.marks_pasted = code == "h"
        self.screen = _PASTING.sub("", self.screen)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def paste(self, text: str) -> None:
        """As terminals do it: marked as pasted only for a program that has asked for that."""
        self.type(f"\x1b[200~{text}\x1b[201~" if self.marks_pasted else text)

    def answer(self, question: str, text: str) -> str:
        """Wait for a question and type a line; returns what stood before the question."""
        shown = self.expect(question)
        self.type(text + "\n")
        return shown

    def interrupt(self, words: str) -> str:
        """Ctrl-C at a question, until `words` appear; returns what came up to them.

        One that comes just before input() listens waits for the next key.
        """
        for _ in range(20):
            self.type("\x03")
            with suppress(TimeoutError):
                return self.expect(words, seconds=3)
        raise TimeoutError(f"{words!r} did not come; the screen:\n{self.screen}")

    def exit_code(self) -> int:
        return self.process.wait(timeout=30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


def type_answers(monkeypatch: pytest.MonkeyPatch, *answers: str | BaseException) -> list[str]:
    """Answer the questions of this process, in order, then with Ctrl-D; returns them as they come.

    An answer that is an exception is raised, as KeyboardInterrupt is by Ctrl-C.
    """
    left, asked = list(answers), []

    def ask(question: str, flag: str, strip: bool = True) -> str:
        asked.append(question)
        answer = left.pop(0) if left else EOFError()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("utils.chat.menus.ask", ask)
    for module in ("Inference", "utils.chat.selection"):
        monkeypatch.setattr(f"{module}.is_interactive", lambda: True)
    return asked


def shown_lines(sent: str, columns: int) -> list[str]:
    """The lines that a terminal of some columns shows of what it was sent; it scrolls for ever.

    Knows what Columns uses: carriage return, newline, colours, "erase to the end of the line",
    "go to column N" and wrapping on and off; anything else is a mistake. As some terminals do, it
    shows the skin tone of an emoji beside it.
    """
    lines: list[list[str]] = [[" "] * columns]
    column = position = 0
    wraps = True
    while position < len(sent):
        if sequence := _SEQUENCE.match(sent, position):
            position = sequence.end()
            if sequence[2] == "K":
                lines[-1][column:] = [" "] * (columns - column)
            elif sequence[2] == "G":
                column = int(sequence[1]) - 1
            elif sequence[1] == "?7":
                wraps = {"h": True, "l": False}[sequence[2]]
            else:
                assert sequence[2] == "m", sequence[0]
            continue
        character = sent[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append([" "] * columns)
            column = 0  # the line discipline adds the carriage return
        elif unicodedata.category(character) in ("Mn", "Cf"):
            lines[-1][column - 1] += character
        else:
            width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if column + width > columns and not wraps:
                column = columns - width
            elif column + width > columns:
                lines.append([" "] * columns)
                column = 0
            lines[-1][column : column + width] = [character, ""][:width]
            column += width
    return ["".join(line).rstrip() for line in lines]
