"""The fields of a record that are read, in all shapes that we know; the others are not built."""

import msgspec

from utils.cleaning.records.sections import SectionNames, section_names


class Part(msgspec.Struct, gc=False):
    type: str | None = None
    name: str | None = None
    value: str | None = None
    has_parts: "list[Part] | None" = None


class _Namespace(msgspec.Struct, gc=False):
    identifier: int | None = None


class _Language(msgspec.Struct, gc=False):
    identifier: str | None = None


class _Html(msgspec.Struct, gc=False):
    """Enterprise HTML's text."""

    html: str | None = None


class _Label(msgspec.Struct, gc=False):
    """A template or category of Enterprise HTML."""

    name: str | None = None


class Record(msgspec.Struct, gc=False):
    name: str | None = None
    title: str | None = None
    text: str | None = None
    abstract: str | None = None
    description: str | None = None
    namespace: _Namespace | None = None
    in_language: _Language | None = None
    inLanguage: _Language | None = None  # noqa: N815 - as the SDK writes it
    sections: list[Part] | str | None = None
    article_sections: list[Part] | str | None = None
    article_body: _Html | None = None


class Version(msgspec.Struct, gc=False):
    identifier: int | str | None = None


class PageRecord(Record, gc=False):
    """A record with what identifies its page: as Wikimedia, or as wikiextractor writes it."""

    url: str | None = None
    identifier: int | str | None = None
    id: int | str | None = None
    version: Version | str | None = None
    revid: int | str | None = None
    date_modified: str | None = None
    templates: "list[_Label | str | None] | str | None" = None
    categories: "list[_Label | str | None] | str | None" = None


RECORD_KEYS = frozenset(PageRecord.__struct_encode_fields__)  # all that is read of a record
_PAGE_RECORDS = msgspec.json.Decoder(PageRecord)
_RECORDS = msgspec.json.Decoder(Record)
_PARTS = msgspec.json.Decoder(list[Part] | None)
KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_record(line: bytes) -> Record:
    """The record; without its page where that is written in a way that we do not know."""
    try:
        return _PAGE_RECORDS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _RECORDS.decode(line)


def sections_of(record: Record) -> list[Part] | None:
    sections = record.sections or record.article_sections
    return _PARTS.decode(sections) if isinstance(sections, str) else sections


def html_of(record: Record) -> str | None:
    return record.article_body.html if record.article_body else None


def labels_of(record: Record) -> list[str]:
    """The names of a page's templates and categories, as far as they are known."""
    if not isinstance(record, PageRecord):
        return []
    found = [label for labels in (record.templates, record.categories) for label in labels or ()]
    return [label.name for label in found if isinstance(label, _Label) and label.name]


def names_to_drop(record: Record) -> SectionNames:
    language = record.in_language or record.inLanguage
    return section_names(language.identifier if language else None)
