"""utils/display_width.py: columns against the C library's, and rows that fit and lose nothing."""

import ctypes
import locale
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.display_width import character_width, clusters, display_width, padded, wrap

PIECES = [
    "a",
    "bc",
    " ",
    "  ",
    "\n",
    "漢",
    "字、",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "👍🏽",
    "🇩🇪",
    "❤️",
    "한",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
WIDTHS = st.integers(2, 12)


@pytest.fixture
def libc() -> Iterator[ctypes.CDLL]:
    """The C library, told that text is UTF-8."""
    before = locale.setlocale(locale.LC_CTYPE)
    library = ctypes.CDLL(None)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        library.wcwidth.argtypes = [ctypes.c_wchar]
    except (locale.Error, AttributeError):
        pytest.skip("needs a C library with wcwidth and C.UTF-8")
    yield library
    locale.setlocale(locale.LC_CTYPE, before)


def test_characters_are_as_wide_as_the_c_library_says(libc: ctypes.CDLL) -> None:
    unassigned = ("Cn", "Cs", "Cc", "Co")
    characters = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in unassigned]
    known = [(c, w) for c in characters if (w := libc.wcwidth(c)) >= 0]
    assert len(known) > 100_000
    different = [c for c, width in known if character_width(c) != width]
    assert len(different) < 100, "a few that Unicode versions and libraries disagree on"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("Zürich", 6),
        ("漢字 a", 6),
        ("e\u0301", 1),
        ("👩‍👩‍👧👍🏽❤️🇩🇪🇫🇷", 10),
        ("각", 2),
        ("a\u200bb", 2),
    ],
)
def test_what_text_takes(text: str, columns: int) -> None:
    assert display_width(text) == columns


def test_what_belongs_together_stays_together() -> None:
    text = "e\u0301👩‍👩‍👧👍🏽🇩🇪🇫🇷"
    assert [piece for piece, _ in clusters(text)] == ["e\u0301", "👩‍👩‍👧", "👍🏽", "🇩🇪", "🇫🇷"]


def test_padding_is_by_columns() -> None:
    assert padded("漢", 4) == "漢  "
    assert padded("漢", 4, right=True) == "  漢"
    assert padded("abcd", 2) == "abcd"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("the quick brown fox", ["the quick ", "brown fox"]),
        ("abcdefghijklmno", ["abcdefghij", "klmno"]),
        ("a\n\n  b", ["a\n", "\n", "  b"]),
        ("漢字漢字漢字", ["漢字漢字漢", "字"]),
        ("0123456789 next", ["0123456789 ", "next"]),
        ("", [""]),
    ],
)
def test_wrapping(text: str, rows: list[str]) -> None:
    assert wrap(text, 10) == rows


@given(TEXTS, WIDTHS)
def test_rows_fit_and_nothing_is_lost(text: str, columns: int) -> None:
    rows = wrap(text, columns)
    assert "".join(rows) == text
    assert all(display_width(row.removesuffix("\n").removesuffix(" ")) <= columns for row in rows)
    assert all("\n" not in row[:-1] for row in rows)


@given(TEXTS, TEXTS, WIDTHS)
def test_more_text_changes_the_last_row_only(text: str, more: str, columns: int) -> None:
    before = wrap(text + " ", columns)
    assert wrap(text + " " + more, columns)[: len(before) - 1] == before[:-1]
