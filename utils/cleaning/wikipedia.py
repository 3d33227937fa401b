"""One line of a raw dump -> title and blocks of text, or the reason why it is not an article.

Reads Wikimedia Enterprise's Structured Contents of both generations (`sections`, and the
`article_sections` of the 2024 API; sections also as a JSON string) and plain records of
{title or name, text} as wikiextractor and Hugging Face's wikimedia/wikipedia have them. Fields
that are not text, most of a record, are skipped without being built.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from utils.cleaning import wikipedia_names as names
from utils.cleaning.nested_items import without_children
from utils.cleaning.raw_files import BYTE_ORDER_MARK, MAX_LINE_BYTES
from utils.cleaning.sections import (
    LONGEST_ITEM,
    SectionNames,
    is_item,
    plain_name,
    section_names,
    without_sections,
)
from utils.cleaning.text_rules import CODE, HEADING, without_marks

_LEAD_NAME = "abstract"
_NOT_TEXT = frozenset({"image", "gallery", "table", "infobox"})
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_CODE_BLOCK = re.compile("\n(?:  |\t)")


class Article(NamedTuple):
    title: str
    text: str  # lead, headings, paragraphs, list items: a line each, marked as text_rules wants


class Dropped(NamedTuple):
    """A sound record that is not an article; `reason` is counted."""

    reason: str


class BadLine(Exception):
    """A line that is not a record; `kind` is counted, `detail` is for the person."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    name: str | None = None
    value: str | None = None
    has_parts: "list[_Part] | None" = None


class _Namespace(msgspec.Struct, gc=False):
    identifier: int | None = None


class _Language(msgspec.Struct, gc=False):
    identifier: str | None = None


class _Html(msgspec.Struct, gc=False):
    """Enterprise HTML's text, which is not read."""


class _Record(msgspec.Struct, gc=False):
    name: str | None = None
    title: str | None = None
    text: str | None = None
    abstract: str | None = None
    description: str | None = None
    namespace: _Namespace | None = None
    in_language: _Language | None = None
    inLanguage: _Language | None = None  # noqa: N815 - as the SDK writes it
    sections: list[_Part] | str | None = None
    article_sections: list[_Part] | str | None = None
    article_body: _Html | None = None


_RECORDS = msgspec.json.Decoder(_Record)
_PARTS = msgspec.json.Decoder(list[_Part] | None)
_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_record(line: bytes) -> Article | Dropped:
    """The article that a line of a dump holds. Raises BadLine if the line is not a record."""
    if len(line) > MAX_LINE_BYTES:
        raise BadLine("too_long", f"longer than {MAX_LINE_BYTES:,} bytes")
    line = line.strip()  # its end, within which a string that is cut off would seem malformed
    if not line:
        raise BadLine("blank", "nothing in the line")
    try:
        record = _RECORDS.decode(line)
        sections = _sections(record)
        if not sections and (record.article_body or record.text is record.abstract is None):
            return _without_content(record, line)
        return _article(record, sections or [], line)
    except msgspec.ValidationError as error:
        raise BadLine("wrong_type", str(error)) from None
    except msgspec.DecodeError as error:
        raise BadLine(_malformed_kind(line, str(error)), str(error)) from None
    except UnicodeDecodeError as error:
        raise BadLine("invalid_utf8", error.reason) from None
    except RecursionError:
        raise BadLine("too_deep", "nested too deeply") from None


def _malformed_kind(line: bytes, message: str) -> str:
    if line.startswith(BYTE_ORDER_MARK):
        return "byte_order_mark"
    if b"\0" in line:
        return "nul_byte"
    if _LONE_SURROGATE.search(line):
        return "lone_surrogate"
    return "truncated" if "truncated" in message else "malformed"


def _sections(record: _Record) -> list[_Part] | None:
    sections = record.sections or record.article_sections
    return _PARTS.decode(sections) if isinstance(sections, str) else sections


def _without_content(record: _Record, line: bytes) -> Dropped:
    """Structured Contents leaves empty fields out; anything else is a shape we do not know.

    Enterprise HTML is such a shape also where it has an abstract, which is only its beginning.
    """
    keys = _KEYS.decode(line)
    if record.name and {"identifier", "url"} <= keys.keys() and not record.article_body:
        return Dropped("empty")
    raise _unknown_shape(keys)


def _unknown_shape(keys: Iterable[str]) -> BadLine:
    shown = ", ".join(sorted(keys)[:30]) or "none"
    return BadLine(
        "unknown_shape", f"neither Structured Contents nor title and text; keys: {shown}"
    )


def _article(record: _Record, sections: list[_Part], line: bytes) -> Article | Dropped:
    title = record.name or record.title
    if not title:
        raise _unknown_shape(_KEYS.decode(line))
    if record.namespace is not None and record.namespace.identifier:
        return Dropped("other_namespace")
    language = record.in_language or record.inLanguage
    dropped = section_names(language.identifier if language else None)
    if record.text is not None and not sections:
        lines = _plain_lines(title, record.text, dropped)
    else:
        lines = _structured_lines(record.abstract, sections, dropped)
    reason = _not_an_article(title, record.description, lines)
    return Dropped(reason) if reason else Article(title, "\n".join(lines))


