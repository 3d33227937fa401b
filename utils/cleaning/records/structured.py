"""The parts of a Structured Contents record as lines of text."""

import re

import msgspec

from utils.cleaning.records.nested_items import without_children
from utils.cleaning.records.record_fields import Part, decode_record, names_to_drop, sections_of
from utils.cleaning.records.sections import SectionNames, is_item, plain_name
from utils.cleaning.rules.text_rules import CODE, HEADING, as_one_line, without_marks

_LEAD_NAME = "abstract"
_NOT_TEXT = frozenset({"image", "gallery", "table", "infobox"})
_CODE_BLOCK = re.compile("\n(?:  |\t)")


def structured_lines(
    abstract: str | None, sections: list[Part], dropped: SectionNames
) -> list[str]:
    """The lead once (the section keeps more than `abstract`), then each section once."""
    lines: list[str] = []
    if sections and plain_name(sections[0].name) in ("", _LEAD_NAME):
        lead = sections[0]
        if lead.value:
            _add_value(lead.value, lines)
        _add_parts(lead.has_parts or [], 0, lines, dropped)
        sections = sections[1:]
    if not lines and abstract:
        lines += [without_marks(line).strip() for line in abstract.split("\n")]
    _add_parts(_without_repeats(sections), 1, lines, dropped)
    return lines


def _without_repeats(sections: list[Part]) -> list[Part]:
    """Some records hold all of their sections twice."""
    if len({section.name for section in sections}) == len(sections):
        return sections
    return list({msgspec.json.encode(section): section for section in sections}.values())


def _add_parts(parts: list[Part], depth: int, lines: list[str], dropped: SectionNames) -> None:
    """Add a line or more for each part and those in it; most parts are paragraphs."""
    for part in parts:
        kind, inside = part.type, part.has_parts
        if kind in _NOT_TEXT:
            continue
        if kind == "section":
            if (inside or part.value) and not is_dropped_section(part, dropped):
                if part.name:
                    lines.append(HEADING * depth + as_one_line(part.name))
                if part.value:
                    _add_value(part.value, lines)
                if inside:
                    _add_parts(inside, depth + 1, lines, dropped)
        elif inside and kind is not None and kind.endswith("list"):
            values: list[str] = []
            _gather_items([part], values)
            for value in without_children(values):
                _add_value(value, lines)
        else:
            if part.value:
                _add_value(part.value, lines)
            if inside:
                _add_parts(inside, depth, lines, dropped)


def _add_value(value: str, lines: list[str]) -> None:
    """One or more lines; a text that indents some of its lines is code and keeps its layout."""
    if HEADING in value or CODE in value:
        value = without_marks(value)
    if "\n" not in value:
        lines.append(value)
    elif _CODE_BLOCK.search(value):
        lines += [CODE + line for line in value.split("\n")]
    else:
        lines += value.split("\n")


def is_dropped_section(section: Part, dropped: SectionNames) -> bool:
    name = plain_name(section.name)
    return name in dropped.pointing or (name in dropped.lists and _holds_only_items(section))


def _holds_only_items(part: Part) -> bool:
    """Whether everything in a section is lists, and paragraphs that are as good as their items."""
    if (part.type or "").endswith("list"):
        return True
    is_text = part.value is not None and part.type not in _NOT_TEXT
    if is_text and not is_item(part.value or ""):
        return False
    return all(map(_holds_only_items, part.has_parts or ()))


def _gather_items(parts: list[Part], values: list[str]) -> None:
    """The values of lists, of their items and of the lists in these, parents first."""
    for part in parts:
        if part.value:
            values.append(part.value)
        if part.has_parts:
            _gather_items(part.has_parts, values)


def sections_left_out(line: bytes) -> list[str]:
    """The names of sections, with the reason, whose text `read_record` leaves out of an article.

    Those of Structured Contents alone: plain text and HTML have no sections to name.
    """
    record = decode_record(line)
    dropped = names_to_drop(record)
    waiting = list(reversed(sections_of(record) or []))
    left_out = []
    while waiting:
        part = waiting.pop()
        if part.type == "section" and not (part.has_parts or part.value):
            left_out.append(f"{part.name}: empty")
        elif part.type == "section" and is_dropped_section(part, dropped):
            left_out.append(f"{part.name}: sources and links")
        else:
            waiting += reversed(part.has_parts or [])
    return left_out
