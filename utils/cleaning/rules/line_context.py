"""What stands around a match in its line, for cleaning rules: see text_rules.py."""

import re
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
