"""Cleaning rules for parentheses that lost their content, in prose: see text_rules.py.

Wikipedia's parser drops pronunciations, recordings and words in other scripts, and leaves what
stood around them. Parentheses of code are told by what stands before and in them.
"""

import re
from functools import partial
from re import Match

from utils.cleaning.rules import prose_words as words
from utils.cleaning.rules.line_context import in_lines_with, is_about_programs, text_before

_LABEL = re.compile(
    r"([(;,] ?)(?:(?:[A-Z][\w-]*(?: [\w-]+){0,2} )?(?:pronunciation|pronounced|IPA|AFI):"
    rf"|(?:[A-Z][\w-]+ ){{0,2}}(?:{words.LANGUAGES}):) ?(?=[;,)])"
)
_LABEL_ENDS = (":;", ":,", ":)", ": ;", ": ,", ": )")
_PRONOUNCED = re.compile(
    r"pronounced()(?:(?:(?<=[(;,]pronounced)|(?<=[(;,] pronounced)) (?=[;,)])"
    r"|(?<=\(pronounced)(?=\)))"
)
_LOOP_WORD = re.compile(r"\b(?:for|while|if|switch)$")
_OPENING_SEPARATORS = re.compile(r"\((?: ?[;,])+ ?(?=[^\s;,)])")
_CLOSING_SEPARATORS = re.compile(r"[;,](?<![;,].)(?<![;,] .)(?: ?[;,])* ?\)")  # each run once
_CLOSING_ENDS = (";)", ",)", "; )", ", )")
_OPENING_SPACE = re.compile(r"\( (?![ ;,)])")
_CLOSING_SPACE = re.compile(r" \)(?<![ ;,(] \))")
_LOOP = re.compile(r"\b(?:for|while) ?\([^()\n]*$")
_CODE_SIGNS = frozenset("=<>{}")
_TWO_WORDS = re.compile(r"[^\W\d_]{2,} (?:[^\W\d_]{2,}|[0-9]{3,4}\b)|\b[A-Z]|[^\x00-\x7f]|[\"”]")
_DOTTED_NAME = re.compile(r"\w[._:]+[A-Za-z]{2,}")
_FOREIGN_END = re.compile(r",\)(?<=[^\x00-\x7f],\))")
_REPEATED_SEPARATORS = re.compile(r"[;,](?: [;,])+")
_REPEATED = ("; ;", ", ;", "; ,", ", ,")
_EMPTY_PARENTHESES = re.compile(
    r" \((?:[ ;,]|\"\"|“”)*\)(?: \((?:[ ;,]|\"\"|“”)*\))*(?![\[{(=\w]|\.\w)"
)


def emptied_labels(text: str) -> str:
    """In parentheses, the name of a language or what is before a pronunciation, with none after."""
    return in_lines_with(_LABEL_ENDS, partial(_LABEL.sub, _inside_parentheses), text)


def emptied_pronunciations(text: str) -> str:
    """In parentheses, "pronounced" with nothing after it."""
    return _PRONOUNCED.sub(_inside_parentheses, text)


def _inside_parentheses(match: Match[str]) -> str:
    before = text_before(match, 300) + match[1]
    return match[1] if before.count("(") > before.count(")") else match[0]


def opening_separators(text: str) -> str:
    """Separators after an opening parenthesis, before which something stood that is lost."""
    return _OPENING_SEPARATORS.sub(_opened, text)


def _opened(match: Match[str]) -> str:
    return match[0] if _is_call(text_before(match, 40)) else "("


def _is_call(before: str) -> bool:
    """Whether a parenthesis after this belongs to a function or a loop."""
    return (
        before[-1:].isalnum()
        or _LOOP_WORD.search(before.rpartition(" (")[0]) is not None
        or (before[-1:] == " " and _LOOP_WORD.search(before[:-1]) is not None)
    )


def closing_separators(text: str) -> str:
    """Separators before a closing parenthesis, after which something stood that is lost."""
    text = _FOREIGN_END.sub(")", text)
    return in_lines_with(_CLOSING_ENDS, partial(_CLOSING_SEPARATORS.sub, _closed), text)


def _closed(match: Match[str]) -> str:
    if match[0] == ",)":
        return match[0]  # "(1,)" is a tuple
    outside, parenthesis, inside = text_before(match, 200).rpartition("(")
    if not parenthesis or _is_call(outside) or not _CODE_SIGNS.isdisjoint(inside):
        return match[0]
    return ")" if _TWO_WORDS.search(inside) else match[0]


def parenthesis_spaces(text: str) -> str:
    """Spaces inside the ends of parentheses."""
    return _OPENING_SPACE.sub("(", _CLOSING_SPACE.sub(")", text))


def repeated_separators(text: str) -> str:
    """Separators between which something stood that is lost."""
    return in_lines_with(_REPEATED, partial(_REPEATED_SEPARATORS.sub, _strongest), text)


def _strongest(match: Match[str]) -> str:
    if _LOOP.search(text_before(match, 80)):
        return match[0]
    return ";" if ";" in match[0] else ","


def empty_parentheses(text: str) -> str:
    """Parentheses that lost all of their content; "printf ()" and "for (;;)" are code's."""
    return _EMPTY_PARENTHESES.sub(_nothing_after_name, text)


def _nothing_after_name(match: Match[str]) -> str:
    """Nothing where the parentheses held a foreign or phonetic form of the word before."""
    before = text_before(match, 40)
    if _LOOP_WORD.search(before) or ";;" in match[0] or not before or before[-1].isspace():
        return match[0]
    if (
        "; " in match[0] or ", " in match[0] or " ;" in match[0] or " ," in match[0]
    ):  # ", ;" is no code's
        return "" if before[-1].isalnum() or before[-1] in "\"'”’»)]}.?!%*" else match[0]
    word = before.split()[-1].lstrip("([\"'“‘«")
    is_quoted = before[-1] in "\"'”’»"
    is_name = word[:1].isupper() or word[:1].isdigit() or not word.isascii()
    is_word = before[-1].isalnum() and not _DOTTED_NAME.search(word) and "(" not in word
    is_prose = is_word and (is_name or not is_about_programs(match))
    return "" if is_quoted or is_prose else match[0]
