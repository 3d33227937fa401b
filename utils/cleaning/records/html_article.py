"""A page of Wikimedia's HTML, as Parsoid writes it, to the lines of an article.

The lines are those that wikipedia.py makes of Structured Contents, so the same rules clean them:
headings with their depth, a line for each paragraph and item, code line by line. Beyond that they
hold formulas as LaTeX and data tables as Markdown, which Structured Contents lacks.
"""

from collections.abc import Iterable

from selectolax.lexbor import LexborNode

from utils.cleaning.records import html_names as names
from utils.cleaning.records.html_math import replace_math
from utils.cleaning.records.html_tables import replace_tables
from utils.cleaning.records.html_text import (
    ITEM,
    lines_of,
    mark_characters,
    mark_lines,
    remove_marks,
)
from utils.cleaning.records.html_tree import body_of
from utils.cleaning.records.sections import SectionNames, is_item, plain_name
from utils.cleaning.rules.text_rules import HEADING

_ROW = "| "


def reason_to_drop(html: str, labels: Iterable[str]) -> str | None:
    """Why a page is no article, by what Parsoid notes in it and by its templates and categories.

    `labels` are the names of these, with their namespace: "Template:Disambiguation".
    """
    plain_labels = {label.rpartition(":")[2].replace("_", " ").casefold() for label in labels}
    for reason, marks, labels_of_reason in (
        ("redirect", names.REDIRECT_MARKS, frozenset[str]()),
        ("disambiguation", names.DISAMBIGUATION_MARKS, names.DISAMBIGUATION_LABELS),
        ("set_index", names.SET_INDEX_MARKS, names.SET_INDEX_LABELS),
    ):
        if not plain_labels.isdisjoint(labels_of_reason) or any(mark in html for mark in marks):
            return reason
    return None


def article_lines(html: str, dropped: SectionNames) -> list[str]:
    """The page's lines, without the sections and elements that are none of its text."""
    body = body_of(html)
    if body is None:
        return []
    _drop_elements(body)
    remove_marks(body)
    replace_math(body)
    _drop_hidden(body)  # which formulas are, behind their pictures
    mark_characters(body)
    mark_lines(body)
    replace_tables(body)
    return _without_sections(lines_of(body.text_lexbor()), dropped)


def _drop_elements(body: LexborNode) -> None:
    for node in body.css("[class]"):
        classes = node.attrs.get("class") or ""
        if names.is_dropped_class(classes) or (names.RECORDING in classes and _is_button(node)):
            _drop(node)
    for node in body.css("[role],[typeof]"):
        kind = node.attrs.get("typeof") or ""
        if names.DROPPED_TYPES.match(kind) or node.attrs.get("role") in names.DROPPED_ROLES:
            _drop(node)
    for node in body.css(names.DROPPED_ELEMENTS):
        _drop(node)


def _is_button(recording: LexborNode) -> bool:
    """Whether a link to a recording shows nothing that is spoken in it."""
    return recording.text_lexbor().strip(" ()").casefold() in names.LISTEN_LABELS


def _drop_hidden(body: LexborNode) -> None:
    for node in body.css('[style*="none"],[style*="hidden"]'):
        style = (node.attrs.get("style") or "").replace(" ", "").lower()
        if "display:none" in style or "visibility:hidden" in style:
            _drop(node)


def _drop(node: LexborNode) -> None:
    """Take an element out of the tree with all that is in it."""
    if node.tag != "body":
        node.decompose(recursive=False)  # which leaves what is inside where it is: in no tree


def _without_sections(lines: list[str], dropped: SectionNames) -> list[str]:
    """The lines, unmarked as items, without the sections that are none of the text."""
    kept: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith(HEADING):
            name = plain_name(line.lstrip(HEADING))
            if name in dropped.pointing or name in dropped.lists:
                end = _end_of_section(lines, number)
                if name in dropped.pointing or all(map(_is_item, lines[number:end])):
                    number = end
                    continue
        kept.append(line.removeprefix(ITEM))
    return kept


def _end_of_section(lines: list[str], number: int) -> int:
    """The next heading that is not below the one before `number`."""
    depth = _depth(lines[number - 1])
    while number < len(lines) and not 0 < _depth(lines[number]) <= depth:
        number += 1
    return number


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(HEADING))


def _is_item(line: str) -> bool:
    return line.startswith((ITEM, HEADING, _ROW)) or is_item(line)
