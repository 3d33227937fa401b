"""HTML to the tree of a page, in time and memory that grow with its size alone.

The parser keeps to HTML's own rules, by which tags without an end, deep nesting and thousands of
attributes cost the square of their number: 40 kB of unclosed <b> become gigabytes. Pages of such a
kind are rewritten before they are parsed; what Parsoid writes is not of that kind. They are told by
their tags alone, so "<" has to be escaped in attributes, as Parsoid does it.
"""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from utils.cleaning.rules.prose_words import word_set

_MAX_DEPTH = 250  # real pages reach about 50
_FEW_TAGS = 500  # whose worst case is cheap, so that the parser may mend them as browsers do
_COMMENT, _COMMENT_END = "<!--", "-->"
_NAME = re.compile(r"<(/?[a-zA-Z][a-zA-Z0-9]*+)")
_QUOTED = re.compile(r"""\"[^"]*"|'[^']*'""")
_GAP_CHARACTERS = 10_000  # without a "<": a text or a tag that is longer than most
_LONGEST_TAG = 2_000  # characters of a tag without the values of its attributes
_DECLARATION = re.compile(r"<[!?][^>]*>?")
_TAG = re.compile(
    r"""<(/?)([a-zA-Z][^\s/<>]*+)((?:[^<>"']++|"[^"<]*+"|'[^'<]*+'|["'])*+)>?""",
)
_KEPT_ATTRIBUTES = re.compile(
    r"\b(?:alt|alttext|class|colspan|display|encoding|id|lang|role|rowspan|style|typeof)="
    r"""(?:"[^"<]{0,2000}"|'[^'<]{0,2000}'|[^\s"'<>]{1,100})"""
)
_MAX_ATTRIBUTES = 12
_VOID = word_set("area base br col embed hr img input link meta param source track wbr")
# Elements of MathML that end in their tag, or at once.
_EMPTY = word_set("mspace mprescripts mglyph none malignmark maligngroup")
_WITHOUT_CONTENT = _VOID | _EMPTY
_WITHOUT_CONTENT_ENDS = frozenset(f"/{name}" for name in _WITHOUT_CONTENT)
_BLOCKS = word_set("blockquote center div dl h1 h2 h3 h4 h5 h6 hr ol p pre section table ul")
# Elements without an end tag end before these.
_ENDED_BY = {
    "p": _BLOCKS,
    "li": frozenset({"li"}),
    "dt": frozenset({"dt", "dd"}),
    "dd": frozenset({"dt", "dd"}),
    "td": frozenset({"td", "th", "tr"}),
    "th": frozenset({"td", "th", "tr"}),
    "tr": frozenset({"tr"}),
}
_LOOK_BACK = 64  # elements that one end tag may end


def body_of(html: str) -> LexborNode | None:
    """The body of a page; None where it has none."""
    if _comments_hold_tags(html):
        html = _without_comments(html)
    if not _is_cheap(html):
        html = _rewritten(_DECLARATION.sub("", _without_comments(html)))
    return LexborHTMLParser(html).body


def _comments_hold_tags(html: str) -> bool:
    """Whether tags that stand in comments would be counted as others are."""
    begin = html.find(_COMMENT)
    while begin >= 0:
        end = html.find(_COMMENT_END, begin)
        if end < 0 or html.find("<", begin + len(_COMMENT), end) >= 0:
            return True
        begin = html.find(_COMMENT, end)
    return False


def _without_comments(html: str) -> str:
    first, *others = html.split(_COMMENT)
    return first + "".join(other.partition(_COMMENT_END)[2] for other in others)


def _is_cheap(html: str) -> bool:
    if _holds_long_tag(html):
        return False
    tags = _NAME.findall(html)
    return len(tags) <= _FEW_TAGS or _is_well_nested(tags)


def _holds_long_tag(html: str) -> bool:
    """Whether a tag has more attributes than any of Parsoid's, however long those are."""
    place = 0
    while place + _GAP_CHARACTERS <= len(html):
        if html.find("<", place, place + _GAP_CHARACTERS) >= 0:
            place += _GAP_CHARACTERS
            continue
        begin, end = html.rfind("<", 0, place), html.find("<", place)
        place = len(html) if end < 0 else end
        tag = _QUOTED.sub("", html[max(begin, 0) : place]).partition(">")[0]
        if len(tag) > _LONGEST_TAG:
            return True
    return False


def _is_well_nested(tags: list[str]) -> bool:
    """Whether every element ends where it should, none too deep."""
    ends: list[str] = []
    for tag in tags:
        if tag[0] == "/":
            if ends and ends[-1] == tag:
                ends.pop()
            elif tag not in _WITHOUT_CONTENT_ENDS:
                return False
        elif tag not in _WITHOUT_CONTENT:
            ends.append("/" + tag)
            if len(ends) > _MAX_DEPTH:
                return False
    return not ends


def _rewritten(html: str) -> str:
    """The page well nested, with the few attributes that are read.

    Elements too deep to be kept are gone, their text is not.
    """
    pieces: list[str] = []
    opened: list[str] = []
    place = 0

    def close(depth: int) -> None:
        while len(opened) > depth:
            name = opened.pop()
            pieces.append(f"</{name}>" if len(opened) < _MAX_DEPTH else " ")

    for tag in _TAG.finditer(html):
        pieces.append(html[place : tag.start()].replace("<", "&lt;"))
        place = tag.end()
        name = tag[2].lower()
        if tag[1]:
            innermost = _last(name, opened)
            if innermost is not None:
                close(innermost)
            continue
        while opened and name in _ENDED_BY.get(opened[-1], ()):
            close(len(opened) - 1)
        end = "/>" if name in _WITHOUT_CONTENT else ">"
        is_kept = len(opened) < _MAX_DEPTH
        pieces.append(f"<{name}{_attributes(tag[3])}{end}" if is_kept else " ")
        if name not in _WITHOUT_CONTENT:
            opened.append(name)
    pieces.append(html[place:].replace("<", "&lt;"))
    close(0)
    return "".join(pieces)


def _last(name: str, opened: list[str]) -> int | None:
    """The place of the innermost element of a name, among the innermost ones."""
    for place in range(len(opened) - 1, max(-1, len(opened) - 1 - _LOOK_BACK), -1):
        if opened[place] == name:
            return place
    return None


def _attributes(text: str) -> str:
    return "".join(f" {found}" for found in _KEPT_ATTRIBUTES.findall(text)[:_MAX_ATTRIBUTES])
