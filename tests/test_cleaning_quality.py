"""What cleaning leaves of real pages: no artefacts, and every word that a reader would want."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
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
# What a page may lose: labels of pronunciations and recordings, and the letters of the former,
# which are joined.
LOST_WORDS = {"listen", "pronunciation", "pronounced", "IPA"}
PHONETIC = re.compile(r"[a-zæðŋœɑ-ʒʃθˈˌː]{1,3}")
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


def values_of(parts: list[dict[str, Any]]) -> Iterator[str]:
    """Every text of a record but of sections that name sources, by a walk of our own."""
    for part in parts:
        name = (part.get("name") or "").strip().casefold()
        is_source = name in names.POINTING_SECTIONS["en"] or name in names.LIST_SECTIONS
        if part.get("type") in ("image", "table") or (part.get("type") == "section" and is_source):
            continue
        yield part.get("value") or ""
        yield from values_of(part.get("has_parts") or [])


def words_of_source(record: dict[str, Any]) -> Counter[str]:
    lines = "\n".join(values_of(record.get("sections") or [])).split("\n")
    texts = [line for line in lines if not line.strip().startswith(("↑", "Coordinates:"))]
    return Counter(WORD.findall(re.sub(r"\{\\displaystyle[^\n]*?\}(?= |$)", "", "\n".join(texts))))


def test_no_word_that_a_reader_would_want_is_lost(shared_dir: Path) -> None:
    pages = english_pages(shared_dir / PAGES)
    assert len(pages) == 60
    in_source = in_text = 0
    for page in pages:
        source = words_of_source(page.record)
        kept = Counter(WORD.findall(f"{page.cleaned.title}\n{page.cleaned.body}"))
        gone = {word for word in source if word not in kept} - LOST_WORDS
        assert not [word for word in gone if not PHONETIC.fullmatch(word)], page.cleaned.title
        in_source += source.total()
        in_text += (source & kept).total()
    assert in_source > 300_000
    # The rest are list items that the parser repeats after their parent, and whole sections (in
    # Toyota all of them) that the source holds twice.
    assert in_text > 0.95 * in_source
