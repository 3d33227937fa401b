"""Cleaning rules for what is left of wiki markup and HTML, in prose: see text_rules.py.

Articles about markup hold it as their subject. So a rule removes only what Wikipedia itself writes,
and leaves lines that speak of markup as they are.
"""

import html
import re
from re import Match

from utils.cleaning.rules.prose_words import word_set

# A line with one of these words speaks of markup.
_MARKUP_WORD = re.compile(
    r"\b(?:X?HTML|XML|SGML|MediaWiki|wikitext|markup|character (?:entit|reference)\w*"
    r"|(?:start|end|opening|closing) tags?|escape (?:sequence|character)s?"
    r"|escaped (?:as|characters?))\b",
    re.IGNORECASE,
)
# One of these is in each of the words, and is quicker to look for.
_MARKUP_HINTS = ("html", "xml", "sgml", "wiki", "markup", "character", " tag", "escape")
_TAG_AS_WORD = re.compile(r"<[a-z]{1,10}> (?:and|or|elements?|attributes?)\b", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,31}[0-9]{0,2});")
_TAG = re.compile(r"</?([a-z]{2,15})(?: [^<>\n]*)?/?>", re.IGNORECASE)
_WIKI_TAGS = word_set(
    "chem gallery hiero imagemap includeonly mapframe noinclude nowiki onlyinclude poem ref"
    " references score templatestyles timeline"
)
_PAIRED_TAGS = word_set("blockquote center div dfn math samp small span sub sup tt")
_BEFORE_BREAK = frozenset(".,;:!?)]>\"'”’»")
_TEMPLATE = re.compile(
    r" ?\{\{ ?(?:(?:cite [a-z]+|citation(?: needed)?|clarify|dead link|efn|ipa[a-z-]*|refn|reflist"
    r"|see also|sfn[a-z]?|webarchive|lang-[a-z-]+) ?(?:\|[^{}\n]*)?"
    r"|(?:convert|cvt|lang)\|[^{}|\n]*\|[^{}\n]*|(?:fact|when|who)\|date=[^{}\n]*)\}\}"
    r"(?:: CS1 [^.\n]{0,100}?\(link\))?",
    re.IGNORECASE,
)
_SUBSTITUTION = re.compile(r" ?\{\{ ?subst:")
_MATH = re.compile(r"\{\\(?:display|text|script)style\b")
_BRACE = re.compile(r"\\[{}]|[{}\n]")
_FORMULA_LINE = re.compile(r"^(?:formula_[0-9]+[ ,.;:]*)+$", re.MULTILINE)
_FOOTNOTE = re.compile(r"^ ?↑(?: ?[a-z0-9.,]{1,3}(?= ))* ?([^\n]{2,600})$", re.MULTILINE)
_YEAR_OR_PAGE = re.compile(r"\b(?:1[4-9]|20)[0-9]{2}\b|\b(?:[Pp]{1,2}|S|No|vol)\. ?[0-9]|https?:")
_COORDINATES = re.compile(r"^(?:Coordinates|Koordinaten): [0-9°′″'\". NSEWO/;+−-]*$", re.MULTILINE)
_NUMBER = "(?:[1-9][0-9]{0,2}|(?:note|nb|n) [0-9]{1,3})"
_CITATION = re.compile(
    r"\[(?<=[\w\"”’)][.,;]\[|[\w.,!?][”’]\[)"
    rf"{_NUMBER}\](?:\[{_NUMBER}\])*(?=\s|$)",
    re.MULTILINE,
)
_EDITORIAL = re.compile(
    r"\[(?:citation needed|clarification needed|who\?|when\?|where\?|which\?|by whom\?"
    r"|according to whom\?|dubious – discuss|dead link|better source needed|page needed"
    r"|failed verification|update needed|vague)\]"
)
_LISTEN = "(listen)"


def html_entities(text: str) -> str:
    """Entities as the characters they stand for, but not in lines that speak of them."""
    return "\n".join(_decoded(line) if "&" in line else line for line in text.split("\n"))


def _decoded(line: str) -> str:
    decoded = _ENTITY.sub(_character, line)
    if decoded == line or _speaks_of_markup(line):
        return line
    # "&amp;lt;" is how one writes about "&lt;", and "&lt; for <" about "<".
    is_subject = ("&lt;" in line and "<" in line) or ("&gt;" in line and ">" in line)
    return line if is_subject or _ENTITY.search(decoded) else decoded


def _speaks_of_markup(line: str) -> bool:
    lower = line.lower()
    has_word = any(hint in lower for hint in _MARKUP_HINTS) and _MARKUP_WORD.search(line)
    return bool(has_word or _TAG_AS_WORD.search(line))


def _character(match: Match[str]) -> str:
    character = html.unescape(match[0])
    if character.isspace():
        return " "
    return character if character == match[0] or character.isprintable() else ""


