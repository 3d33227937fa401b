"""Pages of Wikimedia's HTML to articles: what is dropped, what is kept, real pages as a whole."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from tests.html_lines import lines_of
from utils.cleaning.records.html_article import reason_to_drop
from utils.cleaning.rules.prose_words import word_set
from utils.cleaning.rules.text_rules import HEADING

DROPPED = """\
<sup class="mw-ref reference" typeof="mw:Extension/ref"><a><span>[1]</span></a></sup>
<sup class="noprint Inline-Template">[citation needed]</sup>
<div class="mw-references-wrap"><ol class="mw-references references"><li>Book</li></ol></div>
<ol class="references"><li>Book</li></ol>
<div class="reflist"><ol><li>Book</li></ol></div>
<div role="note" class="hatnote">For other uses, see Squirrel (disambiguation).</div>
<div class="dablink">For others</div>
<div class="rellink">Main article</div>
<table class="box-Stub plainlinks metadata ambox" role="presentation"><tr><td>Old</td></tr></table>
<div role="navigation" class="navbox"><ul><li>Other</li></ul></div>
<table class="vertical-navbox nowraplinks"><tr><th>Part of</th></tr></table>
<table class="sidebar"><tr><td>Series</td></tr></table>
<table class="infobox_v3 vcard"><tr><th>Born</th><td>1</td></tr></table>
<table class="wikitable infobox"><tr><th>A<th>1</th></tr><tr><td>a</td><td>b</td></tr></table>
<figure typeof="mw:File/Thumb"><a><img src="x"/></a><figcaption>Caption</figcaption></figure>
<span typeof="mw:File"><span class="mw-broken-media">File:X.jpg</span></span>
<ul class="gallery mw-gallery-traditional"><li class="gallerybox"><p>Caption</p></li></ul>
<div class="thumb"><div class="thumbcaption">Caption</div></div>
<div class="locmap">Map</div>
<span id="coordinates">Coordinates: 1°N</span>
<span class="geo-nondefault">1.0; 2.0</span>
<span class="unicode haudio"><a>Listen</a></span>
<div class="side-box sistersitebox">Wikimedia Commons</div>
<div class="portal">Portal</div>
<div id="toc">Contents</div>
<span class="mw-editsection">[edit]</span>
<div class="shortdescription noexcerpt" style="display:none">Family of rodents</div>
<span style="DISPLAY : none">hidden</span>
<span style="color:red; visibility: hidden">00</span>
<span title="ctx_ver=Z39" class="Z3988"></span>
<span class="noprint">print</span>
<div class="noexcerpt">box</div>
<style>.a{color:red}</style><script>x</script><link rel="mw:PageProp/Category"/><meta/>
<template><p>never shown</p></template>"""


@pytest.mark.parametrize("html", DROPPED.split("\n"))
def test_what_is_no_text_is_dropped(html: str) -> None:
    assert lines_of(f"<p>Text</p>{html}<p>More</p>") == ["Text", "More"]


def test_classes_of_the_body_drop_nothing() -> None:
    assert lines_of('<body class="mw-body-content noprint"><p>Text</p></body>') == ["Text"]


SECTIONS = (
    "<p>Lead.</p><h2>{}</h2><ul><li>A</li></ul><h3>Inner</h3><p>A sentence.</p>"
    "<h2>Use</h2><p>B.</p>"
)


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("en", "References"),
        ("en", "See also"),
        ("en", "EXTERNAL LINKS:"),
        ("en", "Further <i>reading</i>"),
        ("de", "Einzelnachweise"),
        ("ru", "Примечания"),
        ("fr", "Voir aussi"),
    ],
)
def test_sections_that_point_elsewhere_are_dropped(language: str, name: str) -> None:
    assert lines_of(SECTIONS.format(name), language) == ["Lead.", f"{HEADING}Use", "B."]


def test_other_sections_stay_with_their_names() -> None:
    assert len(lines_of(SECTIONS.format("Voir aussi"), "en")) == 7


@pytest.mark.parametrize("name", ["Bibliography", "Notes", "Citations", "Sources"])
def test_lists_of_sources_are_dropped_and_prose_about_them_is_not(name: str) -> None:
    html = f"<h2>{name}</h2><p>Smith (1990), p. 5</p><ul><li>{'Long. ' * 90}</li></ul>"
    assert lines_of(f"{html}<h2>Use</h2><p>B.</p>") == [f"{HEADING}Use", "B."]
    html += "<p>Perfume notes are layers.</p>"
    assert lines_of(html)[0] == f"{HEADING}{name}"
    assert lines_of(html)[-1] == "Perfume notes are layers."


@pytest.mark.parametrize(
    ("html", "labels", "reason"),
    [
        ('<link rel="mw:PageProp/redirect" href="./X"/>', [], "redirect"),
        ('<meta property="mw:PageProp/disambiguation"/>', [], "disambiguation"),
        ('<div id="disambigbox" class="dmbox dmbox-disambig">', [], "disambiguation"),
        ('<table id="setindexbox" class="metadata dmbox dmbox-setindex">', [], "set_index"),
        ("", ["Vorlage:EnS", "Vorlage:Begriffsklärung"], "disambiguation"),
        ("", ["Template:Disambiguation"], "disambiguation"),
        ("", ["Category:Disambiguation pages"], "disambiguation"),
        ("", ["Category:All_set_index_articles"], "set_index"),
        ("", ["Categoría:Wikipedia:Desambiguación"], "disambiguation"),
        ("", ["Template:Disambiguation needed", "Category:Mammals", ""], None),
        ("<p>A disambiguation page.</p>", [], None),
    ],
)
def test_pages_that_are_no_articles_say_why(
    html: str, labels: list[str], reason: str | None
) -> None:
    assert reason_to_drop(html, labels) == reason


class VisibleText(HTMLParser):
    """The text of a page outside dropped elements and sections, by Python's own parser."""

    VOID = word_set("area base br col hr img input link meta source track wbr")
    INLINE = word_set("a abbr b bdi big cite code dfn em i kbd s small span strong sub sup u")
    DROPPED = word_set(
        "style script figure mw-ref navbox reflist infobox hatnote noprint sistersitebox gallery"
        " shortdescription side-box portalbox ambox metadata mw-references-wrap"
    )

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self._dropped: list[bool] = []
        self.texts: list[str] = []
        self.feed(html.partition("<body")[2].partition(">")[2])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        marks = {tag, *(values.get("class") or "").split()}
        style = values.get("style") or ""
        drops = not self.DROPPED.isdisjoint(marks) or "display:none" in style
        if tag not in self.INLINE or "display:block" in style:
            self.texts.append("\n")
        if tag not in self.VOID:
            self._dropped.append(drops or (bool(self._dropped) and self._dropped[-1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self.texts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.INLINE:
            self.texts.append("\n")
        if self._dropped:
            self._dropped.pop()

    def handle_data(self, data: str) -> None:
        if not any(self._dropped[-1:]):
            self.texts.append(data)


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


def real_pages(shared_dir: Path) -> dict[str, str]:
    """HTML by language and title."""
    records = (shared_dir / "data" / "other_formats" / "enterprise_html.ndjson").read_bytes()
    pages = {}
    for line in records.splitlines():
        record = msgspec.json.decode(line)
        pages[record["in_language"]["identifier"]] = record["article_body"]["html"]
    return pages


# What the sections after the article's text begin with.
FIRST_DROPPED = {"en": "See also", "ru": "См. также"}


@pytest.mark.parametrize("language", ["en", "ru"])
def test_real_pages_keep_each_word_and_add_none(shared_dir: Path, language: str) -> None:
    html = real_pages(shared_dir)[language]
    text, heading, _ = "".join(VisibleText(html).texts).partition(f"\n{FIRST_DROPPED[language]}\n")
    assert heading
    assert sum(words(text).values()) > 400
    assert words("\n".join(lines_of(html, language))) == words(text)


def test_real_pages_begin_as_structured_contents_does(shared_dir: Path) -> None:
    """Which has the same revisions, and leaves parentheses out."""
    path = shared_dir / "data" / "structured_contents_real" / "api_squirrel.jsonl"
    pages = real_pages(shared_dir)
    for line in path.read_bytes().splitlines():
        record = msgspec.json.decode(line)
        language = record["in_language"]["identifier"]
        lead = " ".join(lines_of(pages[language], language)[:5])
        assert not words(record["abstract"]) - words(lead)


def test_a_real_page_of_a_dictionary_has_its_tables(shared_dir: Path) -> None:
    path = shared_dir / "data" / "structured_contents_real" / "api_2024_montreal.jsonl"
    record = msgspec.json.decode(path.read_bytes().splitlines()[0])
    lines = lines_of(record["article_body"]["html"])
    place = lines.index("Declension of Montreal")
    assert lines[place + 1 : place + 4] == [
        "| | singular |",
        "| --- | --- |",
        "| nominative | Montreal |",
    ]
    assert not [line for line in lines if "[edit]" in line or "mw-" in line]


def test_a_real_disambiguation_page(shared_dir: Path) -> None:
    pages = real_pages(shared_dir)
    assert {code: reason_to_drop(html, []) for code, html in pages.items()} == {
        "de": "disambiguation",
        "en": None,
        "ru": None,
    }
