"""Cleaning rules for the punctuation of prose; they see no lines of code: see text_rules.py.

Each begins with a cheap test for what it looks for, since most articles hold little of it, and
most patterns begin with a literal, which the regular expression engine finds fastest.
"""

import re
from re import Match

from utils.cleaning import prose_words as words

_IPA = re.compile(r"/ ?([^/\n]{1,90}?) /")
_IPA_LETTERS = frozenset("ˈˌːəɪʊɔɛæɑɒʌɜʃʒθðŋɡɹɾɐɨɯøœɲʁχɣβ")
_LABEL = re.compile(
    r"(?<=[(;,])( ?)(?:(?:[A-Z][\w-]*(?: [\w-]+){0,2} )?(?:pronunciation|pronounced|IPA|AFI):"
    rf"|pronounced |(?:[A-Z][\w-]+ ){{0,2}}(?:{words.LANGUAGES}):) ?(?=[;,)])"
)
_LABEL_ENDS = (":;", ":,", ":)", ": ;", ": ,", ": )", "ed ;", "ed ,", "ed )")
_OPENING_SEPARATORS = re.compile(r"\((?: ?[;,])+ ?(?=[^\s;,)])")
_CLOSING_SEPARATORS = re.compile(r"[;,](?: ?[;,])* ?\)")
_OPENING_SPACE = re.compile(r"\( (?![ ;,)])")
_CLOSING_SPACE = re.compile(r" \)(?<![ ;,(] \))")
_LOOP = re.compile(r"\b(?:for|while) ?\([^()\n]*$")
_CODE_SIGNS = frozenset("=<>{}")
_TWO_WORDS = re.compile(r"[^\W\d_]{2,} [^\W\d_]{2,}|\b[A-Z]|[^\x00-\x7f]|[\"”]")
_DEFINED = re.compile(r"^An? [a-z]+$")  # "A quark () is"
_DOTTED_NAME = re.compile(r"\w[._:]+[A-Za-z]{2,}")
_FOREIGN_END = re.compile(r",\)(?<=[^\x00-\x7f],\))")
_REPEATED_SEPARATORS = re.compile(r"[;,](?: [;,])+")
_EMPTY_PARENTHESES = re.compile(r"(?: \((?:[ ;,]|\"\"|“”)*\))+(?![\[{(=\w]|\.\w)")
_SPACED_QUOTES = re.compile(r' " ([^"\n]+) "(?=[ ,.;:!?)]|$)', re.MULTILINE)
_DOUBLED_QUOTES = re.compile(r'""(?<!""")(?:(\w(?:[^"\n]*[^\s"])?)""(?!")|(?<![^ (]"")(?=\w))')
_POSSESSIVE = re.compile(r" 's(?<=[\w.\"”’)\]] 's)\b(?![-'’])| ’s(?<=[\w.\"”’)\]] ’s)\b(?![-'’])")
_HYPHEN = re.compile(r" -(?=([^\W\d_]+))")
_RESPELLED = re.compile(r"- (?<=\w- )(?=(?:[^\W\d_]+ -\w|[A-Z]{2,}\b))")
_COMMA = re.compile(r" ,(?<=[\w\"'”’»)\]%°] ,)(?=[ \"”]|$)", re.MULTILINE)
_FULL_STOP = re.compile(r" \.(?<=[\w\"'”’»)\]%°] \.)(?=$| [A-Z\"“(])", re.MULTILINE)
_DOUBLED_FULL_STOP = re.compile(r"\.\.(?:(?<=[^\W\d_]\.\.)(?=$| )|(?<=[0-9]\.\.)$)", re.MULTILINE)
_GLUED = re.compile(r"[.?!](?=([A-Z][a-z]*)[ ,])")
_RUN = re.compile("  +")
_VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýаеёиоуыэюя")


def spaced_ipa(text: str) -> str:
    """Pronunciations whose letters stand apart."""
    return _IPA.sub(_joined_ipa, text) if " /" in text and not text.isascii() else text


def _joined_ipa(match: Match[str]) -> str:
    sounds = match[1]
    spaced = " " in sounds and max(map(len, sounds.split()), default=4) <= 3
    if not spaced or _IPA_LETTERS.isdisjoint(sounds):
        return match[0]
    return f"/{sounds.replace(', ', ',').replace(' ', '').replace(',', ', ')}/"


