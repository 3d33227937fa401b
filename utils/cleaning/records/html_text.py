"""From the tree of a page to its lines, as a browser shows them.

Borders between blocks, items, raised and lowered characters are written into the tree as marks;
then its text is taken as a whole, and the marks say where lines begin.

Raised and lowered: a plain text has neither. Where plain characters are what people write in such a
case they stand as they are: "H2O", "1st", "Ca2+", "14C". Where that would make another number or
name of it, it is written as in LaTeX: "10^5", "km^2", "2^n", "2^(n+1)", "x_n" in formulas.
"""

import re
from re import Match

from selectolax.lexbor import LexborNode

from utils.cleaning.rules.text_rules import CODE, FORMULA, HEADING

BREAK = "\x1e"  # between two lines
ITEM = "\x1f"  # at the start of a line: an item of a list
_RAISED = "\x0e"
_LOWERED = "\x0f"
_VARIABLE = "\x10"  # after one of the two: in italics, as variables are
_END = "\x11"  # of raised or lowered characters
_SHIFTS = (_RAISED, _LOWERED, _VARIABLE, _END)
_MARKS = (HEADING, CODE, FORMULA, BREAK, ITEM, *_SHIFTS)
_WITHOUT_SHIFTS = str.maketrans(dict.fromkeys(_SHIFTS, ""))
_WITHOUT_MARKS = str.maketrans(dict.fromkeys(_MARKS, ""))

_BLOCKS = (
    "p,div,li,dt,dd,ul,ol,dl,td,th,tr,table,caption,section,blockquote,center,hr,br,address"
    ",article,aside,details,fieldset,footer,form,header,main,summary"
)
_ITEMS = frozenset({"li", "dt", "dd"})
_BEGINS_ONLY = frozenset({"td", "th", "tr", "br", "hr"})
_HEADINGS = "h1,h2,h3,h4,h5,h6"
_PLAIN_SUPERSCRIPTS = "i[lang] sup,span[lang] sup,.IPA sup"  # tones of a romanisation
_VARIABLES = ".texhtml sup,.texhtml sub,sup i,sup var,sub i,sub var"
_CHARGED = ".template-chem2-su"  # a charge above a number of atoms
_STACKED = 'span[style*="block"]'  # lines inside a line

_SHIFTED = re.compile(
    rf"([{_RAISED}{_LOWERED}])({_VARIABLE}?)([^{_RAISED}{_LOWERED}{_END}]*){_END}"
)
_MAX_SHIFTS = 4  # of one inside another; more stand as they are
_NUMBER = re.compile(r"[+−–-]?[0-9]+(?:[.,/⁄][0-9]+)?")
_CHARGE = re.compile(r"[0-9]*[+−–-]")
# Behind a number and no power of it: the ending of an ordinal, in one of several languages.
_ORDINAL_ENDING = re.compile(
    r"(?i:st|nd|rd|th|d|e|er|ers|re|res|ère|ères|es|ème|èmes|me|nde?s?|de|ste|a|o|as|os"
    r"|ra|ro|da|do|ta|to|ma|mo|na|no|va|vo|ª|º)\.?"
)
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
# Binds like a letter: else it needs parentheses.
_SIMPLE = re.compile(r"[+−–-]?(?:\w|[0-9]+)|\([^()]*\)")
_FRACTION = re.compile(f"[⁄/]{_LOWERED}")  # "3 1⁄2" with its 1 raised and its 2 lowered
_MOST_MARKS = 9  # between a character and what is raised beside it
_LONGEST_SHIFT = 60  # characters; more than that is text in small letters
_BASES = ")]}|"  # and letters and digits: what can be raised to a power


def remove_marks(body: LexborNode) -> None:
    """Take the characters out of a tree that would mean something here."""
    text = body.text_lexbor()
    if not any(mark in text for mark in _MARKS):
        return
    for node in list(body.traverse(include_text=True)):
        if node.tag == "-text":
            own = node.text_lexbor()
            cleaned = plain(own)
            if cleaned != own:
                node.replace_with(cleaned)


def plain(text: str) -> str:
    """`text` without marks."""
    return text.translate(_WITHOUT_MARKS)


