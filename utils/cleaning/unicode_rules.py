"""Cleaning rules for characters, in any text: see text_rules.py."""

import re
import unicodedata

_BREAKS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Control, soft hyphen, zero-width, bidirectional and annotation characters; not the newline, the
# tab, the line breaks above, the joiners below and \x02 \x03, which mark headings and code.
_INVISIBLE = re.compile(
    "[\x00\x01\x04-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ufffe\uffff]+"
)
_MANY_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20ff\ufe20-\ufe2f]{30})"
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20ff\ufe20-\ufe2f]+"
)
# Joiners are spelling in Persian, Sinhala and emoji, and rubbish beside ASCII.
# Each run of them is looked at once, however long.
_STRAY_JOINERS = re.compile(
    "(?<![^\x00-\x7f])[\u200c\u200d]+|(?<![\u200c\u200d])[\u200c\u200d]++(?![^\x00-\x7f])"
)


def has_unusual_characters(text: str) -> bool:
    """Whether any character is neither printable nor a newline, tab or mark: one fast scan."""
    for known in ("\n", "\t", "\x02", "\x03"):
        text = text.replace(known, "")
    return not text.isprintable()


def line_breaks(text: str) -> str:
    """Every kind of line break as "\\n"."""
    return _BREAKS.sub("\n", text)


def composed(text: str) -> str:
    """Unicode normal form NFC, with no more marks on a letter than Unicode's stream-safe format.

    Putting marks in order takes the square of their number.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _MANY_MARKS.sub(r"\1", text))


def plain_spaces(text: str) -> str:
    """No-break, thin and other unusual spaces as the plain one."""
    return _SPACES.sub(" ", text)


def invisible(text: str) -> str:
    """Characters without a glyph removed."""
    return _INVISIBLE.sub("", text)


def stray_joiners(text: str) -> str:
    """Zero-width joiners removed where they join nothing."""
    if "\u200c" in text or "\u200d" in text:
        return _STRAY_JOINERS.sub("", text)
    return text


def recomposed(text: str) -> str:
    """NFC again, where an invisible character stood between a letter and its accent."""
    return composed(text)


def trailing_space(text: str) -> str:
    """Spaces before a line's end removed."""
    if " \n" in text or "\t\n" in text:
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return text.rstrip(" \t")
