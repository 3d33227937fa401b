"""What says which page an article is, and the index of pages: nothing of it loses an article."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_text import write_cleaned
from utils.articles import pages_path_of, read_marker, write_marker
from utils.cleaning.duplicates.pages import ENTRY, NO_PAGE, PageIndex, page_of, read_pages
from utils.cleaning.records.wikipedia import Article, BadLine, read_record
from utils.errors import DataError

URL = "https://en.wikipedia.org/wiki/A_page"
TEXT = "A text about something, long enough to be an article."


def fields(page: bytes) -> dict[str, Any]:
    """A page as the index shows it to numpy."""
    (entry,) = np.frombuffer(page + bytes(8), ENTRY)
    return {name: entry[name].item() for name in ENTRY.names or ()}


def article(**values: object) -> Article:
    record = read_record(json.dumps({"title": "T", "text": TEXT, **values}).encode() + b"\n")
    assert isinstance(record, Article)
    return record


def test_records_of_all_sources_name_the_same_page() -> None:
    structured = article(
        name="T", identifier=12, url=URL, version={"identifier": 99, "comment": "c"}
    )
    extracted = article(id="12", revid="99", url="https://en.wikipedia.org/wiki?curid=12")
    hugging_face = article(id="12", url="http://EN.wikipedia.org/wiki/A%20page")
    assert structured.page == page_of(URL, 12, 99, None)
    same = [fields(record.page) for record in (structured, extracted, hugging_face)]
    assert len({(page["site"], page["identifier"]) for page in same}) == 1
    assert [page["revision"] for page in same] == [99, 99, 0]
    assert same[0]["address"] == same[2]["address"] != same[1]["address"]
    assert hugging_face.page == page_of(URL, "12", None, None) == page_of(URL, 12, 0, "")


def test_pages_differ_by_site_and_identifier() -> None:
    pages = [
        page_of(url, identifier, 1, None)
        for url in (URL, URL.replace("en.", "de."), URL.replace(".org", ".org:80"))
        for identifier in (0, 12, 13, "Q12", "012x", -12, 10**18, "1" * 400, "²", "é")
    ]
    same_host = {pages[i] == pages[i + 20] for i in range(10)}
    assert same_host == {True}, "a port is not of the host's name"
    assert len(set(pages)) == 20
    assert NO_PAGE not in pages


@pytest.mark.parametrize("end", ["", "/"])
def test_a_host_alone_is_no_address(end: str) -> None:
    page = fields(page_of(f"https://en.wikipedia.org{end}", 12, None, None))
    assert page["site"]
    assert page["address"] == 0


@pytest.mark.parametrize(
    ("url", "identifier"),
    [
        (None, 12),
        ("", 12),
        ("en.wikipedia.org/wiki/A", 12),
        ("https:///wiki/A", 12),
        ("https://[broken/wiki", 12),
        (URL, None),
        (URL, ""),
    ],
)
def test_without_host_or_identifier_there_is_no_page(
    url: str | None, identifier: int | str | None
) -> None:
    assert page_of(url, identifier, 5, "2024-01-01T00:00:00Z") == NO_PAGE


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T02:00:10+02:00", 10),
        ("1970-01-01T00:00:10.123456789Z", 10.123456),
        ("1970-01-01 00:00:10", 10),
        ("1970-01-02", 86_400),
        ("yesterday", 0),
        ("1970-13-40", 0),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200),
        ("", 0),
        (None, 0),
    ],
)
def test_a_date_tells_where_no_revision_does(date: str | None, seconds: float) -> None:
    for unknown in (None, 0, "", "abc", -1, 10**30):
        state = fields(page_of(URL, 12, unknown, date))
        assert (state["revision"], state["modified"]) == (0, pytest.approx(seconds))
    state = fields(page_of(URL, 12, 7, date))
    assert (state["revision"], state["modified"]) == (7, 0)


def outcome(line: bytes) -> tuple[str, str] | str:
    """Title and text of an article, or the kind of bad line."""
    try:
        record = read_record(line)
    except BadLine as error:
        return error.kind
    assert isinstance(record, Article)
    assert len(record.page) == len(NO_PAGE)
    return record.title, "\n".join(record.lines)


STRANGE = [
    *(b"null", b"true", b"1.5", b"-1", b"123456789012345678901234567890", b"[1, {}]"),
    *(b'{"identifier": "x"}', b'{"identifier": {"deep": []}}', b'"text"', b'""', b"{}"),
    *(rb'"\ud800"', b'"\xff"', b"9" * 5_000, b"1e999", b"[" * 900 + b"]" * 900),
]


@pytest.mark.parametrize("key", ["url", "identifier", "id", "version", "revid", "date_modified"])
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: ascii(value[:20]))
def test_no_strange_value_loses_an_article(key: str, value: bytes) -> None:
    """What is accepted, or refused, under a key that nobody reads is so under these."""
    known = {"url": URL, "identifier": 12, "version": {"identifier": 3}, "date_modified": "2024"}
    others = json.dumps({name: known[name] for name in known if name != key})[1:-1].encode()
    start = b'{"title": "T", "text": "%b", %b, ' % (TEXT.encode(), others)
    end = b'": %b}\n' % value
    expected, found = (outcome(start + b'"' + name + end) for name in (b"unread", key.encode()))
    assert found == expected
    assert expected == ("lone_surrogate" if b"ud800" in value else ("T", TEXT))


def test_what_is_wrong_with_a_record_is_told_as_without_pages() -> None:
    line = b'{"title": 1, "text": "x", "id": []}'
    with pytest.raises(BadLine, match=r"Expected `str \| null`, got `int` - at `\$\.title`"):
        read_record(line)


def save(tmp_path: Path, *articles: tuple[bytes, bytes]) -> Path:
    """A cleaned text with an index of these pages and lines."""
    path = write_cleaned(tmp_path, "a", ["x"])
    index = PageIndex()
    for page, line in articles:
        index.add(page, line)
    digest = index.save(path)
    write_marker(path, read_marker(path).model_copy(update={"pages_sha256": digest}))
    return path


def test_the_index_comes_back_as_it_was_written(tmp_path: Path) -> None:
    page = page_of(URL, 12, 99, None)
    path = save(tmp_path, (page, b"one\n"), (NO_PAGE, b"two\n"), (page, b"one\n"))
    entries = read_pages(path, read_marker(path))
    assert pages_path_of(path).stat().st_size == 3 * 48
    assert entries["identifier"].tolist() == [12, 0, 12]
    assert entries["revision"].tolist() == [99, 0, 99]
    assert entries["site"].astype(bool).tolist() == [True, False, True]
    assert len(set(entries["sample"].tolist())) == 2
    empty = save(tmp_path)
    assert read_pages(empty, read_marker(empty)).shape == (0,)


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, (page_of(URL, 12, 99, None), b"one\n"))
    index = pages_path_of(path)
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    message = r"cleaned_a\.pages: was changed or damaged \(wrong SHA-256\)\n  Run cleaner\.py again"
    with pytest.raises(DataError, match=message):
        read_pages(path, read_marker(path))
    index.unlink()
    with pytest.raises(DataError, match=r"cleaned_a\.pages: missing\n  Run cleaner\.py again"):
        read_pages(path, read_marker(path))
