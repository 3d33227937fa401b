"""Cleaning rules for the punctuation of prose; they see no lines of code: see text_rules.py.

Most patterns begin with a literal, which the regular expression engine finds fastest.
"""

import re
from re import Match

from utils.cleaning.rules import prose_words as words
from utils.cleaning.rules.line_context import (
    in_lines_with,
    is_about_programs,
    text_after,
    text_before,
)

_IPA = re.compile(r"/ ?([^/\n]{1,90}?) ?/")
_IPA_LETTERS = frozenset("ˈˌːəɪʊɔɛæɑɒʌɜʃʒθðŋɡɹɾɐɨɯøœɲʁχɣβ")
_SPACED_QUOTES = re.compile(r' " ([^"\n]+) "(?=[ ,.;:!?)]|$)', re.MULTILINE)
_DOUBLED_QUOTES = re.compile(r'""(?<!""")(?:(\w(?:[^"\n]*[^\s"])?)""(?!")|(?<![^ (\n]"")(?=\w))')
_POSSESSIVE = re.compile(
    r" 's(?<=[\w.\"”’)\]] 's)\b(?![-'’]| Gr?av)| ’s(?<=[\w.\"”’)\]] ’s)\b(?![-'’])"
)
_HYPHEN = re.compile(r" -(?=([^\W\d_]+))")
_RESPELLED = re.compile(r"- (?<=\w- )(?=(?:[^\W\d_]+ -\w|[A-Z]{2,}\b))")
_LETTERS = re.compile("[a-z]+")
_LONE_LETTER = re.compile(r" -[a-zA-Z]\b")
_COMMA = re.compile(r" ,(?<=[\w\"'”’»)\]%°\x04] ,)(?=[ \"”]|$)", re.MULTILINE)
_FULL_STOP = re.compile(r" \.(?<=[\w\"'”’»)\]%°\x04] \.)(?=$| [A-Z\"“(])", re.MULTILINE)
_DOUBLED_FULL_STOP = re.compile(
    r"\.\.(?:(?<=[A-Z]\.\.)(?=$| )|(?<=[^\W\d_]\.\.)(?=$| (?![a-z]))|(?<=[0-9]\.\.)$)",
    re.MULTILINE,
)
_GLUED = [  # one for each sign: a pattern that begins with a literal is found much faster
    re.compile(rf"{re.escape(sign)}(?=([A-Z][A-Za-z]*)(?=[ ,'’-]|$))", re.MULTILINE)
    for sign in ".?!"
]
_PLAIN_WORD = re.compile(r"(?:^|[^\w.])(?:St|[A-Za-z]?[a-z]{2,})$")
_RUN = re.compile("  +")
_VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýаеёиоуыэюя")


def spaced_ipa(text: str) -> str:
    """Pronunciations whose letters stand apart."""
    return text if text.isascii() else _IPA.sub(_joined_ipa, text)


def _joined_ipa(match: Match[str]) -> str:
    sounds = match[1]
    is_apart = match[0][1] == " " or match[0][-2] == " "
    is_spaced = is_apart and max(map(len, sounds.split()), default=4) <= 3 and " " in sounds
    if not is_spaced or _IPA_LETTERS.isdisjoint(sounds):
        return match[0]
    return f"/{sounds.replace(', ', ',').replace(' ', '').replace(',', ', ')}/"


def spaced_quotes(text: str) -> str:
    """Quotation marks with spaces inside; the spaces outside tell them from a gap between two."""
    return in_lines_with((' " ',), _without_spaces_in_quotes, text)


def _without_spaces_in_quotes(line: str) -> str:
    """Two marks belong together only after an even number of others."""
    pieces: list[str] = []
    place = marks = 0
    for match in _SPACED_QUOTES.finditer(line):
        marks += line.count('"', place, match.start())
        quotation = match[0] if marks % 2 or _is_inches(match) else f' "{match[1]}"'
        pieces += line[place : match.start()], quotation
        marks += match[0].count('"')
        place = match.end()
    return "".join([*pieces, line[place:]])


def _is_inches(match: Match[str]) -> bool:
    """Whether the two marks may be inches, as in 5 " by 6 " or 10 " tall."""
    after_number = match.string[match.start() - 1 : match.start()].isdigit()
    return after_number and (match[1][0].islower() or match[1][-1].isdigit())


def doubled_quotes(text: str) -> str:
    """Italics inside quotation marks, written as two marks."""
    return _DOUBLED_QUOTES.sub(_single_quotes, text)


def _single_quotes(match: Match[str]) -> str:
    return '"' if match[1] is None else f'"{match[1]}"'


def spaced_possessive(text: str) -> str:
    """A space before 's; not before a name such as 's-Hertogenbosch."""
    return _POSSESSIVE.sub(_possessive, text)


def _possessive(match: Match[str]) -> str:
    """The name that the 's belonged to may be lost: "basis for 's doctrine"."""
    word = text_before(match, 40).split(" ")[-1].lower()
    is_lost = word in words.FUNCTION_WORDS and word not in words.HAS_POSSESSIVE
    return match[0] if is_lost else match[0][1:]


