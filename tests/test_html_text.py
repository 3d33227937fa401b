"""Pages to lines as browsers show them: white space, blocks, items, code, raised characters."""

import pytest

from tests.html_lines import line_of, lines_of
from utils.cleaning.rules.text_cleaner import clean
from utils.cleaning.rules.text_rules import CODE, HEADING


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        ("<p>One\ntwo\t three</p>\n\n<p> Four </p>", ["One two three", "Four"]),
        ('<p>"<i>a</i><b>b</b>" <a href="x">c</a>, d.</p>', ['"ab" c, d.']),
        ("<p>one<br/>two</p>three<div>four</div>five", ["one", "two", "three", "four", "five"]),
        ("<p>a <!-- hidden <b> --> b</p>", ["a b"]),
        ("<p>5&nbsp;km, 2&lt;3 &amp; co</p>", ["5 km, 2<3 & co"]),
        ("<p>He <q>said</q> so.</p>", ['He "said" so.']),
        ("<p><ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby></p>", ["漢(kan)"]),
        (
            '<p>formula <span style="display:inline-block"><span style="display:block">1.0</span>'
            '<span style="display: block; border-top:1px solid">1.3</span></span>.</p>',
            ["formula 1.0/1.3."],
        ),
        ("<blockquote><p>Quoted.</p></blockquote><hr/>After", ["Quoted.", "After"]),
        ('<div class="poem"><p>first<br/>\nsecond</p></div>', ["first", "second"]),
        ("<p>a\x02b&#3;c&#x1e;d\x0ee</p>", ["abcde"]),
    ],
)
def test_text_is_joined_as_browsers_show_it(html: str, lines: list[str]) -> None:
    assert lines_of(html) == lines


def test_raised_characters_begin_a_line_as_they_are() -> None:
    assert lines_of("<p>end</p><p><sup>14</sup>C<br/><sup>2</sup></p>") == ["end", "14C", "2"]


def test_headings_have_their_depth() -> None:
    html = "<p>Lead</p><section><h2>A <i>b</i><br/>c</h2><p>x</p><h3>D</h3><p>y</p></section>"
    html += '<div class="mw-heading"><h4>E</h4><span class="mw-editsection">[edit]</span></div>z'
    heads = [f"{HEADING}A b c", f"{HEADING * 2}D", f"{HEADING * 3}E"]
    assert lines_of(html) == ["Lead", heads[0], "x", heads[1], "y", heads[2], "z"]


def test_items_are_lines_in_reading_order() -> None:
    html = "<ul><li>a<ol><li>b<ul><li>c</li></ul></li></ol> tail</li><li><p>d</p></li></ul>"
    html += "<dl><dt>Term</dt><dd>Meaning<dl><dd>more</dd></dl></dd></dl>"
    assert lines_of(html) == ["a", "b", "c", "tail", "d", "Term", "Meaning", "more"]


def test_code_keeps_its_layout() -> None:
    html = (
        '<p>Say <code>a  b</code>:</p><div class="mw-highlight"><pre><span></span>'
        '<span class="k">def</span> f():\n    <span>return</span> 1 &lt; 2\n\nf()\n</pre></div>'
    )
    code = ["def f():", "    return 1 < 2", "", "f()"]
    assert lines_of(html) == ["Say a b:", *(CODE + line for line in code)]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("H<sub>2</sub>O and CO<sub>2</sub>", "H2O and CO2"),
        ("10<sup>5</sup>, 10<sup>−5</sup>, km<sup>2</sup>", "10^5, 10^−5, km^2"),
        ("the 1<sup>st</sup>, the XIX<sup>e</sup>, n<sup>o</sup>", "the 1st, the XIXe, no"),
        ("<sup>14</sup>C and Ca<sup>2+</sup>", "14C and Ca2+"),
        ("SO<sub>4</sub><sup>2−</sup>", "SO4^2−"),
        (
            'SO<span class="template-chem2-su"><span>2−</span><span>4</span></span>',
            "SO4^2−",
        ),
        ("2<sup><i>n</i></sup> or 2<sup><i>n</i>+1</sup>", "2^n or 2^(n+1)"),
        ("2<sup>n</sup>, 2<sup>n+1</sup>", "2^n, 2^(n+1)"),
        ("10<sup>−x</sup>, 10<sup>(n)</sup>", "10^−x, 10^(n)"),
        ("1<sup>er</sup>, 2<sup>ND</sup>, 3<sup>o</sup>, 4<sup>°</sup>", "1er, 2ND, 3o, 4°"),
        ("x<sup>y<sup>2</sup></sup>", "x^(y^2)"),
        ('<span class="texhtml"><i>x</i><sub>1</sub><sup>2</sup></span>', "x_1^2"),
        ('<i lang="zh-Latn">t\'ai<sup>4</sup></i>', "t'ai4"),
        ("a<sup></sup><sub> </sub>b", "a b"),
        ("3<sup>1</sup>⁄<sub>2</sub> or <sup>1</sup>⁄<sub>2</sub>", "3 1⁄2 or 1⁄2"),
        ('<span class="texhtml"><i>H<sub>ij</sub></i></span>', "H_ij"),
        ("the end <sup>small text <b>about</b> it</sup>", "the end small text about it"),
    ],
)
def test_raised_and_lowered_characters(html: str, text: str) -> None:
    assert line_of(f"<p>{html}</p>") == text


PRONUNCIATION = (
    '<p><b>Paris</b> (<span class="IPA nopopups noexcerpt" lang="fr">[paʁi]</span> '
    '<span class="ext-phonos"><span class="noexcerpt ext-phonos-PhonosButton"><a>ⓘ</a></span>'
    '<sup class="ext-phonos-attribution noexcerpt"><a>file</a></sup></span>'
    ', <span class="ext-phonos"><span class="ext-phonos-PhonosButton noexcerpt">Pariis</span>'
    "</span>) is</p>"
)


def test_pronunciations_are_kept_and_their_buttons_dropped() -> None:
    assert line_of(PRONUNCIATION) == "Paris ([paʁi] , Pariis) is"
    assert clean(line_of(PRONUNCIATION)).body == "Paris ([paʁi], Pariis) is"
