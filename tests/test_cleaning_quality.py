"""What cleaning leaves of real pages: no artefacts, and every word that a reader would want."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from utils.cleaning.records import wikipedia_names as names
from utils.cleaning.records.wikipedia import Article, BadLine, read_record
from utils.cleaning.rules.text_cleaner import CleanText, clean_all

PAGES = "data/structured_contents_real/wme_parser_pages.jsonl"
# Most that may be left of each in the English pages.
ARTEFACTS = {
    "space before 's": (r"\w ['’]s\b", 0),
    # but for abbreviations, whose letters and names follow without a space by custom
    "glued sentences": (r"(?<![A-Z]\.)(?<!Rom)(?<=[a-z0-9])[.?!](?=[A-Z])(?!NET\b)", 3),
    "(listen)": (r"\(listen\)", 0),
    "Coordinates:": (r"Coordinates:", 0),
    "LaTeX behind plain characters": (r"\{\\displaystyle", 0),
    "arrows of footnotes": ("↑", 0),
    "templates": (r"\{\{", 0),
    "empty parentheses": (r"\( ?\)", 0),
    "separators after a parenthesis": (r"\( ?[;,]", 0),
    "emptied pronunciations": (r"(?:pronunciation|IPA|AFI): ?[;,)]|\(pronounced ?[;,)]", 0),
    "a hyphen apart": (r"[A-Z]\w+ -[a-z]{3,}", 1),  # "find -type" is an option
    "spaced pronunciations": (r"/ [ˈˌ]|/ ?(?:[a-zˈˌəɪʊɔɛæɑ] ){3}", 0),
    "doubled spaces": ("  ", 0),
    "spaces before punctuation": (r"\w [,.](?= |$)", 0),
    "headings of sources": (
        r"^(?:References|External links|See also|Further reading|Notes|Citations|Bibliography)$",
        0,
    ),
}
# What a page may lose: labels of pronunciations and recordings, "German:" among them. The letters
# of pronunciations, which are joined, are not compared.
LOST_WORDS = {"listen", "pronunciation", "pronounced", "IPA"}
LABEL = re.compile(r"\b([A-Z]\w+)(?: pronunciation)?:")
SPOKEN = re.compile(r"/[^/\n]*[ˈˌəɪʊɔɛæɑɒʌʃθː][^/\n]*/")
WORD = re.compile(r"[^\W_]+")


class Page(NamedTuple):
    record: dict[str, Any]
    cleaned: CleanText


@cache
def english_pages(path: Path) -> list[Page]:
    pages = []
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        if record.get("in_language", {}).get("identifier", "en") != "en":
            continue
        try:
            article = read_record(line)
        except BadLine as error:
            raise AssertionError(error.detail) from error
        if isinstance(article, Article):
            pages.append(Page(record, clean_all([(article.title, article.lines)])[0]))
    return pages


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_artefacts_left_in_real_english_pages(shared_dir: Path, artefact: str) -> None:
    pattern, most = ARTEFACTS[artefact]
    found = [
        (page.cleaned.title, page.cleaned.body[max(match.start() - 30, 0) : match.end() + 30])
        for page in english_pages(shared_dir / PAGES)
        for match in re.finditer(pattern, page.cleaned.body, re.MULTILINE)
    ]
    assert len(found) <= most, found


def sections_of(parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        if part.get("type") == "section":
            yield part
        yield from sections_of(part.get("has_parts") or [])


def values_of(parts: list[dict[str, Any]], headings: set[str]) -> Iterator[str]:
    """Every text of a record, by a walk of our own, but of sections that name sources.

    One that may be text or a list of sources is read if it has its heading in the cleaned text.
    """
    for part in parts:
        name = (part.get("name") or "").strip()
        is_source = name.casefold() in names.POINTING_SECTIONS["en"] or (
            name.casefold() in names.LIST_SECTIONS and name not in headings
        )
        if part.get("type") in ("image", "table") or (part.get("type") == "section" and is_source):
            continue
        if part.get("type") == "section" and name in headings:
            yield name
        yield part.get("value") or ""
        yield from values_of(part.get("has_parts") or [], headings)


def source_of(page: Page) -> str:
    sections = page.record.get("sections") or []
    names_of_sections = {(section.get("name") or "").strip() for section in sections_of(sections)}
    values = list(values_of(sections, names_of_sections & set(page.cleaned.lines)))
    if (sections[0].get("name") or "").strip() not in ("", "Abstract"):
        values.insert(0, page.record.get("abstract") or "")
    lines = "\n".join(values).split("\n")
    text = "\n".join(line for line in lines if not line.strip().startswith(("↑", "Coordinates:")))
    return re.sub(r"\{\\displaystyle[^\n]*?\}(?= |$)", "", text, flags=re.MULTILINE)


def is_repeated(page: Page) -> bool:
    """Whether the source says anything twice: whole sections, or items below their parent."""
    sections = page.record.get("sections") or []
    if len({json.dumps(section) for section in sections}) < len(sections):
        return True
    return any(
        below and below != item and f" {below}" in item
        for values in values_of_lists(sections)
        for item, below in pairwise(values)
    )


def values_of_lists(parts: list[dict[str, Any]]) -> Iterator[list[str]]:
    for part in parts:
        inside = part.get("has_parts") or []
        if (part.get("type") or "").endswith("list"):
            yield [item.get("value") or "" for item in inside]
        else:
            yield from values_of_lists(inside)


def words_of(text: str) -> Counter[str]:
    return Counter(WORD.findall(SPOKEN.sub("", text)))


def test_no_word_that_a_reader_would_want_is_lost(shared_dir: Path) -> None:
    pages = english_pages(shared_dir / PAGES)
    assert len(pages) == 60
    for page in pages:
        gone = words_of(source_of(page)).keys() - words_of(
            f"{page.cleaned.title}\n{page.cleaned.body}"
        )
        assert not gone - LOST_WORDS - set(LABEL.findall(source_of(page))), page.cleaned.title


def test_every_word_is_there_as_often_as_in_the_source(shared_dir: Path) -> None:
    pages = [page for page in english_pages(shared_dir / PAGES) if not is_repeated(page)]
    assert len(pages) >= 40
    words = 0
    for page in pages:
        source, kept = words_of(source_of(page)), words_of(page.cleaned.body)
        words += source.total()
        lost = source - kept - Counter(LABEL.findall(source_of(page)))
        assert not lost.keys() - LOST_WORDS, (page.cleaned.title, lost)
        assert not kept - source, page.cleaned.title
    assert words > 200_000
