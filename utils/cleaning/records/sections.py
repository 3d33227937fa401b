"""Which sections of an article are none of its text, and how a plain text is divided by them."""

import re
from functools import cache
from typing import NamedTuple

from utils.cleaning.records import wikipedia_names as names

LONGEST_ITEM = 300  # characters; a longer line is a paragraph, no source and no list's item
_LONGEST_HEADING = 80  # characters
_SOURCE = re.compile(
    r"^ ?[↑^*]|\([12][0-9]{3}[a-z]?\)|\b(?:pp?|S|vol|no)\. ?[0-9]|\b(?:ISBN|doi|Retrieved)\b"
    r"|https?:|www\.|[,.:] (?:1[5-9]|20)[0-9]{2}\.?$"
)
_SENTENCE_ENDS = tuple(".!?。…:;,")


class SectionNames(NamedTuple):
    """Names of sections, without case: `pointing` ones are dropped, `lists` if they are lists."""

    pointing: frozenset[str]
    lists: frozenset[str]


@cache
def section_names(language: str | None) -> SectionNames:
    """For a language's code, such as "en", or None where it is not known."""
    return SectionNames(names.pointing_sections(language), names.LIST_SECTIONS)


def plain_name(name: str | None) -> str:
    """A heading as the names are compared."""
    return (name or "").strip().rstrip(":").casefold()


def is_item(line: str) -> bool:
    """Whether a line reads like one of a list of sources or titles, rather than like prose."""
    if len(line) > LONGEST_ITEM:
        return False
    return not line.rstrip().endswith(_SENTENCE_ENDS) or _SOURCE.search(line) is not None


def without_sections(lines: list[str], section_names: SectionNames) -> list[str]:
    """The lines of a plain text without the sections that are none of its text.

    A plain text does not mark its headings. A dropped section ends where something like a heading
    stands before something like a paragraph, or at a line that is too long for its kind.
    """
    kept: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        name = plain_name(line) if len(line) <= _LONGEST_HEADING else ""
        end = number + 1
        if name in section_names.pointing or name in section_names.lists:
            while end < len(lines) and not _begins_section(lines, end, section_names):
                end += 1
            if not _is_dropped(name, lines[number + 1 : end], section_names):
                kept += lines[number:end]
        else:
            kept.append(line)
        number = end
    return kept


def _begins_section(lines: list[str], number: int, section_names: SectionNames) -> bool:
    line = lines[number].strip()
    if len(line) > _LONGEST_HEADING:
        return False
    name = plain_name(line)
    if name in section_names.pointing or name in section_names.lists:
        return True
    if line.endswith(_SENTENCE_ENDS) or not line[:1].isalnum():
        return False
    return number + 1 < len(lines) and not is_item(lines[number + 1]) and not line[:1].islower()


def _is_dropped(name: str, lines: list[str], section_names: SectionNames) -> bool:
    if name in section_names.pointing:
        return all(len(line) <= LONGEST_ITEM for line in lines)
    return all(map(is_item, lines))