def emptied_labels(text: str) -> str:
    """In parentheses, the name of a language or "pronounced" with nothing after it."""
    if any(mark in text for mark in _LABEL_ENDS):
        return _LABEL.sub(_inside_parentheses, text)
    return text


def _inside_parentheses(match: Match[str]) -> str:
    before = _before(match, 300)
    return match[1] if before.count("(") > before.count(")") else match[0]


def _before(match: Match[str], characters: int) -> str:
    """What stands before a match in its line, of so many characters at most."""
    begin = max(match.start() - characters, 0)
    return match.string[begin : match.start()].rpartition("\n")[2]


def emptied_parentheses(text: str) -> str:
    """Parentheses that lost all of their content or some of it, and spaces inside their ends.

    Those of code are told by what stands before and in them: "printf ()", "(a, )", "for (;;)".
    """
    if "(;" in text or "(," in text or "( " in text:
        text = _OPENING_SEPARATORS.sub(_opened, text)
    if ",)" in text:
        text = _FOREIGN_END.sub(")", text)
    if " )" in text or ";)" in text:
        text = _CLOSING_SPACE.sub(")", _CLOSING_SEPARATORS.sub(_closed, text))
    if "; ;" in text or ", ;" in text or "; ," in text or ", ," in text:
        text = _REPEATED_SEPARATORS.sub(_strongest, text)
    if any(mark in text for mark in ("()", "(,)", ' ("', " (“", " )", ";)")):
        text = _EMPTY_PARENTHESES.sub(_nothing_after_name, text)
    return _OPENING_SPACE.sub("(", text) if "( " in text else text


def _opened(match: Match[str]) -> str:
    return match[0] if _is_call(_before(match, 40)) else "("


def _is_call(before: str) -> bool:
    """Whether a parenthesis after this belongs to a function or a loop."""
    return (
        before[-1:].isalnum()
        or before.rpartition(" (")[0].endswith(words.LOOPS)
        or (before[:-1].endswith(words.LOOPS) and before[-1] == " ")
    )


def _closed(match: Match[str]) -> str:
    if match[0] == ",)":
        return match[0]  # "(1,)" is a tuple
    outside, parenthesis, inside = _before(match, 200).rpartition("(")
    if not parenthesis or _is_call(outside) or not _CODE_SIGNS.isdisjoint(inside):
        return match[0]
    return ")" if _TWO_WORDS.search(inside) else match[0]


def _strongest(match: Match[str]) -> str:
    if _LOOP.search(_before(match, 80)):
        return match[0]
    return ";" if ";" in match[0] else ","


def _nothing_after_name(match: Match[str]) -> str:
    """Nothing where the parentheses held a foreign or phonetic form of the word before."""
    before = _before(match, 40)
    if before.endswith(words.LOOPS) or ";;" in match[0] or not before or before[-1].isspace():
        return match[0]
    if (
        "; " in match[0] or ", " in match[0] or " ;" in match[0] or " ," in match[0]
    ):  # ", ;" is no code's
        return "" if before[-1].isalnum() or before[-1] in "\"'”’»)]}.?!%*" else match[0]
    word = before.split()[-1].lstrip("([\"'“‘«")
    is_quoted = before[-1] in "\"'”’»"
    is_name = word[:1].isupper() or word[:1].isdigit() or not word.isascii()
    is_word = before[-1].isalnum() and not _DOTTED_NAME.search(word) and "(" not in word
    is_defined = _DEFINED.search(before) is not None
    return "" if is_quoted or is_defined or (is_name and is_word) else match[0]


def spaced_quotes(text: str) -> str:
    """Quotation marks with spaces inside; the spaces outside tell them from a gap between two."""
    return _SPACED_QUOTES.sub(_quoted, text) if ' " ' in text else text


def _quoted(match: Match[str]) -> str:
    """The quotation without the spaces; two marks may be inches, as in 5 " by 6 " or 10 " tall."""
    after_number = match.string[match.start() - 1 : match.start()].isdigit()
    is_inches = after_number and (match[1][0].islower() or match[1][-1].isdigit())
    return match[0] if is_inches else f' "{match[1]}"'


