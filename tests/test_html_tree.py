"""Broken and hostile pages: every word is read, at a cost that grows with the page alone."""

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from tests.html_lines import lines_of
from utils.cleaning.records.html_tree import body_of
from utils.cleaning.rules.prose_words import word_set
from utils.cleaning.rules.text_rules import CODE, HEADING


@pytest.mark.parametrize(
    "html", ["", "\0\0", "<", "<!-- x", "<body", "<frameset>", "</p>", "<table>", "<p", "<a b='"]
)
def test_empty_and_broken_pages(html: str) -> None:
    assert lines_of(html) in ([], ["<"])


NESTED = ["div", "span", "b", "p", "li", "td", "table", "h2", "pre", "sup", "math", "ul><li", "q"]


@pytest.mark.parametrize("ends", [0, 1])
@pytest.mark.parametrize("name", NESTED)
def test_deep_nesting_keeps_every_word(name: str, ends: int) -> None:
    html = "".join(f"<{name}>w{number} " for number in range(3_000)) + f"</{name}>" * ends * 3_000
    found = re.findall(r"w[0-9]+", " ".join(lines_of(html)))
    assert Counter(found) == Counter(f"w{number}" for number in range(3_000))


def size_and_depth(html: str) -> tuple[int, int]:
    """How many nodes the tree of a page has, and how deep it is."""
    body = body_of(html)
    assert body is not None
    nodes = depth = 0
    level = [body]
    while level:
        nodes += len(level)
        level = [child for node in level for child in node.iter(include_text=True)]
        depth += 1
    return nodes, depth


def unclosed(count: int) -> str:
    return "<p>" + "".join(f"<b id='{n}'>" for n in range(count)) + "</p>" + "<p>x</p>" * count


@pytest.mark.parametrize(
    "make",
    [
        unclosed,
        lambda count: "<ul><li>x" * count,
        lambda count: "<div>" * count + "x" + "</div>" * count,
        lambda count: "<div><!--</div>-->x" * count,
        lambda count: "<div class='a'><p>x" * count,
    ],
)
def test_trees_grow_no_faster_than_pages(make: Callable[[int], str]) -> None:
    """Twice the page is at most about twice the tree, and no deeper."""
    nodes, depth = size_and_depth(make(2_000))
    twice, still = size_and_depth(make(4_000))
    assert twice < 2.2 * nodes
    assert still <= max(depth, 260)


def test_the_parser_alone_would_not_do_that() -> None:
    nodes, twice = (len(LexborHTMLParser(unclosed(count)).css("*")) for count in (100, 200))
    assert twice > 3.5 * nodes


def test_a_tag_keeps_few_of_thousands_of_attributes() -> None:
    attributes = " ".join(f"a{number}=1" for number in range(10_000))
    body = body_of(f"<p {attributes} class='x'>text</p>")
    assert body is not None
    assert [node.attributes for node in body.css("p")] == [{"class": "x"}]


def test_pages_that_are_well_nested_are_parsed_as_they_are() -> None:
    math = '<math><mspace width="1em" /><mi>x</mi></math>'
    html = f"<p data-mw='{{\"a>b\"}}'>a<br/>b<img src='x'/>{math}<!-- <b> --></p>" * 200
    body = body_of(html)
    assert body is not None
    assert len(body.css("p[data-mw]")) == 200


TAGS = st.sampled_from(
    sorted(
        word_set(
            "p div b i a sup sub ul li dl dt dd table tr td th caption h2 h3 pre br span math img q"
            " section annotation svg style select template"
        )
    )
)
ATTRIBUTES = st.sampled_from(
    [""] * 4
    + [' class="wikitable"', ' colspan="3"', ' rowspan="9"', ' style="display:none"', " alt='x'"]
    + [' class="mwe-math-element"', ' class="texhtml"', ' class="ext-phonos"', " alttext='{x'"]
    + [' class="template-chem2-su"', ' encoding="application/x-tex"', ' style="display:block"']
)
PIECES = st.one_of(
    st.builds("<{}{}>".format, TAGS, ATTRIBUTES),
    st.builds("</{}>".format, TAGS),
    st.text("ab1 \n<>&\"'\x02\x03\x0e\x1e\x1f\u2028|$", max_size=4),
    st.just("<!--"),
)


@given(st.lists(PIECES, max_size=40), st.sampled_from([1, 30]))
def test_any_soup_of_tags_gives_lines(pieces: list[str], times: int) -> None:
    for line in lines_of("".join(pieces) * times):
        body = line.lstrip(HEADING).removeprefix(CODE)
        assert not re.search(r"[\n\x02\x03\x0e-\x11\x1e\x1f]", body)
        assert line.startswith(CODE) or body == " ".join(body.split())
