"""Cleaning rules: one table of small functions, each with the example that is its test.

An article is cleaned once as one string, a line per paragraph. Every rule works inside a line and
adds or removes none, except `line_breaks`, so that lines which changed can be cleaned again, alone,
until nothing changes: cleaning cleaned text changes nothing.

Lines of code keep their layout. They are those marked as CODE by the reader of the record, and any
that begin with two spaces, a tab, Python's prompt or the border of a drawn table; rules of scope
"prose" do not see them.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from utils.cleaning import markup_rules as markup
from utils.cleaning import prose_rules as prose
from utils.cleaning import unicode_rules as characters

CLEANER_VERSION = 2  # raise it with any change of the text that cleaner.py writes

# One or more at the start of a line: a heading, and its depth.
HEADING = "\x02"
# At the start of a line: a line of code.
CODE = "\x03"

_CODE_LINE = ("  ", "\t", ">>> ", "| ", "+-", CODE)
_CONTINUED = "... "  # a line of code after another, else an ellipsis
_MAX_ROUNDS = 100  # two or three settle any real text; this bounds what a hostile one may cost


class Rule(NamedTuple):
    """`apply(before) == after`.

    Scope "prose" leaves lines of code alone; "unusual" needs to run only on texts that have
    unusual characters.
    """

    scope: Literal["all", "unusual", "prose"]
    apply: Callable[[str], str]
    before: str
    after: str

    @property
    def name(self) -> str:
        return self.apply.__name__


RULES = (
    Rule("all", characters.composed, "Cafe\u0301", "Café"),
    Rule("unusual", characters.line_breaks, "One.\r\nTwo.\u2028Three.", "One.\nTwo.\nThree."),
    Rule("unusual", characters.plain_spaces, "5\xa0km\u2009wide", "5 km wide"),
    Rule("unusual", characters.invisible, "co\xadoperate\u200b, \x07Go\ufeff", "cooperate, Go"),
    Rule("unusual", characters.stray_joiners, "Lanka\u200d: ශ්\u200dරී", "Lanka: ශ්\u200dරී"),
    Rule("unusual", characters.recomposed, "Cafe\u0301", "Café"),
    Rule("all", characters.trailing_space, "One. \nTwo.", "One.\nTwo."),
    Rule("prose", markup.html_entities, "Q&amp;A &ndash; 5&nbsp;km", "Q&A – 5 km"),
    Rule("prose", markup.html_tags, "H<sub>2</sub>O<br/>is<ref>[1]</ref> wet", "H2O is wet"),
    Rule(
        "prose",
        markup.doubled_math,
        "the map A i → B {\\displaystyle A_{i}\\to B} is",
        "the map A i → B is",
    ),
    Rule("prose", markup.templates, "London. {{ cite book }}: CS1 maint: x (link)", "London."),
    Rule("prose", markup.missing_formula, "formula_25.", ""),
    Rule("prose", markup.footnotes, "↑ Corn 1997, p. 78", ""),
    Rule("prose", markup.coordinates, "Coordinates: 25°18′N 83°01′E / 25.30°N 83.01°E", ""),
    Rule(
        "prose",
        markup.citations,
        "It fell.[3][12] Later[citation needed] too",
        "It fell. Later too",
    ),
    Rule("prose", markup.listen, "Kyōto (listen), Japan", "Kyōto, Japan"),
    Rule("prose", prose.spaced_ipa, "Toyota (/ t ɔɪ ˈ j oʊ t ə /)", "Toyota (/tɔɪˈjoʊtə/)"),
    Rule(
        "prose",
        prose.emptied_labels,
        "Messi (Spanish pronunciation:; born 1987)",
        "Messi (; born 1987)",
    ),
    Rule(
        "prose",
        prose.emptied_parentheses,
        "Volta (; ; born 1745) of Como ()",
        "Volta (born 1745) of Como",
    ),
    Rule("prose", prose.spaced_quotes, 'the song " Sing ", from', 'the song "Sing", from'),
    Rule("prose", prose.doubled_quotes, 'Old French ""jouel"" and', 'Old French "jouel" and'),
    Rule("prose", prose.spaced_possessive, "in Uber 's cars", "in Uber's cars"),
    Rule(
        "prose", prose.spaced_hyphen, "a Monroe -inspired song – or", "a Monroe-inspired song – or"
    ),
    Rule("prose", prose.spaced_punctuation, "as such , that is .", "as such, that is."),
    Rule(
        "prose", prose.doubled_full_stop, "in Washington, D.C.. While", "in Washington, D.C. While"
    ),
    Rule("prose", prose.glued_sentences, "the 89th minute.On 25 May", "the 89th minute. On 25 May"),
    Rule("prose", prose.runs_of_spaces, " One  and\ttwo", "One and two"),
)
_ALL = tuple(rule for rule in RULES if rule.scope != "prose")
_USUAL = tuple(rule for rule in RULES if rule.scope == "all")
_PROSE = tuple(rule for rule in RULES if rule.scope == "prose")


def clean(text: str, fired: set[str] | None = None) -> str:
    """`text` without artefacts, a line per paragraph, at most one blank line between lines.

    Only "\\n" ends a line; the text is in NFC; cleaning it again changes nothing. The names of the
    rules that changed something are added to `fired`. Headings without content are dropped.
    """
    fired = set() if fired is None else fired
    rules = _ALL if characters.has_unusual_characters(text) else _USUAL
    lines = _apply(rules, text, fired).split("\n")
    numbers = _prose_lines(lines)
    rules = _PROSE
    for _ in range(_MAX_ROUNDS):
        if not numbers:
            break
        before = [lines[n] for n in numbers]
        after = _apply(rules, "\n".join(before), fired).split("\n")
        for n, line in zip(numbers, after, strict=True):
            lines[n] = line
        changed = zip(numbers, before, after, strict=True)
        numbers = [n for n, old, new in changed if new and new != old]
        rules = RULES
    return "\n".join(_layout(lines))


def clean_title(title: str) -> str:
    """A title as one line; only characters are cleaned, since "( )" is the name of an album."""
    title = markup.html_entities(without_marks(title))
    return " ".join(_apply(_ALL, title, set()).split())


def without_marks(text: str) -> str:
    """`text` without characters that mean something to `clean`."""
    return text.replace(HEADING, "").replace(CODE, "")


def _apply(rules: tuple[Rule, ...], text: str, fired: set[str]) -> str:
    for rule in rules:
        cleaned = rule.apply(text)
        if cleaned != text:
            fired.add(rule.name)
            text = cleaned
    return text


def _prose_lines(lines: list[str]) -> list[int]:
    """The places of the lines that are not code."""
    numbers: list[int] = []
    code_end = -1  # the last line of code so far
    for number, line in enumerate(lines):
        continues = code_end == number - 1 and line.startswith(_CONTINUED) and number
        if line.startswith(_CODE_LINE) or continues:
            code_end = number
        elif line:
            numbers.append(number)
    return numbers


def _layout(lines: list[str]) -> list[str]:
    """Lines without marks, runs of blank lines, and headings that nothing follows."""
    kept: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings, depth rising, whose content has not come yet
    blank = False
    for line in lines:
        if line.startswith(HEADING):
            text = line.lstrip(HEADING).strip()
            depth = len(line) - len(line.lstrip(HEADING))
            waiting = [heading for heading in waiting if heading[0] < depth] + [(depth, text)]
            continue
        line = line.removeprefix(CODE)
        if not line.strip():
            blank = True
            continue
        if waiting:
            kept += [text for _, text in waiting if text]
            waiting = []
        elif blank and kept:
            kept.append("")
        kept.append(line)
        blank = False
    return kept
