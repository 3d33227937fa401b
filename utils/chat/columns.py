"""Texts side by side in columns of a terminal, row by row as they grow.

Rows are written from top to bottom, each once all its columns are known, and only the last one is
drawn anew while it grows: what has been written is never touched again, so it scrolls, and
survives a change of the terminal's width, as any text does. Rows behind such a change have the new
width.
"""

import math
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TypeVar

from utils.display_width import display_width, padded, wrap
from utils.terminal import emit, printable, style

T = TypeVar("T")
MIN_COLUMN = 24  # narrower text is no pleasure to read
_GAP = " | "
_TAB = "    "
_ERASE_REST = "\033[K"
_NO_WRAP, _WRAP = "\033[?7l", "\033[?7h"


def bands(items: Sequence[T], terminal_columns: int) -> list[Sequence[T]]:
    """`items` in groups that fit side by side, of sizes as equal as can be."""
    fitting = max(1, (terminal_columns - 1 + len(_GAP)) // (MIN_COLUMN + len(_GAP)))
    count = math.ceil(len(items) / fitting)
    size = math.ceil(len(items) / max(count, 1))
    return [items[start : start + size] for start in range(0, len(items), max(size, 1))]


def terminal_columns() -> int:
    """The width of the terminal now; 80 where there is none."""
    try:  # not by shutil alone: it would believe a COLUMNS that was exported long ago
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def emit_columns(texts: Sequence[str], *styles: str) -> None:
    """Finished texts side by side, on stdout."""
    columns = Columns(len(texts), *styles)
    for number, text in enumerate(texts):
        columns.add(number, text)
    columns.finish()


class _Column:
    """One text: what is not yet written of it, and how much of that the unfinished row shows."""

    def __init__(self) -> None:
        self.text = ""
        self.shown = 0  # characters
        self.has_ended = False


class Columns:
    """`count` texts side by side on stdout, a terminal. `add` text, then `paint`, last `finish`."""

    def __init__(self, count: int, *styles: str) -> None:
        self._columns = [_Column() for _ in range(count)]
        self._styles = styles
        self._terminal_columns = terminal_columns()

    @property
    def _width(self) -> int:
        """Of one column; the terminal's last one stays free, so that no row can overflow."""
        count = len(self._columns)
        return max(2, (self._terminal_columns - 1 - len(_GAP) * (count - 1)) // count)

    def add(self, number: int, text: str) -> None:
        """Let text number `number` grow."""
        self._columns[number].text += printable(text).replace("\t", _TAB)

    def end(self, number: int) -> None:
        """Nothing more comes of text number `number`."""
        self._columns[number].has_ended = True

    def paint(self) -> None:
        """Write the rows that are complete, and draw the one that is not."""
        self._follow_resizing()
        rows = [wrap(column.text, self._width) for column in self._columns]
        complete = self._complete_rows([len(of_one) for of_one in rows])
        drawn = []
        for number in range(complete + 1):
            cells = [of_one[number] if number < len(of_one) else "" for of_one in rows]
            if number < complete or any(cells):
                drawn.append(self._row(cells) + "\n" * (number < complete))
            for column, cell in zip(self._columns, cells, strict=True):
                if number < complete:
                    column.text = column.text[len(cell) :]
                column.shown = 0 if number < complete else len(cell)
        emit("".join(drawn), end="")

    def finish(self) -> None:
        """Write all that is left; the cursor then stands at the start of a line."""
        for column in self._columns:
            column.has_ended = True
        self.paint()

    def _complete_rows(self, counts: Sequence[int]) -> int:
        """How many rows cannot change any more, if the texts have so many: all but each last."""
        ended = [
            count - (not column.text or column.text.endswith("\n"))
            for column, count in zip(self._columns, counts, strict=True)
            if column.has_ended
        ]
        growing = [
            count - 1
            for column, count in zip(self._columns, counts, strict=True)
            if not column.has_ended
        ]
        return min(growing) if growing else max(ended)

    def _follow_resizing(self) -> None:
        now = terminal_columns()
        if now == self._terminal_columns:
            return
        self._terminal_columns = now
        if any(column.shown for column in self._columns):
            emit()  # the terminal may have wrapped the unfinished row: it stays, we go on below
        for column in self._columns:
            column.text = column.text[column.shown :]
            column.shown = 0

    def _row(self, cells: Sequence[str]) -> str:
        """One line, in place of the unfinished one.

        Terminals may take text to be wider or narrower than Unicode says: behind it the cursor is
        set to its column, and what is too wide for the last one is clipped, not wrapped.
        """
        parts = []
        for number, cell in enumerate(cells):
            is_last = number == len(cells) - 1
            shown = cell.rstrip()
            if not is_last:
                shown = padded(shown, self._width)
            parts.append(style(shown, *self._styles, stream=sys.stdout))
            if not is_last:
                end = number * (self._width + len(_GAP)) + self._width + 1
                parts.append("" if cell.isascii() else f"\033[{end}G")
                parts.append(style(_GAP, "dim", stream=sys.stdout))
        line = "".join(parts) + _ERASE_REST
        return "\r" + (line if "".join(cells).isascii() else f"{_NO_WRAP}{line}{_WRAP}")


def fits(line: str) -> bool:
    """Whether a line fits the terminal."""
    return display_width(line) < terminal_columns()
