import doctest
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import utils.reports.markup
from tests.parsed_html import ParsedHtml
from utils.reports.markup import (
    STYLE_PATH,
    Html,
    bar_table,
    facts,
    folded,
    join,
    page,
    section,
    spelled_out,
    table,
    tag,
    tiles,
    visible,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></main><script>",
    "]]>",
    "<![CDATA[x]]>",
    "<!-- -->",
    "-->",
    "\" onload='x' x=\"",
    "&lt;b&gt; &amp; &#60;",
    "</style><b>",
    "</title>",
]


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(utils.reports.markup)
    assert results.attempted > 0
    assert results.failed == 0


@given(st.text())
def test_text_stays_text_between_tags_and_in_attributes(text: str) -> None:
    parsed = ParsedHtml(tag("p", text, title=text))
    assert parsed.tags == [("p", {"title": text})]
    assert parsed.text() == text


@given(st.text(), st.sampled_from(HOSTILE), st.text())
def test_hostile_text_opens_no_element_anywhere(before: str, hostile: str, after: str) -> None:
    text = before + hostile + after
    parts = [
        section(text, text, visible(text)),
        facts([(text, visible(text))]),
        table([text, text], [[text, visible(text)], [text, text]], last_is_total=True),
        bar_table([(text, 1, 0.5)]),
        folded(text, text),
        tiles({text: text}),
    ]
    harmless = [
        section("", "", visible(text)),
        facts([("", visible(text))]),
        table(["", ""], [["", visible(text)], ["", ""]], last_is_total=True),
        bar_table([("", 1, 0.5)]),
        folded("", ""),
        tiles({"": ""}),
    ]
    assert ParsedHtml(join(parts)).tags == ParsedHtml(join(harmless)).tags


def test_markup_is_not_escaped_twice() -> None:
    assert join([tag("b", "<"), "<"]) == "<b>&lt;</b>&lt;"
    assert isinstance(join(["a"]), Html)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_has_no_shape_is_spelled_out_and_all_else_is_as_it_was(text: str) -> None:
    shown = spelled_out(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Co", "Zl", "Zp"}
    if "\\" not in text:
        assert re.sub(r"\\.", _meant, re.sub(r"\\[xuU]([0-9a-f]+)", _code_point, shown)) == text
    assert ParsedHtml(tag("p", visible(text))).text() == shown


def _code_point(match: re.Match[str]) -> str:
    """Digits that follow a code belong to the text, so the code's length is known by its kind."""
    digits = {"x": 2, "u": 4, "U": 8}[match[0][1]]
    return chr(int(match[1][:digits], 16)) + match[1][digits:]


def _meant(match: re.Match[str]) -> str:
    return {"\\n": "\n", "\\t": "\t", "\\r": "\r"}[match[0]]


@pytest.mark.parametrize(
    ("character", "code"),
    [
        ("\n", r"\n"),
        ("\x00", r"\x00"),
        ("\x1b", r"\x1b"),
        ("\u2029", r"\u2029"),
        ("\u202e", r"\u202e"),  # turns the direction of the text around
        ("\u200b", r"\u200b"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_codes(character: str, code: str) -> None:
    assert spelled_out(f"a{character}b") == f"a{code}b"
    assert visible(character) == f'<span class="code">{code}</span>'


def test_a_page_is_one_file_that_loads_and_runs_nothing() -> None:
    text = page("<A & B>", tag("p", "text"))
    parsed = ParsedHtml(text)
    assert text.startswith("<!doctype html>\n")
    assert parsed.text("title") == "<A & B>"
    assert {name for name, _ in parsed.tags} == {
        *("html", "head", "meta", "title", "style", "body", "main", "p")
    }
    policies = [
        attributes["content"] for _, attributes in parsed.tags if "http-equiv" in attributes
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not re.search(r"url\(|@import|://", STYLE_PATH.read_text(encoding="utf-8"))


def test_bars_fill_the_width_of_the_longest() -> None:
    rows = [("a", 30, 0.3), ("b", 15, 0.15), ("c", 0, 0.0)]

    def widths(markup: Html) -> list[str]:
        return re.findall(r"width:([\d.]+)%", markup)

    assert widths(bar_table(rows)) == ["100.00", "50.00", "0.00"]
    assert widths(bar_table(rows, longest=0.6)) == ["50.00", "25.00", "0.00"]
    assert widths(bar_table([("none", 0, 0.0)])) == ["0.00"]
    assert widths(bar_table([])) == []


def test_the_total_of_a_table_is_its_foot() -> None:
    parsed = ParsedHtml(table(["name", "n"], [["a", "1"], ["all", "1"]], last_is_total=True))
    names = [name for name, _ in parsed.tags]
    assert names.count("tr") == 3
    assert names.index("tfoot") > names.index("tbody")
    assert parsed.text("td") == "a1all1"
