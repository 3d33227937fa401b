"""HTML built from Python: whatever is not markup is escaped, so that no text can become markup."""

import html
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

REPORT_NAME = "report.html"
STYLE_PATH = Path(__file__).with_name("report.css")

_VOID = frozenset({"br", "meta"})
_SHAPELESS = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # Unicode categories
_SHORT_CODES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
# Nothing may run and nothing may be loaded, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Html(str):
    """Markup; any other string is text."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | float | None) -> Html:
    """An element. `class_` is written class, `stroke_width` stroke-width; None leaves one out.

    >>> tag("td", "a < b", tag("b", "!"), class_="number", colspan=2)
    '<td class="number" colspan="2">a &lt; b<b>!</b></td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Markup and text, one after the other."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def spelled_out(text: str) -> str:
    r"""Text whose characters without a shape, such as controls, are written as codes.

    >>> spelled_out("a\u200bb\r")
    'a\\u200bb\\r'
    """
    return "".join(_code(character) or character for character in text)


def visible(text: str) -> Html:
    """The same, with the codes marked as such."""
    return join(
        tag("span", code, class_="code") if (code := _code(character)) else character
        for character in text
    )


def page(title: str, *sections: Html) -> str:
    """A whole HTML document that needs no other file, network or script."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE_PATH.read_text(encoding="utf-8"))),
    )
    body = tag("body", tag("main", *sections))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def section(title: str, *children: str) -> Html:
    return tag("section", tag("h2", title), *children)


def folded(title: str, *children: str) -> Html:
    """Something that shows only its title until a reader opens it."""
    return tag("details", tag("summary", title), *children)


def tiles(values: Mapping[str, str]) -> Html:
    """The most important figures, large, by name."""
    parts = (tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items())
    return tag("dl", *parts, class_="tiles")


def facts(rows: Iterable[tuple[str, str]]) -> Html:
    """Names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows))


def table(header: Iterable[str], rows: Iterable[Iterable[str]], last_is_total: bool) -> Html:
    """A table of one line of text and then numbers; the last row can be their total."""
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    foot = [tag("tfoot", body.pop())] if last_is_total else []
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    return tag("div", tag("table", head, tag("tbody", *body), *foot), class_="scroll")


def bar_table(rows: Iterable[tuple[str, int, float]], longest: float | None = None) -> Html:
    """Rows of a label, a count and its share, drawn as a bar; `longest` fills the whole width."""
    rows = list(rows)
    longest = longest or max((share for _, _, share in rows), default=0) or 1
    return tag(
        "table",
        *(
            tag(
                "tr",
                tag("th", label, scope="row"),
                tag("td", tag("i", style=f"width:{100 * share / longest:.2f}%"), class_="bar"),
                tag("td", f"{count:,}"),
                tag("td", format_share(share)),
            )
            for label, count, share in rows
        ),
        class_="bars",
    )


def format_share(share: float) -> str:
    """A share as a percentage of three digits, never rounded to nothing.

    >>> [format_share(x) for x in (0, 0.000_004, 0.001234, 0.1234, 1)]
    ['0%', '<0.001%', '0.123%', '12.3%', '100%']
    """
    if 0 < share < 0.000_01:
        return "<0.001%"
    digits = 3 if share < 0.01 else 2 if share < 0.1 else 1
    return "0%" if not share else "100%" if share == 1 else f"{share:.{digits}%}"


def _attribute(value: str | float) -> str:
    """A coordinate needs no more than two decimals, and the same ones on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _code(character: str) -> str:
    """The code of a character without a shape; "" for all others."""
    if unicodedata.category(character) not in _SHAPELESS:
        return ""
    number = ord(character)
    if number < 0x100:
        return _SHORT_CODES.get(character, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
