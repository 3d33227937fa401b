"""Tables of a page: data as Markdown, the others as lines."""

import pytest

from tests.html_lines import lines_of
from utils.cleaning.rules.text_cleaner import clean


def table(rows: str, names: str = ' class="wikitable"') -> list[str]:
    return lines_of(f"<p>Before</p><table{names}><tbody>{rows}</tbody></table>after")[1:-1]


def test_data_tables_are_markdown() -> None:
    rows = (
        "<caption>The <b>caption</b><sup class='reference'>[1]</sup></caption>"
        "<tr><th>Year</th><th>A | B</th></tr>"
        "<tr><td>1990<br/>May</td><td><ul><li>x</li><li>y <i>z</i></li></ul></td></tr>"
        "<tr><td></td><td> </td></tr><tr></tr>"
        "<tr><th>1991</th><td><style>.a{}</style>$</td></tr>"
    )
    lines = [
        "The caption",
        "| Year | A \\| B |",
        "| --- | --- |",
        "| 1990 May | x; y z |",
        "| 1991 | $ |",
    ]
    assert table(rows) == lines
    assert table(rows, ' class="wikitable sortable"') == lines
    cleaned = clean("\n".join(["| a , b | ( c ) |", *lines[1:]])).body
    assert cleaned.split("\n") == ["| a , b | ( c ) |", *lines[1:]]


def test_cells_over_several_columns_and_rows() -> None:
    rows = (
        '<tr><th rowspan="2">Team</th><th colspan="2">Goals</th></tr><tr><th>Home</th><th>Away</th>'
        '</tr><tr><td rowspan="2">A</td><td>1</td><td rowspan="0">2</td></tr><tr><td>3</td></tr>'
        '<tr><td colspan="2">Only B</td></tr><tr><td>C</td><td>4</td></tr>'
    )
    assert table(rows) == [
        "| Team | Goals Home | Goals Away |",
        "| --- | --- | --- |",
        "| A | 1 | 2 |",
        "| A | 3 | 2 |",
        "| Only B | | 2 |",
        "| C | 4 | 2 |",
    ]


def test_cells_over_the_whole_table_are_lines_above_and_below() -> None:
    rows = (
        "<tr><th colspan=2>Results</th></tr><tr><th>A</th><th>B</th></tr><tr><td>1<td>2</tr>"
        "<tr><td colspan=2>Group</tr><tr><td>3<td>4</tr><tr><td colspan=2>Source: | census</tr>"
    )
    markdown = ["| A | B |", "| --- | --- |", "| 1 | 2 |", "| Group | |", "| 3 | 4 |"]
    assert table(rows) == ["Results", *markdown, "Source: | census"]


def test_columns_without_data_and_tables_inside_tables() -> None:
    inner = "<table><tr><td>i</td><td>j</td></tr></table>"
    rows = (
        f"<tr><th>A</th><th>Image</th><th>B</th></tr><tr><td>1</td><td></td><td>{inner}</td></tr>"
    )
    assert table(rows) == ["| A | B |", "| --- | --- |", "| 1 | i j |"]


@pytest.mark.parametrize(
    "rows",
    [
        "<tr><td><p>left</p></td><td><ul><li>right</li></ul></td></tr><tr><td>a</td></tr>",
        f"<tr><td>left</td><td>right</td></tr><tr><td>a</td><td>{'long ' * 50}</td></tr>",
        "<tr><td>left</td><td>right</td><td>a</td></tr>",
    ],
)
def test_tables_for_the_layout_are_lines(rows: str) -> None:
    assert [line.strip() for line in table(rows, "")][:3] == ["left", "right", "a"]


def test_tables_without_a_class_are_data_if_they_look_like_it() -> None:
    assert table("<tr><td>a<td>b</tr><tr><td>c<td>d</tr>", "")[0] == "| a | b |"
    assert table("<tr><td>a<td>b</tr><tr><td>c<td>d</tr>", ' role="presentation"')[0] == "a"


def test_tables_without_data_are_dropped() -> None:
    assert table("") == table("<tr><td></td><td></td></tr><tr><td></td></tr>") == []


def test_huge_tables_are_bounded() -> None:
    rows = (
        f"<tr>{'<th rowspan=65000 colspan=1000>same</th>' * 2}</tr>"
        + "<tr><td>x</td></tr>" * 50_000
    )
    lines = table(rows)
    assert sum(map(len, lines)) < 10 * 10_000 * 7  # cells of "same | "
    assert lines[-1].startswith("| ")