def spaced_hyphen(text: str) -> str:
    """A space on one side of a hyphen; a dash has one on both sides, an option stands apart."""
    return _HYPHEN.sub(_joined_hyphen, _RESPELLED.sub(_respelled, text))


def _respelled(match: Match[str]) -> str:
    next_word = match.string[match.end() : match.end() + 40].split()[0]
    return match[0] if next_word in words.BEFORE_AFFIX else "-"  # "1,6- and -2,6-phosphate"


def _joined_hyphen(match: Match[str]) -> str:
    before = text_before(match, 100)
    if not before or not before[-1].isalnum():
        return match[0]
    word, next_word = before.split()[-1], match[1]
    is_stressed = word.rpartition("-")[2].isupper() and len(next_word) < 6  # "KARR -ee"
    is_name = len(word) > 1 and (word[0].isupper() or word[0].isdigit() or is_stressed)
    if not is_name:
        return "-" if _is_compound(word, match) else match[0]
    if not next_word.isascii():
        return "-"
    is_word = len(next_word) > 2 and not _VOWELS.isdisjoint(next_word.lower())  # not "tar -xzf"
    is_respelled = len(next_word) > 1 and is_stressed
    if next_word in words.OPTIONS or word.lower() in words.BEFORE_AFFIX:
        return match[0]
    is_tail = next_word in words.COMPOUND_TAILS or next_word.endswith(("ed", "ing"))
    if not (is_word or is_respelled):
        return match[0]
    is_sure = (
        is_tail or is_stressed
    )  # else: "from Greek -logia and Latin -tio", "MATLAB -nodisplay"
    return "-" if is_sure or not _is_about_affixes(match) else match[0]


def _is_compound(word: str, match: Match[str]) -> bool:
    """Whether an ordinary word and what follows are one: "rodent -like", not "find -name"."""
    next_word = match[1]
    if word.lower() in words.BEFORE_AFFIX or next_word in words.OPTIONS:
        return False
    is_participle = len(next_word) > 4 and next_word.endswith(("ed", "ing"))
    if is_participle or next_word in words.COMPOUND_TAILS or word.lower() in words.PREFIXES:
        return True
    return (
        len(next_word) > 3
        and word.lower() not in words.FUNCTION_WORDS  # "its -coordinate" lost a letter
        and next_word.islower()
        and not _VOWELS.isdisjoint(next_word)
        and next_word not in words.FUNCTION_WORDS
        and not _is_about_affixes(match)
    )


def _is_about_affixes(match: Match[str]) -> bool:
    """Whether a text speaks of parts of words, or of options of programs, near a hyphen."""
    text = text_before(match, 100) + match[0] + text_after(match, 100)
    has_word = not words.ABOUT_AFFIXES.isdisjoint(_LETTERS.findall(text.lower()))
    return has_word or _LONE_LETTER.search(text) is not None


def spaced_punctuation(text: str) -> str:
    """A space before a comma or before the full stop that ends a sentence.

    Before other signs it is French, and " ." inside a sentence may be a file name's.
    """
    return _FULL_STOP.sub(".", _COMMA.sub(",", text))


def doubled_full_stop(text: str) -> str:
    """Two full stops after an abbreviation that ends a sentence."""
    return _DOUBLED_FULL_STOP.sub(".", text)


def glued_sentences(text: str) -> str:
    """No space between two sentences; a name in a program, "typing.Any", is one word."""
    for pattern in _GLUED:
        text = pattern.sub(_apart, text)
    return text


def _apart(match: Match[str]) -> str:
    before = text_before(match, 120)
    token = before.split()[-1] if before and not before[-1].isspace() else ""
    if match[1] == "NET":
        return f" {match[0]}" if token.islower() or token.istitle() else match[0]
    ends = len(token) > 1 and (token[-1].islower() or token[-1].isdigit() or token[-1] in ')]"”')
    if not ends or any(sign in token for sign in ".@_\\="):
        return match[0]
    is_sentence = _begins_sentence(match) or _is_between_words(match, before)
    return f"{match[0]} " if is_sentence else match[0]


def _is_between_words(match: Match[str], before: str) -> bool:
    """Whether two ordinary words stand around a full stop, in a line that is not about programs."""
    word = match[1]
    return (
        len(word) > 3
        and word[1:].islower()
        and word not in words.DOMAINS
        and _PLAIN_WORD.search(before) is not None
        and not is_about_programs(match)
    )


def _begins_sentence(match: Match[str]) -> bool:
    if match.string[match.end(1) : match.end(1) + 1] not in (" ", ","):
        return False
    if match[1] not in words.STARTERS_AND_NAMES:
        return match[1] in words.STARTERS
    begin = match.end(1) + 1  # after the space or comma
    after = match.string[begin : begin + 20].partition("\n")[0].partition(" ")[0].rstrip(",")
    return match.string[begin - 1] == " " and (
        after in words.AFTER_STARTER or after[:1].isdigit() or after[:1].isupper()
    )


def runs_of_spaces(text: str) -> str:
    """One space between words, none at the ends of a line."""
    text = _RUN.sub(" ", text.replace("\t", " "))
    return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")
