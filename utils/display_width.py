"""How many columns of a terminal text takes, and text wrapped to columns.

A letter takes one column, a CJK character or emoji two, a combining mark none (Unicode's East
Asian Width, UAX 11). What belongs to one picture (a letter with its accents, an emoji with its
skin tone, a family joined by U+200D, a flag's two letters) is never cut apart. Terminals differ in
such sequences; whoever draws beside them sets the cursor (utils/chat/columns.py).
"""

import unicodedata
from collections.abc import Iterator
from functools import cache

_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_SOFT_HYPHEN = "\u00ad"


@cache
def character_width(character: str) -> int:
    """Columns of one character that stands alone: 0, 1 or 2."""
    if character == _SOFT_HYPHEN:
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Zl", "Zp"):
        return 0
    if "\u1160" <= character <= "\u11ff" or "\ud7b0" <= character <= "\ud7ff":
        return 0  # Hangul vowels and finals join the syllable before
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def display_width(text: str) -> int:
    """Columns that `text`, in which no control character stands, takes."""
    return len(text) if text.isascii() else sum(width for _, width in clusters(text))


def clusters(text: str) -> Iterator[tuple[str, int]]:
    """`text` in pieces that a cursor can stand between, each with its columns."""
    piece, width = "", 0
    for character in text:
        if piece and _belongs_to(piece, character):
            width = 2 if character == _EMOJI_STYLE or _is_flag(piece + character) else width
            piece += character
            continue
        if piece:
            yield piece, width
        piece, width = character, character_width(character)
    if piece:
        yield piece, width


def wrap(text: str, columns: int) -> list[str]:
    """Rows which joined are `text`; each takes at most `columns` columns, less what ends it.

    A row ends behind its newline, behind a space or a wide character, or else where it is full; a
    space that would begin the next row stays at its end. Adding text changes the last row only. A
    piece wider than `columns` has a row of its own.
    """
    *lines, last = text.split("\n")
    rows = []
    for line in lines:
        *full, rest = _wrap_line(line, columns)
        rows += [*full, f"{rest}\n"]
    return [*rows, *_wrap_line(last, columns)]


def padded(text: str, columns: int, right: bool = False) -> str:
    """`text` with spaces up to `columns` columns, behind it or, with `right`, before it."""
    spaces = " " * (columns - display_width(text))
    return spaces + text if right else text + spaces


def _wrap_line(line: str, columns: int) -> Iterator[str]:
    row: list[tuple[str, int]] = []
    used = cut = 0  # columns, and how many pieces of the row stand before its last good break
    for piece, width in clusters(line):
        if used + width > columns and piece == " ":
            yield "".join(text for text, _ in row) + piece
            row, used, cut = [], 0, 0
            continue
        while used + width > columns and row:
            cut = cut or len(row)
            yield "".join(text for text, _ in row[:cut])
            row, cut = row[cut:], 0
            used = sum(taken for _, taken in row)
        row.append((piece, width))
        used += width
        if piece == " " or width == 2:
            cut = len(row)
    yield "".join(text for text, _ in row)


def _belongs_to(piece: str, character: str) -> bool:
    if character_width(character) == 0 or _is_flag(piece + character):
        return True
    is_emoji = unicodedata.category(piece[0]) == "So"
    is_skin_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return is_emoji and (is_skin_tone or piece.endswith(_JOINER))


def _is_flag(text: str) -> bool:
    return len(text) == 2 and all("\U0001f1e6" <= letter <= "\U0001f1ff" for letter in text)
