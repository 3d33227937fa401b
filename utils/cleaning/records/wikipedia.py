"""One line of a raw dump -> title and blocks of text, or the reason why it is not an article.

Reads Wikimedia Enterprise's Structured Contents of both generations (`sections`, and the
`article_sections` of the 2024 API; sections also as a JSON string), its HTML (`article_body`), and
plain records of {title or name, text} as wikiextractor and Hugging Face's wikimedia/wikipedia have
them. Fields that are not text, most of a record, are skipped without being built.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from utils.cleaning.duplicates.pages import NO_PAGE, page_of
from utils.cleaning.inputs.raw_files import BYTE_ORDER_MARK, MAX_LINE_BYTES
from utils.cleaning.records.html_article import article_lines, reason_to_drop
from utils.cleaning.records.page_kinds import reason_not_article
from utils.cleaning.records.record_fields import (
    KEYS,
    PageRecord,
    Part,
    Record,
    Version,
    decode_record,
    html_of,
    labels_of,
    names_to_drop,
    sections_of,
)
from utils.cleaning.records.sections import SectionNames, without_sections
from utils.cleaning.records.structured import structured_lines
from utils.cleaning.rules.text_rules import without_marks

_PAGE_KEYS = frozenset({"identifier", "url"})
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


class Article(NamedTuple):
    title: str
    lines: list[str]  # lead, headings, paragraphs, list items, marked as text_rules.py wants
    page: bytes = NO_PAGE  # which page it is, as pages.py wants it
    is_parsed: bool = True  # from Structured Contents, with the faults of its parser


class Dropped(NamedTuple):
    """A sound record that is not an article; `reason` is counted."""

    reason: str


class BadLine(Exception):
    """A line that is not a record; `kind` is counted, `detail` is for the person."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def read_record(line: bytes) -> Article | Dropped:
    """The article that a line of a dump holds. Raises BadLine if the line is not a record."""
    if len(line) > MAX_LINE_BYTES:
        raise BadLine("too_long", f"longer than {MAX_LINE_BYTES:,} bytes")
    if line.isspace() or not line:
        raise BadLine("blank", "nothing in the line")
    try:
        record = decode_record(line)
        sections = sections_of(record)
        if (
            not sections
            and html_of(record) is None
            and (record.article_body or (record.text is None and record.abstract is None))
        ):
            return _without_content(record, line)
        return _article(record, sections or [], line)
    except msgspec.ValidationError as error:
        raise BadLine("wrong_type", str(error)) from None
    except msgspec.DecodeError as error:
        raise _malformed(line, error) from None
    except UnicodeDecodeError as error:
        raise BadLine("invalid_utf8", error.reason) from None
    except RecursionError:
        raise BadLine("too_deep", "nested too deeply") from None


def _malformed(line: bytes, error: msgspec.DecodeError) -> BadLine:
    if line.startswith(BYTE_ORDER_MARK):
        return BadLine("byte_order_mark", str(error))
    if b"\0" in line:
        return BadLine("nul_byte", str(error))
    if _LONE_SURROGATE.search(line):
        return BadLine("lone_surrogate", str(error))
    try:  # in a string that is cut off, the line's end seems malformed
        decode_record(line.rstrip())
    except msgspec.DecodeError as shorter:
        error = shorter
    return BadLine("truncated" if "truncated" in str(error) else "malformed", str(error))


def _without_content(record: Record, line: bytes) -> Dropped:
    """Structured Contents leaves empty fields out; anything else is a shape we do not know.

    Enterprise HTML without its HTML is such a shape also where it has an abstract, which is only
    its beginning.
    """
    keys = KEYS.decode(line)
    if record.name and keys.keys() >= _PAGE_KEYS and not record.article_body:
        return Dropped("empty")
    raise _unknown_shape(keys)


def _unknown_shape(keys: Iterable[str]) -> BadLine:
    shown = ", ".join(sorted(keys)[:30]) or "none"
    return BadLine(
        "unknown_shape", f"neither Structured Contents nor title and text; keys: {shown}"
    )


def _article(record: Record, sections: list[Part], line: bytes) -> Article | Dropped:
    title = record.name or record.title
    if not title:
        raise _unknown_shape(KEYS.decode(line))
    if record.namespace is not None and record.namespace.identifier:
        return Dropped("other_namespace")
    dropped = names_to_drop(record)
    is_parsed = False
    if record.text is not None and not sections:
        lines = plain_lines(title, record.text, dropped)
    elif not sections and (html := html_of(record)) is not None:
        if reason := reason_to_drop(html, labels_of(record)):
            return Dropped(reason)
        lines = article_lines(html, dropped)
    else:
        lines = structured_lines(record.abstract, sections, dropped)
        is_parsed = True
    reason = reason_not_article(title, record.description, lines)
    return Dropped(reason) if reason else Article(title, lines, _page(record), is_parsed)


def _page(record: Record) -> bytes:
    if not isinstance(record, PageRecord):
        return NO_PAGE
    version = record.version
    return page_of(
        record.url,
        record.id if record.identifier is None else record.identifier,
        version.identifier if isinstance(version, Version) else record.revid,
        record.date_modified,
    )


def plain_lines(title: str, text: str, dropped: SectionNames) -> list[str]:
    """Paragraphs of a text that divides them by blank lines, without its title and its sources."""
    lines = [line for line in without_marks(text).split("\n") if line and not line.isspace()]
    if lines and lines[0].strip() == title.strip():
        del lines[0]
    return without_sections(lines, dropped)
