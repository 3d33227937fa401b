"""Cleaning articles, many at once: the rules of text_rules.py until nothing changes, then layout.

Lines that hold a sign of a rule are found in one pass (signs.py); each rule then works on all lines
with a sign of its own. Lines that changed are searched for signs again, so that cleaning cleaned
text changes nothing.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from utils.cleaning.rules import unicode_rules as characters
from utils.cleaning.rules.markup_rules import html_entities
from utils.cleaning.rules.signs import SignTable
from utils.cleaning.rules.text_rules import (
    CODE,
    FORMULA,
    HEADING,
    RULES,
    Rule,
    as_one_line,
    code_lines,
)

_SIGNS = SignTable([*(rule.signs for rule in RULES), characters.LINE_BREAKS, FORMULA])
_HAS_LINE_BREAK = 1 << len(RULES)
_HAS_FORMULA = 2 << len(RULES)
_FORMULA = re.compile(f"{FORMULA}([^{FORMULA}]*){FORMULA}")
_UNUSUAL_BEGINNINGS = ("", HEADING, CODE, " ", "\t")  # of lines that are more than a paragraph
_MAX_ROUNDS = 100  # two or three settle any real text; this bounds what a hostile one may cost


_ALL_RULES = (1 << len(RULES)) - 1


def _bits(rules: Iterable[Rule]) -> int:
    return sum(1 << RULES.index(rule) for rule in rules)


_CODE_RULES = _bits(rule for rule in RULES if rule.scope == "all")
_PLAIN_RULES = _bits(rule for rule in RULES if rule.scope != "parsed")
# "( )" is the name of an album, so of the rules for prose a title needs one alone.
_TITLE_RULES = _CODE_RULES | _bits(rule for rule in RULES if rule.apply is html_entities)


class CleanText(NamedTuple):
    """A title, the lines of text below it, and the names of the rules that changed something.

    A line is a paragraph, a heading or a list's item; at most one empty line stands between two,
    none at the ends. All are in NFC and hold no line break of any kind.
    """

    title: str
    lines: list[str]
    rules: frozenset[str]

    @property
    def body(self) -> str:
        return "\n".join(self.lines)


class Change(NamedTuple):
    """What a rule did to a line; line 0 is the title."""

    rule: Rule
    line: int
    before: str
    after: str


def clean(text: str, title: str = "") -> CleanText:
    """One article, cleaned: see `clean_all`."""
    return clean_all([(title, text.split("\n"))])[0]


def changes_of(title: str, lines: Sequence[str], is_parsed: bool = True) -> list[Change]:
    """What the rules do to one article, change by change; two may follow each other on a line."""
    all_lines = [as_one_line(title), *characters.split_at_breaks(lines)]
    signs = _SIGNS.find(all_lines)
    allowed = _allowed_rules(all_lines, signs, starts=[0], plain=() if is_parsed else (0,))
    return list(_clean_lines(all_lines, signs, allowed))


def clean_all(
    articles: Sequence[tuple[str, list[str]]], plain: Collection[int] = ()
) -> list[CleanText]:
    """Titles and lines, marked as text_rules.py wants, cleaned, in order.

    `plain` are the numbers of articles that do not come from Structured Contents; rules of scope
    "parsed" leave them alone. Headings that nothing follows are dropped.
    """
    lines: list[str] = []
    starts: list[int] = []  # the line of each title; the text follows it
    for title, text in articles:
        starts.append(len(lines))
        lines.append(as_one_line(title))
        lines += text
    signs = _SIGNS.find(lines)
    if any(rules & _HAS_LINE_BREAK for rules in signs.values()):
        divided = [(title, characters.split_at_breaks(text)) for title, text in articles]
        return clean_all(divided, plain)
    fired: list[set[str]] = [set() for _ in articles]
    for change in _clean_lines(lines, signs, _allowed_rules(lines, signs, starts, plain)):
        fired[bisect_right(starts, change.line) - 1].add(change.rule.name)
    starts.append(len(lines))
    return [
        CleanText(lines[start].strip(), _layout(lines[start + 1 : end]), frozenset(rules))
        for (start, end), rules in zip(pairwise(starts), fired, strict=True)
    ]


def _allowed_rules(
    lines: Sequence[str], numbers: Iterable[int], starts: Sequence[int], plain: Collection[int]
) -> dict[int, int]:
    """The bits of the rules for lines, ascending, that not all rules are for."""
    allowed = {}
    titles = set(starts)
    code = code_lines(lines, numbers, titles)
    for number in numbers:
        if number in titles:
            allowed[number] = _TITLE_RULES
        elif number in code:
            allowed[number] = _CODE_RULES
        elif plain and bisect_right(starts, number) - 1 in plain:
            allowed[number] = _PLAIN_RULES
    return allowed


def _clean_lines(
    lines: list[str], signs: dict[int, int], allowed: Mapping[int, int]
) -> Iterator[Change]:
    """Clean `lines`, whose `signs` were found, in place; tells what was changed."""
    formulas = {n: _hide_formulas(lines, n) for n in signs if signs[n] & _HAS_FORMULA}
    wanted = signs
    for _ in range(_MAX_ROUNDS):
        for number in wanted.keys() & allowed.keys():
            wanted[number] &= allowed[number]
        changes = _apply_rules(lines, wanted)
        if not changes:
            break
        yield from changes
        numbers = sorted({change.line for change in changes})
        found = _SIGNS.find([lines[number] for number in numbers])
        wanted = {numbers[place]: rules for place, rules in found.items()}
    for number, hidden in formulas.items():
        _put_back(hidden, lines, number)


def _hide_formulas(lines: list[str], number: int) -> list[str]:
    """Leave one mark for each formula of a line; returns the formulas, their characters cleaned."""
    pieces = _FORMULA.split(lines[number])
    lines[number] = FORMULA.join(piece.replace(FORMULA, "") for piece in pieces[::2])
    formulas = pieces[1::2]
    signs = _SIGNS.find(formulas)
    for _ in _clean_lines(formulas, signs, dict.fromkeys(range(len(formulas)), _CODE_RULES)):
        pass  # what changes inside a formula is not counted
    return formulas


def _put_back(formulas: list[str], lines: list[str], number: int) -> None:
    pieces = lines[number].split(FORMULA)
    assert len(pieces) == len(formulas) + 1, "no rule touches the marks"
    lines[number] = "".join(chain(*zip(pieces, [*formulas, ""], strict=True)))


def _apply_rules(lines: list[str], wanted: dict[int, int]) -> list[Change]:
    """One round: each rule, in the table's order, on the lines whose bits name it."""
    numbers_of_rule: list[list[int]] = [[] for _ in RULES]
    for number, rules in wanted.items():
        rules &= _ALL_RULES
        while rules:
            lowest = rules & -rules
            numbers_of_rule[lowest.bit_length() - 1].append(number)
            rules ^= lowest
    changes: list[Change] = []
    for rule, numbers in zip(RULES, numbers_of_rule, strict=True):
        if not numbers:
            continue
        joined = "\n".join([lines[number] for number in numbers])
        cleaned = rule.apply(joined)
        if cleaned == joined:
            continue
        for number, after in zip(numbers, cleaned.split("\n"), strict=True):
            before = lines[number]
            if after != before:
                lines[number] = after
                changes.append(Change(rule, number, before, after))
    return changes


def _layout(lines: list[str]) -> list[str]:
    """Lines without marks, runs of blank lines, and headings that nothing follows."""
    kept: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings, depth rising, whose content has not come yet
    blank = False
    for line in lines:
        if line[:1] in _UNUSUAL_BEGINNINGS:
            if line.startswith(HEADING):
                text = line.lstrip(HEADING)
                depth = len(line) - len(text)
                while waiting and waiting[-1][0] >= depth:
                    waiting.pop()
                waiting.append((depth, text.strip()))
                continue
            line = line.removeprefix(CODE)
            if not line.strip():
                blank = True
                continue
        if waiting:
            kept += [text for _, text in waiting if text]
            waiting.clear()
        elif blank and kept:
            kept.append("")
        kept.append(line)
        blank = False
    return kept
