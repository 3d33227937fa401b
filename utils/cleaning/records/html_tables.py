"""Data tables of a page as Markdown: rows begin with "| ", which no cleaning rule for prose sees.

A cell over several columns stands in the first of them, in a heading in each; one over several
rows is repeated in each if it is short. Rows of headings become one. Tables that only arrange what
is in them on the screen are left: their cells are lines.
"""

from collections import defaultdict
from typing import NamedTuple

from selectolax.lexbor import LexborNode

from utils.cleaning.records.html_text import BREAK, ITEM
from utils.cleaning.rules.text_rules import CODE, HEADING

_ESCAPED = "\\|"
_DATA_CLASSES = frozenset({"wikitable", "prettytable", "sortable"})
_MAX_COLUMNS = 200  # those after them are left out
_MAX_CELLS = 10_000  # of one table, repeated ones too; the rows after them are left out
_LONGEST_REPEATED = 40  # characters of a cell that is repeated in the rows that it spans
_LONGEST_CELL = 200  # characters; longer ones are text, unless the table's class says it is data
_MOST_HEADINGS = 3  # rows of headings that become one


class _Cell(NamedTuple):
    text: str
    is_heading: bool
    holds_lines: bool  # items of a list
    holds_sections: bool
    columns: int
    rows: int


def replace_tables(body: LexborNode) -> None:
    """Put the Markdown of each data table in its place. The tree has its marks of lines."""
    tables = body.css("table")
    if not tables:
        return
    rows = _rows_of_tables(body)
    inside: set[int] = set()
    for table in tables:
        if table.mem_id not in inside:
            lines = _markdown(table, rows[table.mem_id])
            if lines:
                inside.update(inner.mem_id for inner in table.css("table"))
                table.replace_with(BREAK.join(["", *lines, ""]))


def _rows_of_tables(body: LexborNode) -> dict[int, list[LexborNode]]:
    rows: dict[int, list[LexborNode]] = defaultdict(list)
    for row in body.css("tr"):
        above = row.parent
        if above is not None and above.tag != "table":
            above = above.parent
        if above is not None:
            rows[above.mem_id].append(row)
    return rows


def _markdown(table: LexborNode, rows: list[LexborNode]) -> list[str]:
    """Its caption and rows; nothing if it is no data."""
    if table.attrs.get("role") == "presentation":
        return []
    is_data = not _DATA_CLASSES.isdisjoint((table.attrs.get("class") or "").split())
    if not is_data and len(table.css("table")) > 1:
        return []
    cells = _cells(rows)
    if any(cell.holds_sections for row in cells for cell in row):
        return []
    if not is_data and any(
        cell.holds_lines or len(cell.text) > _LONGEST_CELL for row in cells for cell in row
    ):
        return []
    titles, notes = _outer_rows(cells)
    headings, grid = _grid(cells)
    used = [place for place in range(len(headings)) if any(row[place] for row in grid)]
    if len(used) < 2:
        return []
    markdown = [
        f"| {' | '.join(row[place].replace('|', _ESCAPED) for place in used)} |"
        for row in [headings, ["---"] * len(headings), *grid]
    ]
    return [*_caption(table), *titles, *markdown, *notes]


def _caption(table: LexborNode) -> list[str]:
    return [
        node.text_lexbor().replace(BREAK, " ") for node in table.iter() if node.tag == "caption"
    ]


def _cells(rows: list[LexborNode]) -> list[list[_Cell]]:
    """The cells of each row, up to a number."""
    cells: list[list[_Cell]] = []
    count = 0
    for row in rows:
        nodes = [node for node in row.iter() if node.tag in ("td", "th")]
        count += len(nodes)
        if count > _MAX_CELLS:
            break
        cells.append([_cell(node) for node in nodes])
    return cells


def _cell(node: LexborNode) -> _Cell:
    content = node.text_lexbor()
    return _Cell(
        _in_one_line(content),
        node.tag == "th",
        ITEM in content,
        HEADING in content,
        _span(node, "colspan", 1, _MAX_COLUMNS),
        _span(node, "rowspan", _MAX_CELLS, _MAX_CELLS),
    )


def _span(node: LexborNode, name: str, zero: int, most: int) -> int:
    value = (node.attrs.get(name) or "").strip()
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        return 1
    return min(int(value) or zero, most)


def _in_one_line(content: str) -> str:
    """A cell's text; items of a list are divided by semicolons."""
    text = ""
    is_item = False
    for fragment in content.replace(CODE, "").split(BREAK):
        is_item = is_item or fragment.startswith(ITEM)
        line = " ".join(fragment.split())  # which takes ITEM for a space
        if line:
            text += ("; " if is_item and text[-1:] not in ":;," else " ") if text else ""
            text += line
            is_item = False
    return text


def _outer_rows(rows: list[list[_Cell]]) -> tuple[list[str], list[str]]:
    """Lines above and below, which are taken out of the rows: one cell over several columns."""
    above: list[str] = []
    below: list[str] = []
    while len(rows) > 1 and _is_over_columns(rows[0]):
        above.append(rows.pop(0)[0].text)
    while len(rows) > 1 and _is_over_columns(rows[-1]):
        below.insert(0, rows.pop()[0].text)
    return above, below


def _is_over_columns(row: list[_Cell]) -> bool:
    return len(row) == 1 and row[0].columns > 1 and row[0].rows == 1


def _grid(rows: list[list[_Cell]]) -> tuple[list[str], list[list[str]]]:
    """The headings of all columns, and the rows below; all of one length."""
    grid: list[list[str]] = []
    spans: dict[int, tuple[int, str]] = {}  # column -> rows that are left, text in them
    headings = count = 0
    for cells in rows:
        if count > _MAX_CELLS:
            break
        is_heading = headings == len(grid) < _MOST_HEADINGS
        is_heading = is_heading and all(cell.is_heading for cell in cells)
        row = _row(cells, spans, is_heading)
        if any(cell.text for cell in cells):
            grid.append(row)
            headings += is_heading
            count += len(row)
    width = max(map(len, grid), default=0)
    for row in grid:
        row += [""] * (width - len(row))
    if headings in (0, len(grid)):
        headings = 1  # the first row is as good as headings
    return _merged(grid[:headings], width), grid[headings:]


def _row(cells: list[_Cell], spans: dict[int, tuple[int, str]], is_heading: bool) -> list[str]:
    """One row's texts by column; `spans` is brought up to date."""
    row: list[str] = []
    for cell in cells:
        _fill(row, spans)
        repeated = cell.text if len(cell.text) <= _LONGEST_REPEATED else ""
        for number in range(min(cell.columns, _MAX_COLUMNS - len(row))):
            text = cell.text if not number else repeated if is_heading else ""
            if cell.rows > 1:
                spans[len(row)] = (cell.rows - 1, repeated if text else "")
            row.append(text)
    last = max(spans, default=-1)
    while len(row) <= last:
        _fill(row, spans)
        if len(row) <= last:
            row.append("")
    return row


def _fill(row: list[str], spans: dict[int, tuple[int, str]]) -> None:
    """Add what cells of rows above put into the next columns."""
    while len(row) in spans:
        left, text = spans.pop(len(row))
        if left > 1:
            spans[len(row)] = (left - 1, text)
        row.append(text)


def _merged(rows: list[list[str]], width: int) -> list[str]:
    """Rows of headings as one: "Goals" above "Home" is "Goals Home"."""
    columns = [dict.fromkeys(row[place] for row in rows if row[place]) for place in range(width)]
    return [" ".join(texts) for texts in columns]
