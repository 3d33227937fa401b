"""Cleaning rules: a table of small functions, each with its signs and the example that is its test.

Every rule works inside a line, a paragraph, and adds or removes none. It is applied to the lines
that hold one of its signs, many of them at once, joined by "\n". Rules of scope "prose" do not see
lines of code, which keep their layout: those marked as CODE by the reader of the record, and any
that begin with two spaces, a tab, Python's prompt or the border of a table. Those of scope "parsed"
see only what Wikimedia's parser made for Structured Contents: they mend its faults, and in other
text, where spaces stand beside what was lost, they would do harm.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from string import ascii_letters, ascii_uppercase
from typing import Literal, NamedTuple

from utils.cleaning.rules import markup_rules as markup
from utils.cleaning.rules import parenthesis_rules as parentheses
from utils.cleaning.rules import prose_rules as prose
from utils.cleaning.rules import unicode_rules as characters

CLEANER_VERSION = 3  # raise it with any change of the text that cleaner.py writes

# One or more at the start of a line: a heading, and its depth.
HEADING = "\x02"
# At the start of a line: a line of code.
CODE = "\x03"
# At both ends of a formula, which no rule is to touch.
FORMULA = "\x04"

_CODE_LINE = ("  ", "\t", ">>> ", "| ", "+-", CODE)
_CONTINUED = "... "  # a line of code after another, else an ellipsis


class Rule(NamedTuple):
    """`apply(before) == after`. A line without any of the `signs` is one it would not change.

    A sign is text of one to three bytes of UTF-8, or such bytes; "\n" is either end of a line.
    """

    scope: Literal["all", "prose", "parsed"]
    apply: Callable[[str], str]
    signs: Sequence[str | bytes]
    before: str
    after: str

    @property
    def name(self) -> str:
        return self.apply.__name__


def _pairs(first: str, seconds: str) -> list[str]:
    return [first + second for second in seconds]


RULES = (
    Rule("all", characters.plain_spaces, characters.SPACES, "5\xa0km\u2009wide", "5 km wide"),
    Rule(
        "all",
        characters.misread_windows,
        characters.MISREAD_WINDOWS,
        "Jung\x92s \x93Ego\x94",
        "Jung’s “Ego”",
    ),
    Rule(
        "all",
        characters.invisible,
        characters.INVISIBLE,
        "co\xadoperate\u200b, \x07Go\ufeff",
        "cooperate, Go",
    ),
    Rule(
        "all",
        characters.stray_joiners,
        characters.JOINERS,
        "Lanka\u200d: ශ්\u200dරී",
        "Lanka: ශ්\u200dරී",
    ),
    Rule("all", characters.composed, characters.COMPOSING_SIGNS, "Cafe\u0301", "Café"),
    Rule("all", characters.trailing_space, (" \n", "\t\n"), "One. \nTwo.", "One.\nTwo."),
    Rule(
        "prose",
        markup.html_entities,
        _pairs("&", ascii_letters + "#"),
        "Q&amp;A &ndash; 5&nbsp;km",
        "Q&A – 5 km",
    ),
    Rule(
        "prose",
        markup.html_tags,
        _pairs("<", ascii_letters + "/"),
        "H<sub>2</sub>O<br/>is<ref>[1]</ref> wet",
        "H2O is wet",
    ),
    Rule(
        "prose",
        markup.doubled_math,
        ("{\\",),
        "the map A i → B {\\displaystyle A_{i}\\to B} is",
        "the map A i → B is",
    ),
    Rule(
        "prose",
        markup.templates,
        ("{{",),
        "London. {{ cite book }}: CS1 maint: x (link)",
        "London.",
    ),
    Rule("prose", markup.missing_formula, ("\nfo",), "formula_25.", ""),
    Rule("prose", markup.footnotes, ("↑",), "↑ Corn 1997, p. 78", ""),
    Rule(
        "prose",
        markup.coordinates,
        ("\nCo", "\nKo"),
        "Coordinates: 25°18′N 83°01′E / 25.30°N 83.01°E",
        "",
    ),
    Rule(
        "prose",
        markup.citations,
        _pairs("[", "123456789abcdfnpuvw"),
        "It fell.[3][12] Later[citation needed] too",
        "It fell. Later too",
    ),
    Rule("prose", markup.listen, ("(li",), "Kyōto (listen), Japan", "Kyōto, Japan"),
    Rule(
        "prose",
        prose.spaced_ipa,
        (" /", "/ "),
        "Toyota (/ t ɔɪ ˈ j oʊ t ə /)",
        "Toyota (/tɔɪˈjoʊtə/)",
    ),
    Rule(
        "prose",
        parentheses.emptied_labels,
        (":;", ":,", ":)", ": ;", ": ,", ": )"),
        "Messi (Spanish pronunciation:; born 1987)",
        "Messi (; born 1987)",
    ),
    Rule(
        "prose",
        parentheses.emptied_pronunciations,
        ("(pr", " ;", " ,", " )"),
        "Volta (pronounced ; born 1745)",
        "Volta (; born 1745)",
    ),
    Rule(
        "prose",
        parentheses.opening_separators,
        _pairs("(", ";,") + _pairs("( ", ";,"),
        "Volta (; ; born 1745)",
        "Volta (born 1745)",
    ),
    Rule(
        "prose",
        parentheses.closing_separators,
        (";)", ",)", " )"),
        "Adams (born in Cambridge;)",
        "Adams (born in Cambridge)",
    ),
    Rule("prose", parentheses.parenthesis_spaces, ("( ", " )"), "Volta ( 1745 )", "Volta (1745)"),
    Rule(
        "prose",
        parentheses.repeated_separators,
        (" ;", " ,"),
        "born in Como, ; a physicist",
        "born in Como; a physicist",
    ),
    Rule(
        "prose",
        parentheses.empty_parentheses,
        ("()", "( )", "(;", "(,", "( ;", "( ,", '(""', b"(\xe2\x80"),
        "Volta () of Como ( ; )",
        "Volta of Como",
    ),
    Rule(
        "parsed", prose.spaced_quotes, (' " ',), 'the song " Sing ", from', 'the song "Sing", from'
    ),
    Rule(
        "prose", prose.doubled_quotes, ('""',), 'Old French ""jouel"" and', 'Old French "jouel" and'
    ),
    Rule(
        "prose", prose.spaced_possessive, (" 's", b"\x80\x99s"), "in Uber 's cars", "in Uber's cars"
    ),
    Rule(
        "parsed",
        prose.spaced_hyphen,
        (" -", "- "),
        "a Monroe -inspired song – or",
        "a Monroe-inspired song – or",
    ),
    Rule(
        "prose", prose.spaced_punctuation, (" ,", " ."), "as such , that is .", "as such, that is."
    ),
    Rule(
        "prose",
        prose.doubled_full_stop,
        ("..",),
        "in Washington, D.C.. While",
        "in Washington, D.C. While",
    ),
    Rule(
        "prose",
        prose.glued_sentences,
        [
            *_pairs(".", ascii_uppercase),
            *_pairs("?", ascii_uppercase),
            *_pairs("!", ascii_uppercase),
        ],
        "the 89th minute.On 25 May",
        "the 89th minute. On 25 May",
    ),
    Rule(
        "prose", prose.runs_of_spaces, ("  ", "\t", " \n", "\n "), " One  and\ttwo", "One and two"
    ),
)


def without_marks(text: str) -> str:
    """`text` without characters that mean something to `clean`."""
    return text.replace(HEADING, "").replace(CODE, "").replace(FORMULA, "")


def as_one_line(text: str) -> str:
    """A title or heading in one line, without marks."""
    return " ".join((text if text.isprintable() else without_marks(text)).split())


def code_lines(lines: Sequence[str], numbers: Iterable[int], titles: Container[int]) -> set[int]:
    """Which of the lines with these numbers, ascending, are code; a title begins another text."""
    code: set[int] = set()
    last = -1  # that was looked at
    for number in numbers:
        begin = number
        while begin > last and lines[begin].startswith(_CONTINUED) and begin not in titles:
            begin -= 1
        is_code = begin in code if begin == last else lines[begin].startswith(_CODE_LINE)
        if is_code:
            code.add(number)
        last = number
    return code
