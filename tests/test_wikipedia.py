"""Records of every known shape to articles; what is no article or no record says why."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from utils.cleaning.inputs.raw_files import BYTE_ORDER_MARK
from utils.cleaning.records import wikipedia
from utils.cleaning.records.nested_items import without_children
from utils.cleaning.records.wikipedia import Article, BadLine, Dropped, read_record
from utils.cleaning.rules.text_rules import CODE, HEADING

Json = dict[str, Any]


def line(record: Any) -> bytes:
    return json.dumps(record).encode()


def paragraph(value: str) -> Json:
    return {"type": "paragraph", "value": value, "links": [{"url": "u", "text": "t"}]}


def items(*values: str) -> Json:
    return {"type": "list", "has_parts": [{"type": "list_item", "value": v} for v in values]}


def section(name: str, *parts: Json) -> Json:
    return {"type": "section", "name": name, "has_parts": list(parts)}


def page(*sections: Json, **fields: Any) -> Json:
    return {"name": "Page", "identifier": 1, "url": "u", "sections": list(sections), **fields}


def lines_of(record: Json) -> list[str]:
    article = read_record(line(record))
    assert isinstance(article, Article)
    return article.lines


SECTIONS = [
    section("Abstract", paragraph("Lead (kept)."), paragraph("More lead.")),
    section("History", paragraph("Long ago."), section("Later", items("one", "two"))),
]
LINES = [
    "Lead (kept).",
    "More lead.",
    f"{HEADING}History",
    "Long ago.",
    f"{HEADING * 2}Later",
    "one",
    "two",
]


@pytest.mark.parametrize(
    "fields",
    [
        {"sections": SECTIONS, "abstract": "Lead."},
        {"article_sections": SECTIONS, "infobox": [], "sections": []},
        {"sections": None, "article_sections": SECTIONS, "mainEntity": None, "abstract": None},
        {"sections": json.dumps(SECTIONS)},
        {"abstract": "Lead (kept).\nMore lead.", "sections": [section("Abstract"), *SECTIONS[1:]]},
        {"abstract": "Lead (kept).\nMore lead.", "sections": SECTIONS[1:]},
        {"sections": SECTIONS + SECTIONS[1:]},  # the parser repeats all sections
    ],
    ids=["2024", "api", "nulls", "json", "empty_abstract_section", "no_abstract_section", "twice"],
)
def test_structured_contents_of_both_generations(fields: Json) -> None:
    assert lines_of({**page(), **fields}) == LINES


def test_the_lead_alone_is_an_article() -> None:
    assert lines_of({"name": "A", "abstract": " Squirrels are small."}) == ["Squirrels are small."]


@pytest.mark.parametrize("title_key", ["title", "name"])
def test_plain_records(title_key: str) -> None:
    text = "Page\n\nFirst paragraph.\n\nSecond.\n \nSee also\n\nOther page\n\nReferences"
    record = {"id": "12", "url": "u", title_key: "Page", "text": text}
    assert lines_of(record) == ["First paragraph.", "Second."]


def test_a_word_like_notes_inside_a_plain_text_does_not_end_it() -> None:
    text = f"One.\n\nNotes\n\n{'A long paragraph. ' * 30}\n\nEnd."
    assert lines_of({"title": "T", "text": text})[1] == "Notes"
    assert lines_of({"title": "T", "text": text})[-1] == "End."


def test_a_dropped_heading_of_a_plain_text_drops_its_section_only() -> None:
    text = "Intro.|History|It began.|Notes|Perfume notes are layers.|Use|It is used.|Notes"
    text += "|Smith 1990, p. 4|See also|Other page|After|It ended.|References|Jones (2001)"
    assert lines_of({"title": "T", "text": text.replace("|", "\n\n")}) == [
        "Intro.",
        "History",
        "It began.",
        "Notes",
        "Perfume notes are layers.",
        "Use",
        "It is used.",
        "After",
        "It ended.",
    ]


@pytest.mark.parametrize(
    ("language", "kept"),
    [({"identifier": "en"}, True), (None, True), ({"identifier": "cs"}, False)],
)
def test_names_of_sections_are_those_of_the_language(language: Json | None, kept: bool) -> None:
    text = paragraph("A reference is a relation between objects.")
    record = page(section("", paragraph("Lead.")), section("Reference", text), in_language=language)
    assert (f"{HEADING}Reference" in lines_of(record)) is kept
    record["inLanguage"] = record.pop("in_language")
    assert (f"{HEADING}Reference" in lines_of(record)) is kept


def test_a_sentence_with_a_list_is_no_disambiguation_page() -> None:
    lead = "In logic, a term may mean: a name or a variable, which stand for an object."
    lines = [lead, *("A long paragraph. " * 20 for _ in range(20))]
    assert lines_of({"title": "Term", "text": "\n\n".join(lines)})[0] == lead
    lead = "The word may refer to:"
    assert lines_of({"title": "Term", "text": "\n\n".join([lead, *lines[1:]])})[0] == lead


def test_items_nested_in_a_list_are_not_repeated() -> None:
    nested = items(
        "30 in White",
        "28 in Black just below 30 in Black British 29 in Black African",
        "just below 30 in Black British",
        "29 in Black African",
        "order family A genus X genus Y family B",
        "family A genus X genus Y",
        "genus X",
        "genus Y",
        "family B",
        "Rock and roll",
        "roll",
    )
    assert lines_of(page(section("Abstract", paragraph("Lead."), nested)))[1:] == [
        "30 in White",
        "28 in Black",
        "just below 30 in Black British",
        "29 in Black African",
        "order",
        "family A",
        "genus X",
        "genus Y",
        "family B",
        "Rock and roll",
        "roll",
    ]


def test_a_hostile_list_is_read_at_once() -> None:
    """Comparing each place of the first with the second would take hours."""
    values = ["a" * 3_000_000, "a" * 1_500_000]
    assert without_children(values) == values


def test_long_lists_are_taken_apart() -> None:
    items_below = [f"item {number} of a list that has many" for number in range(2_000)]
    assert without_children([" ".join(["parent", *items_below]), *items_below])[0] == "parent"


def test_the_own_text_of_sections_and_lists_is_read() -> None:
    inner = {**items("one", "two"), "value": "A heading of a list: one two"}
    record = page(
        {**section("Abstract", paragraph("More.")), "value": "Lead."},
        {**section("Use", inner), "value": "Own."},
        {"type": "section", "name": "Alone", "value": "Only own."},
        {"type": "section", "name": "References", "value": "Smith"},
    )
    assert lines_of(record) == [
        *("Lead.", "More.", f"{HEADING}Use", "Own.", "A heading of a list:", "one", "two"),
        *(f"{HEADING}Alone", "Only own."),
    ]


def test_long_lines_are_not_kept_in_memory() -> None:
    tracemalloc.start()
    for number in range(20):
        read_record(line({"title": "T", "text": f"{number}" + "a" * 1_000_000}))
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 2_000_000


def test_lists_within_items_are_read() -> None:
    inner = items("inside one", "inside two")
    outer = {"type": "list_item", "value": "outside inside one inside two", "has_parts": [inner]}
    record = page(section("Abstract", {"type": "ordered_list", "has_parts": [outer]}))
    assert lines_of(record) == ["outside", "inside one", "inside two"]


POINTING_SECTIONS = """References|External links|SEE ALSO|Further reading:|Notes|Citations
Bibliography|Einzelnachweise|Voir aussi|Enlaces externos|Вижте също|脚注"""


@pytest.mark.parametrize("name", re.split("[|\n]", POINTING_SECTIONS))
def test_sections_that_point_elsewhere_are_dropped(name: str) -> None:
    dropped = section(name, paragraph("A"), section("Inner", items("B")))
    record = page(section("Abstract", paragraph("Lead.")), dropped, section("Use", items("C")))
    assert lines_of(record) == ["Lead.", f"{HEADING}Use", "C"]


def test_sources_are_dropped_only_where_they_are_a_list() -> None:
    lead = section("Abstract", paragraph("Lead."))
    assert lines_of(page(lead, section("Sources", items("Book")))) == ["Lead."]
    text = page(lead, section("Sources", paragraph("Vitamin C is in fruit.")))
    assert lines_of(text)[1:] == [f"{HEADING}Sources", "Vitamin C is in fruit."]


def test_code_is_known_by_its_indentation() -> None:
    code = "def f():\n    return 1"
    record = page(section("Abstract", paragraph("Two\nlines."), paragraph(code)))
    assert lines_of(record) == ["Two", "lines.", f"{CODE}def f():", f"{CODE}    return 1"]


def test_marks_in_the_source_mean_nothing() -> None:
    record = page(section("Abstract", paragraph(f"{HEADING}a{CODE}b")))
    assert lines_of(record) == ["ab"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (page(section("Abstract", items("REDIRECT List of characters#Ross"))), "redirect"),
        ({"title": "R", "text": "#redirect [[Other page]]"}, "redirect"),
        ({"title": "R", "text": "#Patrz [[Other page]]"}, "redirect"),
        ({"title": "R", "text": "#تحويل [[Other page]]"}, "redirect"),
        (page(abstract="WEITERLEITUNG Andere Seite"), "redirect"),
        (page(abstract="Squirrel steht für: A\nB"), "disambiguation"),
        (page(abstract="Parity may refer to:"), "disambiguation"),
        (page(abstract="It is a state. Bihar may also refer to :"), "disambiguation"),
        (page(abstract="Mercury can refer to"), "disambiguation"),
        (page(abstract="A thing.", name="Thing (disambiguation)"), "disambiguation"),
        (page(abstract="X.", description="Topics referred to by the same term"), "disambiguation"),
        (page(abstract="Rio Negro is the name of several rivers:"), "set_index"),
        (
            page(abstract="X.", description="Index of articles associated with the same name"),
            "set_index",
        ),
        (page(), "empty"),
        (page(section("Abstract", items("", ""))), "empty"),
        ({"name": "China", "identifier": 1, "url": "u", "in_language": {}}, "empty"),
        ({"title": "T", "text": "T\n\n"}, "empty"),
        (page(abstract="A.", name="Talk:A", namespace={"identifier": 1}), "other_namespace"),
    ],
)
def test_pages_that_are_no_articles_say_why(record: Json, reason: str) -> None:
    assert read_record(line(record)) == Dropped(reason)


@pytest.mark.parametrize(
    "text",
    [
        "Redirect examination, in law, is a trial process.",
        "The word may refer to many things in the theory of signs, as is said below.",
        "REDIRECTED was a film of 2014.",
        "#Selfie is a 2014 song by the Chainsmokers.",
        "TAM 110 T7 B/BV is a family of 4x4 military trucks made by TAM.",
        "PATRZ to a Polish reader means see.",
        "OHJAUS : a Finnish album",
        "تحويل فورييه عملية رياضية.",
    ],
)
def test_articles_that_look_like_others_are_kept(text: str) -> None:
    assert lines_of(page(abstract=text)) == [text]


DEEP = b'{"name": "a", "sections": ' + b'[{"has_parts": ' * 3_000 + b"null" + b"}]" * 3_000 + b"}"


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        (b"", "blank", "nothing in the line"),
        (b" \r\n", "blank", "nothing in the line"),
        (b'{"name": "a\xff"}', "invalid_utf8", "invalid start byte"),
        (b'{"name": "a", "abs\r\n', "truncated", "truncated"),
        (b'{"name": 1}', "wrong_type", r"Expected `str \| null`, got `int` - at `\$\.name`"),
        (b'{"name": "a", "sections": [null]}', "wrong_type", "got `null`"),
        (b'{"name": "a", "sections": "[1]"}', "wrong_type", "got `int`"),
        (b'["name"]', "wrong_type", "Expected `object`, got `array`"),
        (b'{"name": "a", "x": NaN}', "malformed", "invalid character"),
        (b'{"name": "a\x01"}', "malformed", "invalid character"),
        (b"\0\0\0\n", "nul_byte", "invalid character"),
        (BYTE_ORDER_MARK + b"{}", "byte_order_mark", "invalid character"),
        (rb'{"name": "\ud800"}', "lone_surrogate", "truncated"),
        (rb'{"name": "\udc00 x"}', "lone_surrogate", "surrogate"),
        (b'{"x": ' + b"[" * 3_000 + b"]" * 3_000 + b"}", "too_deep", "nested too deeply"),
        (DEEP, "too_deep", "nested too deeply"),
        (b'{"b": 1, "a": 2}', "unknown_shape", "neither Structured Contents .* keys: a, b"),
        (b"{}", "unknown_shape", "keys: none"),
        (b'{"abstract": "no title"}', "unknown_shape", "keys: abstract"),
        (
            b'{"name": "a", "identifier": 1, "url": "u", "article_body": {}}',
            "unknown_shape",
            "keys: article_body, identifier",
        ),
    ],
)
def test_lines_that_are_no_records_say_why(data: bytes, kind: str, detail: str) -> None:
    with pytest.raises(BadLine, match=detail) as raised:
        read_record(data)
    assert raised.value.kind == kind


def test_a_line_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia, "MAX_LINE_BYTES", 10)
    with pytest.raises(BadLine, match="longer than 10 bytes"):
        read_record(b'{"name": "long"}')


def read_all(path: Path) -> list[Article | Dropped]:
    with path.open("rb") as file:
        return [read_record(data) for data in file]


def test_real_records(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "structured_contents_real"
    paths = [path for path in folder.glob("*.jsonl") if path.stem != "api_2024_montreal"]
    pages = {path.stem: read_all(path) for path in paths}
    assert sum(map(len, pages.values())) == 94
    assert Dropped("redirect") in pages["beta_2024_two_lines"]
    assert Dropped("disambiguation") in pages["api_squirrel"]
    assert all(isinstance(page, Article) for page in pages["sdk_2025_elections"])
    by_title = {page.title: page for page in pages["wme_parser_pages"] if isinstance(page, Article)}
    assert all(isinstance(page, Article) for page in read_all(folder / "api_2024_montreal.jsonl"))
    toyota = by_title["Toyota"].lines
    assert toyota.count(f"{HEADING}Motorsports") == 1
    assert "28 in Black" in by_title["Body mass index"].lines
    assert f"{HEADING}References" not in by_title["Poetry"].lines


def test_real_plain_records(shared_dir: Path) -> None:
    pages = read_all(shared_dir / "data" / "other_formats" / "wikiextractor_json.jsonl")
    assert len(pages) == 35
    assert all(isinstance(page, Article) for page in pages)


HTML = {"html": "<p>Lead.</p><h2>See also</h2><p>B</p><h2>Use</h2><table class='wikitable'>"}
HTML["html"] += "<tr><th>A<th>B</tr><tr><td>1<td>2</tr></table>"
HTML_LINES = ["Lead.", f"{HEADING}Use", "| A | B |", "| --- | --- |", "| 1 | 2 |"]


@pytest.mark.parametrize(
    "fields",
    [
        {"abstract": "Lead.", "in_language": {"identifier": "en"}},
        {"sections": [], "categories": [{"name": "Category:Rodents", "url": "u"}, {}, None]},
        {"templates": None, "categories": ["Category:Rodents"]},
        {"templates": "Template:Taxobox"},
        {"templates": {"a": 1}, "categories": 3},
    ],
)
def test_enterprise_html(fields: Json) -> None:
    record = {"name": "Page", "identifier": 1, "url": "u", "article_body": HTML, **fields}
    assert lines_of(record) == HTML_LINES


def test_structured_contents_go_before_html() -> None:
    assert lines_of(page(*SECTIONS, article_body=HTML)) == LINES


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"article_body": {"html": ""}}, "empty"),
        ({"namespace": {"identifier": 10}}, "other_namespace"),
        ({"description": "Topics referred to by the same term"}, "disambiguation"),
        ({"templates": [{"name": "Vorlage:Begriffsklärung"}]}, "disambiguation"),
        ({"categories": [{"name": "Category:All set index articles"}]}, "set_index"),
        ({"article_body": {"html": "<ul><li>REDIRECT X</li></ul>"}}, "redirect"),
        (
            {"article_body": {"html": "<p>Rio may refer to:</p><ul><li>X</li></ul>"}},
            "disambiguation",
        ),
    ],
)
def test_enterprise_html_that_is_no_article_says_why(fields: Json, reason: str) -> None:
    assert read_record(line({"name": "Page", "article_body": HTML, **fields})) == Dropped(reason)


def test_real_enterprise_html(shared_dir: Path) -> None:
    german, english, russian = read_all(
        shared_dir / "data" / "other_formats" / "enterprise_html.ndjson"
    )
    assert german == Dropped("disambiguation")
    assert isinstance(english, Article)
    assert isinstance(russian, Article)
    assert english.lines[0].startswith("Squirrels are members of the family Sciuridae (/")
    assert f"{CODE}  function factorial(x)" in russian.lines
