"""Cleaning rules for characters, in any text: see text_rules.py."""

import re
import unicodedata
from collections.abc import Iterable

# Control, soft hyphen, zero-width, bidirectional and annotation characters; not the newline, the
# tab, the line breaks and joiners below, and \x02 to \x04, which are marks.
_INVISIBLE_RANGES = (
    (0x00, 0x01), (0x05, 0x08), (0x0E, 0x1F), (0x7F, 0x84), (0x86, 0x9F), (0xAD, 0xAD),
    (0x61C, 0x61C), (0x180E, 0x180E), (0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E),
    (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFC), (0xFFFE, 0xFFFF),
)  # fmt: skip
INVISIBLE = "".join(chr(c) for low, high in _INVISIBLE_RANGES for c in range(low, high + 1))
SPACES = (
    "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_WINDOWS = {
    code: bytes([code]).decode("cp1252", errors="ignore")
    for code in range(0x80, 0xA0)
    if code != 0x85  # which is a line break
}
MISREAD_WINDOWS = "".join(map(chr, _WINDOWS))
JOINERS = "\u200c\u200d"
LINE_BREAKS = "\r\v\f\x85\u2028\u2029"
_BREAKS = re.compile(f"[{LINE_BREAKS}]")
_INVISIBLE = re.compile(f"[{re.escape(INVISIBLE)}]+")
# Joiners are spelling in Persian, Sinhala and emoji, and rubbish beside ASCII.
# Each run of them is looked at once, however long.
_STRAY_JOINERS = re.compile(
    "(?<![^\x00-\x7f])[\u200c\u200d]+|(?<![\u200c\u200d])[\u200c\u200d]++(?![^\x00-\x7f])"
)


# Blocks that hold characters which Unicode's normal forms touch, and the planes beyond the first,
# of which emoji and Chinese characters need not be looked at.
_COMPOSING_BLOCKS = ((0x300, 0x3100), (0xA660, 0xAC00), (0xD7B0, 0xD800), (0xF900, 0x10000))
_COMPOSING_PLANES = ((0x10000, 0x1F000), (0x2F800, 0x2FA20))


def _touched_by_nfc(character: str) -> bool:
    """Whether a character is not in NFC, or may not be in it beside others."""
    if unicodedata.category(character)[0] == "M":
        return True
    is_jamo = "\u1100" <= character <= "\u11ff" or "\ud7b0" <= character <= "\ud7ff"
    return is_jamo or not unicodedata.is_normalized("NFC", character)


_COMPOSING = [
    character
    for low, high in _COMPOSING_BLOCKS + _COMPOSING_PLANES
    for character in map(chr, range(low, high))
    if _touched_by_nfc(character)
]
# The first three bytes of such a character in UTF-8, all of them in the first plane.
COMPOSING_SIGNS = sorted({character.encode()[:3] for character in _COMPOSING})
_MARKS = "".join(filter(unicodedata.combining, _COMPOSING))
_MANY_MARKS = re.compile(f"([{_MARKS}]{{30}})[{_MARKS}]+")


def split_at_breaks(lines: Iterable[str]) -> list[str]:
    """The lines, divided at every kind of line break but "\\n", which none of them holds."""
    return [part for line in lines for part in _BREAKS.split(line.removesuffix("\r"))]


def misread_windows(text: str) -> str:
    """Signs of Windows' character set that were read as control characters of Latin-1."""
    return text.translate(_WINDOWS)


def composed(text: str) -> str:
    """Unicode normal form NFC. A letter whose marks have to be put in order keeps 30 of them, as in
    Unicode's stream-safe format, since that takes the square of their number.
    """
    return "\n".join(
        line
        if unicodedata.is_normalized("NFC", line)
        else unicodedata.normalize("NFC", _MANY_MARKS.sub(r"\1", line))
        for line in text.split("\n")
    )


def plain_spaces(text: str) -> str:
    """No-break, thin and other unusual spaces as the plain one."""
    for space in SPACES:  # each is looked for much faster than one of many
        text = text.replace(space, " ")
    return text


def invisible(text: str) -> str:
    """Characters without a glyph removed."""
    return _INVISIBLE.sub("", text)


def stray_joiners(text: str) -> str:
    """Zero-width joiners removed where they join nothing."""
    return _STRAY_JOINERS.sub("", text)


def trailing_space(text: str) -> str:
    """Spaces before a line's end removed."""
    return "\n".join(line.rstrip(" \t") for line in text.split("\n"))