def mark_characters(body: LexborNode) -> None:
    """Mark raised and lowered characters, and quote what browsers show in quotation marks."""
    for node in body.css(_STACKED):
        style = (node.attrs.get("style") or "").replace(" ", "")
        if "display:block" in style:
            is_below = "border-top" in style and node.prev is not None
            node.insert_before("/" if is_below else " ")
    for node in body.css(_CHARGED):
        parts = [part.text_lexbor() for part in node.iter()]
        if len(parts) == 2:
            raised, lowered = parts
            node.replace_with(f"{_LOWERED}{lowered}{_END}{_RAISED}{raised}{_END}")
    shifted = body.css("sup,sub")
    if shifted:
        is_plain = {node.mem_id for node in body.css(_PLAIN_SUPERSCRIPTS)}
        is_variable = _shifted_variables(body)
        for node in shifted:
            if node.mem_id not in is_plain:
                mark = _RAISED if node.tag == "sup" else _LOWERED
                node.insert_before(mark + _VARIABLE * (node.mem_id in is_variable))
                node.insert_after(_END)
    for node in body.css("q"):
        node.insert_before('"')
        node.insert_after('"')


def _shifted_variables(body: LexborNode) -> set[int]:
    found: set[int] = set()
    for node in body.css(_VARIABLES):
        above: LexborNode | None = node
        for _ in range(4):
            if above is None or above.tag in ("sup", "sub"):
                break
            above = above.parent
        if above is not None:
            found.add(above.mem_id)
    return found


def mark_lines(body: LexborNode) -> None:
    """Mark where lines begin: code line by line, headings by their depth, items, other blocks."""
    for node in body.css("pre"):
        for line_break in node.css("br"):
            line_break.replace_with("\n")
        code = node.text_lexbor().strip("\n").split("\n")
        node.replace_with(BREAK.join(["", *(CODE + line.rstrip() for line in code), ""]))
    for node in body.css(_HEADINGS):
        depth = max(1, int(node.tag[1]) - 1) if node.tag else 1
        for line_break in node.css("br"):
            line_break.replace_with(" ")
        name = " ".join(node.text_lexbor().split())
        node.replace_with(f"{BREAK}{HEADING * depth}{name}{BREAK}")
    for node in body.css(_BLOCKS):
        tag = node.tag
        if tag in _ITEMS:
            node.insert_before(BREAK + ITEM)
        else:
            node.insert_before(BREAK)
            if tag not in _BEGINS_ONLY:
                node.insert_after(BREAK)


def lines_of(text: str) -> list[str]:
    """The lines of a marked text, white space collapsed; items still begin with ITEM."""
    lines: list[str] = []
    is_item = False
    for fragment in _without_shifts(text).split(BREAK):
        if fragment.startswith(CODE):
            lines.append(fragment)
            continue
        is_item = is_item or fragment.startswith(ITEM)
        line = " ".join(fragment.split())  # which takes ITEM for a space
        if line:
            lines.append(ITEM + line if is_item else line)
            is_item = False
    return lines


def _without_shifts(text: str) -> str:
    for _ in range(_MAX_SHIFTS):
        if _END not in text:
            return text
        text = _SHIFTED.sub(_shifted, text)
    return text.translate(_WITHOUT_SHIFTS)


def _shifted(match: Match[str]) -> str:
    mark, variable, content = match.groups()
    text = content.strip()
    before = _character_before(match)
    is_base = before.isalnum() or (before != "" and before in _BASES)
    if not text or not is_base or len(text) > _LONGEST_SHIFT or BREAK in text:
        return content
    if mark == _RAISED and _FRACTION.match(match.string, match.end()):
        return f" {text}" if before.isdigit() else content
    sign = "^" if mark == _RAISED else "_"
    if variable:
        binds = _SIMPLE.fullmatch(text) or (mark == _LOWERED and text.isalnum())
        return f"{sign}{text}" if binds else f"{sign}({text})"
    if mark == _LOWERED:
        return content
    if "^" in text:
        return f"^({text})"
    if _NUMBER.fullmatch(text) or (before.isdigit() and _CHARGE.fullmatch(text)):
        return f"^{text}"
    if not before.isdigit() or _ORDINAL_ENDING.fullmatch(text) or not _LETTER_OR_DIGIT.search(text):
        return content
    return f"^{text}" if _SIMPLE.fullmatch(text) else f"^({text})"


def _character_before(match: Match[str]) -> str:
    """The character in front in the same line, or ""."""
    for place in range(match.start() - 1, max(match.start() - _MOST_MARKS, 0) - 1, -1):
        if match.string[place] not in _SHIFTS:
            return match.string[place]
    return ""