def _not_an_article(title: str, description: str | None, lines: list[str]) -> str | None:
    """Why a page is no article, judged by what stands in front, or None."""
    text = [line.strip() for line in lines if line and not line.startswith(HEADING)]
    if not text:
        return "empty"
    about = description.strip().lower() if description else ""
    lead = text[0]
    if names.REDIRECT.match(lead) and len(lines) <= 3:
        return "redirect"
    if about in names.DISAMBIGUATION_DESCRIPTIONS or names.DISAMBIGUATION_TITLE.search(title):
        return "disambiguation"
    if about in names.SET_INDEX_DESCRIPTIONS:
        return "set_index"
    if len(lead) > names.LEAD_CHARACTERS or not _is_list(text[1:]):
        return None
    if names.DISAMBIGUATION_LEAD_UNMARKED.search(lead):
        return "disambiguation"
    colon = names.DISAMBIGUATION_LEAD.search(lead)
    if colon and (colon.end() == len(lead) or is_item(lead)):  # else it is a sentence with a list
        return "disambiguation"
    return "set_index" if names.SET_INDEX_LEAD.search(lead) else None


def _is_list(lines: list[str]) -> bool:
    """Whether few of the lines are too long for a list's items."""
    return 5 * sum(len(line) > LONGEST_ITEM for line in lines) <= len(lines)


def _plain_lines(title: str, text: str, dropped: SectionNames) -> list[str]:
    """Paragraphs of a text that divides them by blank lines, without its title and its sources."""
    lines = [line for line in without_marks(text).split("\n") if line and not line.isspace()]
    if lines and lines[0].strip() == title.strip():
        del lines[0]
    return without_sections(lines, dropped)


def _structured_lines(
    abstract: str | None, sections: list[_Part], dropped: SectionNames
) -> list[str]:
    """The lead once (the section keeps more than `abstract`), then each section once."""
    lines: list[str] = []
    if sections and plain_name(sections[0].name) in ("", _LEAD_NAME):
        _add_parts(sections[0].has_parts, 0, lines, dropped)
        sections = sections[1:]
    if not lines and abstract:
        lines += [without_marks(line).strip() for line in abstract.split("\n")]
    for section in _without_repeats(sections):
        _add_part(section, 1, lines, dropped)
    return lines


def _without_repeats(sections: list[_Part]) -> list[_Part]:
    """Some records hold all of their sections twice."""
    if len({section.name for section in sections}) == len(sections):
        return sections
    return [part for number, part in enumerate(sections) if part not in sections[:number]]


def _add_parts(
    parts: list[_Part] | None, depth: int, lines: list[str], dropped: SectionNames
) -> None:
    for part in parts or ():
        _add_part(part, depth, lines, dropped)


def _add_part(part: _Part, depth: int, lines: list[str], dropped: SectionNames) -> None:
    if part.type in _NOT_TEXT:
        return
    if part.type == "section":
        if part.has_parts and not _is_dropped(part, dropped):
            if part.name:
                lines.append(HEADING * depth + " ".join(without_marks(part.name).split()))
            _add_parts(part.has_parts, depth + 1, lines, dropped)
    elif part.has_parts and part.type is not None and part.type.endswith("list"):
        values: list[str] = []
        _gather_items(part.has_parts, values)
        for value in without_children(values):
            _add_value(value, lines)
    else:
        if part.value:
            _add_value(part.value, lines)
        _add_parts(part.has_parts, depth, lines, dropped)


def _add_value(value: str, lines: list[str]) -> None:
    """One or more lines; a text that indents some of its lines is code and keeps its layout."""
    value = without_marks(value)
    if "\n" in value and _CODE_BLOCK.search(value):
        value = CODE + value.replace("\n", f"\n{CODE}")
    lines.append(value)


def _is_dropped(section: _Part, dropped: SectionNames) -> bool:
    name = plain_name(section.name)
    return name in dropped.pointing or (name in dropped.lists and _holds_only_items(section))


def _holds_only_items(part: _Part) -> bool:
    """Whether everything in a section is lists, and paragraphs that are as good as their items."""
    if (part.type or "").endswith("list"):
        return True
    is_text = part.value is not None and part.type not in _NOT_TEXT
    if is_text and not is_item(part.value or ""):
        return False
    return all(map(_holds_only_items, part.has_parts or ()))


def _gather_items(parts: list[_Part], values: list[str]) -> None:
    """The values of list items and of the lists in them, parents first."""
    for part in parts:
        if part.value:
            values.append(part.value)
        if part.has_parts:
            _gather_items(part.has_parts, values)
