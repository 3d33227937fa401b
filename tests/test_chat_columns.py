"""utils/chat/columns.py: what a terminal shows of texts that grow side by side."""

import io
import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.terminals import COLOUR, shown_lines
from utils.chat.columns import MIN_COLUMN, Columns, bands, emit_columns, fits


class Screen(io.StringIO):
    """A terminal's input, whose width can change."""

    columns = 60

    def emit(self, text: str = "", end: str = "\n") -> None:
        self.write(text + end)

    def lines(self) -> list[str]:
        return shown_lines(self.getvalue(), self.columns)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    shown = Screen()
    monkeypatch.setattr("utils.chat.columns.emit", shown.emit)
    monkeypatch.setattr("utils.chat.columns.terminal_columns", lambda: shown.columns)
    monkeypatch.setenv("NO_COLOR", "1")
    return shown


@pytest.mark.parametrize(
    ("count", "columns", "sizes"),
    [
        (1, 80, [1]),
        (2, 80, [2]),
        (3, 80, [3]),
        (4, 80, [2, 2]),
        (7, 80, [3, 3, 1]),
        (5, 120, [3, 2]),
        (3, 2 * MIN_COLUMN + 3, [1, 1, 1]),
        (3, 2 * MIN_COLUMN + 4, [2, 1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_models_that_do_not_fit_get_rows_of_columns(
    count: int, columns: int, sizes: list[int]
) -> None:
    found = bands(range(count), columns)
    assert [len(band) for band in found] == sizes
    assert [number for band in found for number in band] == list(range(count))


def test_texts_stand_side_by_side(screen: Screen) -> None:
    emit_columns(["one two three four five six seven", "漢字 é\ttab", ""])
    assert screen.lines() == [
        "one two three     | 漢字 é    tab     |",
        "four five six     |                   |",
        "seven             |                   |",
        "",
    ]


def test_nothing_shown_is_wider_than_the_terminal(screen: Screen) -> None:
    emit_columns(["漢字" * 40, "x" * 100, "word " * 30])
    text = re.sub(r"\x1b\[\??\d*[KGhl]|\r", "", screen.getvalue())
    assert all(fits(line) for line in text.splitlines())
    joined = "".join(re.split(r"\W+", "".join(line.split("|")[1] for line in screen.lines()[:-1])))
    assert joined == "x" * 100


def test_the_last_row_grows_and_the_others_stay(screen: Screen) -> None:
    columns = Columns(2)
    columns.add(0, "alpha ")
    columns.paint()
    assert screen.lines() == [f"{'alpha':28} |"]
    columns.add(0, "beta")
    columns.add(1, "gamma\ndelta\nepsilon")
    columns.paint()
    assert screen.lines() == [f"{'alpha beta':28} | gamma"], "the left one's row may still grow"
    columns.end(0)
    columns.paint()
    sent = screen.getvalue()
    assert screen.lines() == [
        f"{'alpha beta':28} | gamma",
        f"{'':28} | delta",
        f"{'':28} | epsilon",
    ]
    columns.finish()
    assert screen.lines() == [*shown_lines(sent, 60), ""]


@pytest.mark.parametrize("columns", [40, 90])
def test_resizing_leaves_finished_rows_alone(screen: Screen, columns: int) -> None:
    texts = Columns(2)
    texts.add(0, "one " * 20)
    texts.add(1, "two " * 12)
    texts.paint()
    before, sent = screen.lines(), len(screen.getvalue())
    screen.columns = columns
    texts.add(1, "two " * 8)
    texts.finish()
    rest = screen.getvalue()[sent:]
    assert rest.startswith("\n"), "the row that was growing is left as it is"
    after = shown_lines(rest[1:], columns)
    words = [word for line in (*before, *after) for word in re.split(r"[ |]+", line) if word]
    assert (words.count("one"), words.count("two")) == (20, 20)
    assert all(len(line) < columns for line in after)


def test_text_cannot_command_the_terminal(screen: Screen) -> None:
    emit_columns(["a\x1b[2Jb", "c\rd"])
    assert screen.lines()[0] == f"{chr(92)}x1b".join(["a", "[2Jb"]).ljust(28) + " | c\\x0dd"


def test_colours_are_the_headers(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    emit_columns(["left", "right"], "bold")
    assert not COLOUR.search(screen.getvalue()), "NO_COLOR"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    emit_columns(["left", "right"], "bold")
    assert "\x1b[1mright\x1b[0m" in screen.getvalue()


PIECES = st.lists(
    st.sampled_from(["a", "bcd", " ", "\n", "漢", "e\u0301", "👍🏽", "❤️"]), max_size=60
)


@given(PIECES, PIECES)
def test_growing_gives_the_rows_of_the_whole(left: list[str], right: list[str]) -> None:
    def shown(*parts: Sequence[str]) -> list[str]:
        screen = Screen()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("utils.chat.columns.emit", screen.emit)
            patch.setattr("utils.chat.columns.terminal_columns", lambda: 24)
            columns = Columns(len(parts))
            for texts in itertools.zip_longest(*parts, fillvalue=""):
                for number, text in enumerate(texts):
                    columns.add(number, text)
                columns.paint()
            columns.finish()
        return shown_lines(screen.getvalue(), 24)

    assert shown(left, right) == shown(["".join(left)], ["".join(right)])