def html_tags(text: str) -> str:
    """Leftovers of wiki markup: references with their content, other tags without."""
    return "\n".join(_without_tags(line) if "<" in line else line for line in text.split("\n"))


def _without_tags(line: str) -> str:
    cuts = _tags_to_cut(line)
    if not cuts or _speaks_of_markup(line):
        return line
    pieces: list[str] = []
    place = 0
    for begin, end, instead in sorted(cuts, key=lambda cut: (cut[0], -cut[1])):
        if begin >= place:  # else it is inside a reference
            pieces += line[place:begin], instead
            place = end
    return "".join([*pieces, line[place:]])


def _tags_to_cut(line: str) -> list[tuple[int, int, str]]:
    """Begin, end and substitute of what is markup.

    HTML's own tags are markup in pairs that touch what they enclose, <br> where no space sets it
    off from the text before.
    """
    cuts: list[tuple[int, int, str]] = []
    opened: dict[str, list[Match[str]]] = {}
    for match in _TAG.finditer(line):
        begin, end = match.span()
        name = match[1].lower()
        is_closing = line[begin + 1] == "/"
        if name == "br":
            before = line[begin - 1] if begin else "."
            if before.isalnum() or before in _BEFORE_BREAK:
                cuts.append((begin, end, " "))
        elif name == "wbr" or name in _WIKI_TAGS:
            cuts.append((begin, end, ""))
        if name == "ref" or name in _PAIRED_TAGS:
            if not is_closing and line[end - 2] != "/":
                opened.setdefault(name, []).append(match)
            elif is_closing and opened.get(name):
                start = opened[name].pop()
                if name == "ref":
                    cuts.append((start.start(), end, ""))
                elif start.end() < begin and not (line[start.end()] + line[begin - 1]).count(" "):
                    cuts += [(*start.span(), ""), (begin, end, "")]
    return cuts


def templates(text: str) -> str:
    """Wikipedia's templates that were not expanded, and the citation errors they left."""
    return "\n".join(
        _without_substitutions(line) if "subst:" in line else line
        for line in _TEMPLATE.sub("", text).split("\n")
    )


def _without_substitutions(line: str) -> str:
    """Without templates that were to be replaced by their text when the page was saved."""
    if _speaks_of_markup(line):
        return line
    pieces: list[str] = []
    place = 0
    while match := _SUBSTITUTION.search(line, place):
        end, is_closed = closing_brace(line, line.index("{", match.start()))
        if not is_closed and match.start():
            break  # nothing says where it ends
        pieces.append(line[place : match.start()])
        place = end
    return "".join([*pieces, line[place:]])


def doubled_math(text: str) -> str:
    """The LaTeX behind a formula that is already there in plain characters."""
    pieces: list[str] = []
    place = 0
    while match := _MATH.search(text, place):
        end, is_closed = closing_brace(text, match.start())
        kept = text[place : match.start()] if is_closed else text[place:end]
        pieces.append(kept.removesuffix(" ") if is_closed else kept)
        place = end
    return "".join([*pieces, text[place:]])


def closing_brace(text: str, begin: int) -> tuple[int, bool]:
    """The place after the brace that closes the one at `begin`; the line's end if none does."""
    depth = 0
    for match in _BRACE.finditer(text, begin):
        if match[0] == "\n":
            return match.start(), False
        depth += {"{": 1, "}": -1}.get(match[0], 0)  # not those that are shown, "\\{"
        if depth == 0:
            return match.end(), True
    return len(text), False


def missing_formula(text: str) -> str:
    """Lines that hold nothing but the place of a lost formula."""
    return _FORMULA_LINE.sub("", text)


def footnotes(text: str) -> str:
    """Lines of footnotes: an arrow, a name or title, a year or page."""
    return _FOOTNOTE.sub(_footnote, text)


def _footnote(match: Match[str]) -> str:
    begins = match[1].lstrip("\"'“„«([")[:1]
    is_name = begins.isupper() or not (begins.isascii() or begins.islower())
    return "" if is_name and _YEAR_OR_PAGE.search(match[1]) else match[0]


def coordinates(text: str) -> str:
    """Lines that hold only the place on the globe."""
    return _COORDINATES.sub("", text)


def citations(text: str) -> str:
    """Numbers of references behind punctuation (x[1] is code), and editors' remarks."""
    return _EDITORIAL.sub("", _CITATION.sub(_citation, text))


def _citation(match: Match[str]) -> str:
    """Behind a full stop a sentence begins; else it is an index, as F# writes "items.[1]"."""
    before = match.string[match.start() - 1]
    after = match.string[match.end() : match.end() + 2].lstrip(" ")
    return match[0] if before == "." and after.islower() else ""


def listen(text: str) -> str:
    """The label of a link to a recording."""
    for ending in (f", {_LISTEN})", f",{_LISTEN})"):
        text = text.replace(ending, ")")
    return text.replace(f" {_LISTEN}", "").replace(_LISTEN, "")
