"""Formulas of a page: each once, as LaTeX."""

from html import unescape

import pytest

from tests.html_lines import line_of, lines_of
from utils.cleaning.records.html_article import article_lines
from utils.cleaning.records.html_math import bare_latex
from utils.cleaning.records.sections import section_names
from utils.cleaning.rules.text_cleaner import clean_all
from utils.cleaning.rules.text_rules import FORMULA


def math(latex: str, kind: str = "inline", display: str = "") -> str:
    """A formula as the Math extension writes it: MathML that is hidden, and its picture."""
    return (
        f'<span class="mwe-math-element mwe-math-element-{kind}" typeof="mw:Extension/math">'
        f'<span class="mwe-math-mathml-{kind}" style="display: none;"><math{display} '
        f'alttext="{latex}"><semantics><mrow><mi>E</mi><mspace width="1em" /><mo>=<!-- = --></mo>'
        f'</mrow><annotation encoding="application/x-tex">{latex}</annotation></semantics></math>'
        f'</span><img class="mwe-math-fallback-image-{kind}" alt="{latex}" src="x.svg"/></span>'
    )


def test_formulas_are_latex_once() -> None:
    inline = math("{\\displaystyle  E=mc^{2}}")
    assert line_of(f"<p>Let {inline}, then</p>") == "Let $E=mc^{2}$, then"
    block = math("{\\displaystyle a&lt;b}", "block", ' display="block"')
    assert lines_of(f"<p>So {block} or</p>") == ["So", "$$a<b$$", "or"]
    for pictured in ('<img class="mwe-math-fallback-image-inline" alt="x^2"/>', math("x^2")):
        assert line_of(f"<p>{pictured}</p>") == "$x^2$"
    assert line_of('<p><math alttext="{\\textstyle x}"><mi>x</mi></math></p>') == "$x$"
    assert line_of("<p><math><mi>x</mi></math></p>") == "x"  # there is no LaTeX to it
    assert line_of("<p><img alt='a picture'/>x</p>") == "x"


@pytest.mark.parametrize(
    ("latex", "bare"),
    [
        ("{\\displaystyle x}", "x"),
        ("{\\displaystyle {\\displaystyle x}}", "x"),
        ("{\\displaystyle{\\frac {a}{b}}}", "{\\frac {a}{b}}"),
        ("{\\displaystyle a}+{b}", "{a}+{b}"),
        ("{\\displaystyle \\{a\\}\n \\}}", "\\{a\\} \\}"),
        ("\\sum {\\textstyle x}", "\\sum {x}"),
        ("{\\displaystylex}", "{\\displaystylex}"),
        ("{\\displaystyle x", "{x"),
    ],
)
def test_the_style_around_a_formula_is_stripped(latex: str, bare: str) -> None:
    assert bare_latex(latex) == bare


def test_rules_leave_formulas_alone() -> None:
    latex = r"f () (\ ,\ ) \, ,\, a&lt;br&gt;b ; ; {{cite x}} 's -based x . &amp; a.The ref"
    table = f"<table class=wikitable><tr><th>a<th>b<tr><td>{math('x ,')}<td>y</table>"
    html = f"<p>See , {math(latex)} .</p>{table}"
    lines = article_lines(html, section_names("en"))
    cleaned = clean_all([("T", lines)])[0].lines
    assert cleaned[0] == f"See, ${unescape(latex)}$."
    assert cleaned[1:] == ["| a | b |", "| --- | --- |", "| $x ,$ | y |"]
    assert clean_all([("T", [FORMULA + "a , b", "c , d"])])[0].lines == ["a, b", "c, d"]
