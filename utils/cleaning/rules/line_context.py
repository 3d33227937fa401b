"""What stands around a match in its line, for cleaning rules: see text_rules.py."""

import re
from collections.abc import Callable, Sequence
from re import Match

_PROGRAMS = re.compile(
    r"\b(?:API|class(?:es)?|C#|code|compilers?|exceptions?|frameworks?|functions?|import|Java"
    r"|JavaScript|librar(?:y|ies)|methods?|modules?|namespaces?|objects?|packages?|programming"
    r"|Python|software|syntax|tuples?|constructors?|keywords?|website|URL|domain)\b|\w\(\)|::|\w_\w|https?:|www"
)


def text_before(match: Match[str], characters: int) -> str:
    """What stands before a match in its line, of so many characters at most."""
    begin = max(match.start() - characters, 0)
    return match.string[begin : match.start()].rpartition("\n")[2]


def text_after(match: Match[str], characters: int) -> str:
    """What stands after a match in its line, of so many characters at most."""
    return match.string[match.end() : match.end() + characters].partition("\n")[0]


def is_about_programs(match: Match[str]) -> bool:
    """Whether words near a match, 120 characters on either side, are those of programmers."""
    return _PROGRAMS.search(text_before(match, 120) + match[0] + text_after(match, 120)) is not None


def in_lines_with(marks: Sequence[str], change: Callable[[str], str], text: str) -> str:
    """`text` with `change` applied to the lines that hold any of `marks`.

    For patterns that take much longer on a line than looking for the marks.
    """
    return "\n".join(
        change(line) if any(mark in line for mark in marks) else line for line in text.split("\n")
    )
