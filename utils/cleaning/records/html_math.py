"""Formulas of a page, each once, as LaTeX: "$x^{2}$", "$$\\sum x$$" where it stands alone.

A formula comes as MathML with its LaTeX as an annotation or attribute, as a picture with its LaTeX
as the alternative text, or as both.
"""

import re

from selectolax.lexbor import LexborNode

from utils.cleaning.records.html_text import BREAK, plain
from utils.cleaning.rules.markup_rules import closing_brace
from utils.cleaning.rules.text_rules import FORMULA

_STYLE = re.compile(r"\{\\(?:display|text|script|scriptscript)style(?![a-zA-Z]) ?")
_MOST_STYLES = 4  # around a whole formula, one inside the other
_CONTAINER = "mwe-math"
_EXTENSIONS = ("mw:Extension/math", "mw:Extension/chem", "mw:Extension/ce")
_MOST_CONTAINERS = 4  # around a formula
_PICTURES = 'img[class*="mwe-math"],img[typeof*="mw:Extension/math"]'
_BLOCK_CLASSES = ("-display", "-block")


def replace_math(body: LexborNode) -> None:
    """Put each formula's LaTeX in its place; one without LaTeX stays as it is."""
    done: set[int] = set()
    for formula in body.css("math"):
        container, is_block = _container(formula)
        if container.mem_id not in done:
            done.add(container.mem_id)
            _replace(container, _latex(formula, container), is_block)
    for picture in body.css(_PICTURES):
        container, is_block = _container(picture)
        if container.mem_id not in done:
            done.add(container.mem_id)
            _replace(container, picture.attrs.get("alt"), is_block)


def _container(formula: LexborNode) -> tuple[LexborNode, bool]:
    """The outermost element of the formula, and whether it is shown as a block."""
    outermost = formula
    is_block = formula.attrs.get("display") == "block" or _is_block(formula)
    for _ in range(_MOST_CONTAINERS):
        parent = outermost.parent
        if parent is None or not _is_container(parent):
            break
        outermost = parent
        is_block = is_block or _is_block(outermost)
    return outermost, is_block


def _is_container(node: LexborNode) -> bool:
    names = node.attrs.get("class") or ""
    kind = node.attrs.get("typeof") or ""
    return _CONTAINER in names or any(extension in kind for extension in _EXTENSIONS)


def _is_block(node: LexborNode) -> bool:
    names = (node.attrs.get("class") or "").split()
    return any(name.startswith(_CONTAINER) and name.endswith(_BLOCK_CLASSES) for name in names)


def _latex(formula: LexborNode, container: LexborNode) -> str | None:
    annotation = formula.css_first('annotation[encoding="application/x-tex"]')
    if annotation is not None:
        return annotation.text_lexbor()
    stated = formula.attrs.get("alttext")
    if stated:
        return stated
    picture = container.css_first("img[alt]")
    return picture.attrs.get("alt") if picture is not None else None


def _replace(container: LexborNode, latex: str | None, is_block: bool) -> None:
    text = bare_latex(plain(latex)) if latex else ""
    if text:
        formula = f"$${text}$$" if is_block else f"${text}$"
        border = BREAK if is_block else ""
        container.replace_with(f"{border}{FORMULA}{formula}{FORMULA}{border}")


def bare_latex(latex: str) -> str:
    """LaTeX in one line without the styles that MediaWiki wraps around it and its parts."""
    latex = " ".join(latex.split())
    for _ in range(_MOST_STYLES):
        style = _STYLE.match(latex)
        if style is None or closing_brace(latex, 0) != (len(latex), True):
            break
        latex = latex[style.end() : -1].strip()
    return _STYLE.sub("{", latex)
