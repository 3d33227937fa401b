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
from utils.cleaning.raw_files import BYTE_ORDER_MARK, MAX_LINE_BYTES
from utils.cleaning.text_rules import CODE, HEADING, without_marks

_LEAD_NAME = "abstract"
_NOT_TEXT = frozenset({"image", "gallery", "table", "infobox"})
_SHORTEST_PARAGRAPH = 300  # characters; what is shorter, at a plain text's end, may be a source
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


class _Html(msgspec.Struct, gc=False):
    """Enterprise HTML's text, which is not read."""


class _Record(msgspec.Struct, gc=False):
    name: str | None = None
    title: str | None = None
    text: str | None = None
    abstract: str | None = None
    description: str | None = None
    namespace: _Namespace | None = None
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
    if record.text is not None and not sections:
        lines = _plain_lines(title, record.text)
    else:
        lines = _structured_lines(record.abstract, sections)
    first = next((line for line in lines if line and not line.startswith(HEADING)), "")
    if not first:
        return Dropped("empty")
    reason = _not_an_article(title, record.description, first, len(lines))
    return Dropped(reason) if reason else Article(title, "\n".join(lines))


def _not_an_article(title: str, description: str | None, lead: str, lines: int) -> str | None:
    """Why a page is no article, judged by what stands in front, or None."""
    about = description.strip().lower() if description else ""
    lead = lead[: names.LEAD_CHARACTERS].strip()
    if names.REDIRECT.match(lead) and lines <= 3:
        return "redirect"
    if (
        about in names.DISAMBIGUATION_DESCRIPTIONS
        or names.DISAMBIGUATION_TITLE.search(title)
        or names.DISAMBIGUATION_LEAD.search(lead)
        or names.DISAMBIGUATION_LEAD_UNMARKED.search(lead)
    ):
        return "disambiguation"
    if about in names.SET_INDEX_DESCRIPTIONS or names.SET_INDEX_LEAD.search(lead):
        return "set_index"
    return None


def _plain_lines(title: str, text: str) -> list[str]:
    """Paragraphs of a text that divides them by blank lines, without its title and its sources."""
    lines = [line for line in without_marks(text).split("\n") if line and not line.isspace()]
    if lines and lines[0].strip() == title.strip():
        del lines[0]
    end = len(lines)
    for number in range(len(lines) - 1, -1, -1):
        if len(lines[number]) > _SHORTEST_PARAGRAPH:
            break
        if _plain_name(lines[number]) in names.DROPPED_SECTIONS:
            end = number
    return lines[:end]


def _structured_lines(abstract: str | None, sections: list[_Part]) -> list[str]:
    """The lead once (the section keeps more than `abstract`), then each section once."""
    lines: list[str] = []
    if sections and _plain_name(sections[0].name) in ("", _LEAD_NAME):
        _add_parts(sections[0].has_parts, 0, lines)
        sections = sections[1:]
    if not lines and abstract:
        lines += [without_marks(line).strip() for line in abstract.split("\n")]
    for section in _without_repeats(sections):
        _add_part(section, 1, lines)
    return lines


def _without_repeats(sections: list[_Part]) -> list[_Part]:
    """Some records hold all of their sections twice."""
    if len({section.name for section in sections}) == len(sections):
        return sections
    return [part for number, part in enumerate(sections) if part not in sections[:number]]


def _add_parts(parts: list[_Part] | None, depth: int, lines: list[str]) -> None:
    for part in parts or ():
        _add_part(part, depth, lines)


def _add_part(part: _Part, depth: int, lines: list[str]) -> None:
    if part.type in _NOT_TEXT:
        return
    if part.type == "section":
        if part.has_parts and not _is_dropped(part):
            if part.name:
                lines.append(HEADING * depth + " ".join(without_marks(part.name).split()))
            _add_parts(part.has_parts, depth + 1, lines)
    elif part.has_parts and part.type is not None and part.type.endswith("list"):
        values: list[str] = []
        _gather_items(part.has_parts, values)
        for value in _without_children(values):
            _add_value(value, lines)
    else:
        if part.value:
            _add_value(part.value, lines)
        _add_parts(part.has_parts, depth, lines)


def _add_value(value: str, lines: list[str]) -> None:
    """One or more lines; a text that indents some of its lines is code and keeps its layout."""
    value = without_marks(value)
    if "\n" in value and _CODE_BLOCK.search(value):
        value = CODE + value.replace("\n", f"\n{CODE}")
    lines.append(value)


def _is_dropped(section: _Part) -> bool:
    name = _plain_name(section.name)
    if name in names.DROPPED_SECTIONS:
        return True
    parts = section.has_parts or ()
    return name in names.DROPPED_LISTS and all((part.type or "").endswith("list") for part in parts)


def _plain_name(name: str | None) -> str:
    return (name or "").strip().rstrip(":").casefold()


def _gather_items(parts: list[_Part], values: list[str]) -> None:
    """The values of list items and of the lists in them, parents first."""
    for part in parts:
        if part.value:
            values.append(part.value)
        if part.has_parts:
            _gather_items(part.has_parts, values)


def _without_children(values: list[str]) -> list[str]:
    """List items, each without the text of the items nested in it, which follow it.

    The parser gives an item the text of everything inside it, then lists what is inside as items
    of their own: "A B C", "B C", "C" was A > B > C. An item is a parent if its text ends with the
    items after it, their own children skipped, joined by spaces.
    """
    own = list(values)
    after = [number + 1 for number in range(len(values))]  # where an item's descendants end
    for number in range(len(values) - 2, -1, -1):
        place = _children_begin(values, after, number)
        if place is not None:
            begin, end = place
            own[number] = values[number][:begin].rstrip()
            after[number] = end
    return [value for value in own if value]


def _children_begin(values: list[str], after: list[int], number: int) -> tuple[int, int] | None:
    """Where in an item's text its children begin, and the number of the item after them."""
    text, child = values[number], values[number + 1]
    begin = text.find(child)
    while begin >= 0:
        place, item = begin, number + 1
        while item < len(values) and text.startswith(values[item], place):
            place += len(values[item])
            item = after[item]
            if place == len(text):
                is_certain = item - number > 2 or len(child) >= _CERTAIN_CHARACTERS or begin == 0
                starts_word = begin == 0 or text[begin - 1].isspace()
                return (begin, item) if is_certain and starts_word else None
            place += text[place] == " "
        begin = text.find(child, begin + 1)
    return None


_CERTAIN_CHARACTERS = 20  # a lone child that is shorter may be chance: "Rock and roll", "roll"