def doubled_quotes(text: str) -> str:
    """Italics inside quotation marks, written as two marks."""
    return _DOUBLED_QUOTES.sub(_single_quotes, text) if '""' in text else text


def _single_quotes(match: Match[str]) -> str:
    return '"' if match[1] is None else f'"{match[1]}"'


def spaced_possessive(text: str) -> str:
    """A space before 's; not before a name such as 's-Hertogenbosch."""
    if " 's" in text or " ’s" in text:
        return _POSSESSIVE.sub(lambda match: match[0][1:], text)
    return text


def spaced_hyphen(text: str) -> str:
    """A space on one side of a hyphen; a dash has one on both sides, an option stands apart."""
    if " -" not in text:
        return text
    return _HYPHEN.sub(_joined_hyphen, _RESPELLED.sub(_respelled, text))


def _respelled(match: Match[str]) -> str:
    next_word = match.string[match.end() : match.end() + 40].split()[0]
    return match[0] if next_word in words.BEFORE_AFFIX else "-"  # "1,6- and -2,6-phosphate"


def _joined_hyphen(match: Match[str]) -> str:
    before = _before(match, 40)
    if not before or not before[-1].isalnum():
        return match[0]
    word, next_word = before.split()[-1], match[1]
    is_stressed = word.rpartition("-")[2].isupper()  # "KARR -ee", "stə-FAH -nee"
    is_name = len(word) > 1 and (word[0].isupper() or word[0].isdigit() or is_stressed)
    if not is_name:
        return "-" if _is_compound(word, next_word) else match[0]
    if not next_word.isascii():
        return "-"
    is_word = len(next_word) > 2 and not _VOWELS.isdisjoint(next_word.lower())  # not "tar -xzf"
    is_respelled = len(next_word) > 1 and is_stressed
    is_option = next_word in words.OPTIONS or word.lower() in words.BEFORE_AFFIX
    return "-" if (is_word or is_respelled) and not is_option else match[0]


def _is_compound(word: str, next_word: str) -> bool:
    """Whether an ordinary word and what follows are one: "rodent -like", not "find -name"."""
    if word.lower() in words.BEFORE_AFFIX or next_word in words.OPTIONS:
        return False
    is_participle = len(next_word) > 4 and next_word.endswith(("ed", "ing"))
    return is_participle or next_word in words.COMPOUND_TAILS or word.lower() in words.PREFIXES


def spaced_punctuation(text: str) -> str:
    """A space before a comma or before the full stop that ends a sentence.

    Before other signs it is French, and " ." inside a sentence may be a file name's.
    """
    text = _COMMA.sub(",", text) if " ," in text else text
    return _FULL_STOP.sub(".", text) if " ." in text else text


def doubled_full_stop(text: str) -> str:
    """Two full stops after an abbreviation that ends a sentence."""
    return _DOUBLED_FULL_STOP.sub(".", text) if ".." in text else text


def glued_sentences(text: str) -> str:
    """No space between two sentences; a name in a program, "typing.Any", is one word."""
    return _GLUED.sub(_apart, text)


def _apart(match: Match[str]) -> str:
    before = _before(match, 40)
    token = before.split()[-1] if before and not before[-1].isspace() else ""
    ends = len(token) > 1 and (token[-1].islower() or token[-1].isdigit() or token[-1] in ')]"”')
    is_address = any(sign in token for sign in "./@_\\=")
    return f"{match[0]} " if ends and not is_address and _begins_sentence(match) else match[0]


def _begins_sentence(match: Match[str]) -> bool:
    if match[1] not in words.STARTERS_AND_NAMES:
        return match[1] in words.STARTERS
    begin = match.end(1) + 1  # after the space or comma
    after = match.string[begin : begin + 20].partition("\n")[0].partition(" ")[0].rstrip(",")
    return match.string[begin - 1] == " " and (
        after in words.AFTER_STARTER or after[:1].isdigit() or after[:1].isupper()
    )


def runs_of_spaces(text: str) -> str:
    """One space between words, none at the ends of a line."""
    if "\t" in text:
        text = text.replace("\t", " ")
    if "  " in text:
        text = _RUN.sub(" ", text)
    return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")
