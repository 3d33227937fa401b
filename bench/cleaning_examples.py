"""What cleaning does to chosen pages, for docs/CLEANING.md: a table of pages, before and after.

`python -m bench.cleaning_examples FILE --record N [--record N ...]` shows it, `--write` puts it
into the document.
"""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from bench.measure import REPOSITORY, table
from bench.record import record
from utils.cleaning.explain import places_of, read_record_at
from utils.cleaning.records.structured import sections_left_out
from utils.cleaning.records.wikipedia import Article
from utils.cleaning.rules.text_cleaner import changes_of, clean_all
from utils.cli import run_script, script_parser
from utils.errors import DataError
from utils.terminal import emit

DOCUMENT = REPOSITORY / "docs" / "CLEANING.md"
_EXAMPLES_PER_RULE = 2


def page_row(article: Article, left_out: list[str]) -> list[str]:
    """A page in the table: its words before and after the rules, sections left out, rules."""
    cleaned = clean_all([(article.title, article.lines)])[0]
    fired = Counter(change.rule.name for change in changes_of(article.title, article.lines))
    return [
        article.title,
        f"{sum(len(line.split()) for line in article.lines):,}",
        f"{sum(len(line.split()) for line in cleaned.lines):,}",
        "<br>".join(left_out) or "none",
        "<br>".join(f"{name} {count}" for name, count in sorted(fired.items())) or "none",
    ]


def example_rows(article: Article) -> list[list[str]]:
    """Places that each rule changed, before and after."""
    rows = []
    shown: Counter[str] = Counter()
    for change in sorted(changes_of(article.title, article.lines), key=attrgetter("rule.name")):
        for before, after in places_of(change):
            shown[change.rule.name] += 1
            if shown[change.rule.name] <= _EXAMPLES_PER_RULE:
                rows.append([change.rule.name, _code(before), _code(after)])
    return rows


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(0x2502)).replace('`', chr(0x2018))}`" if text else "(nothing)"


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("What cleaning does to chosen pages.")
    parser.prog = "python -m bench.cleaning_examples"
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--record", type=int, action="append", required=True, metavar="N")
    parser.add_argument("--write", action="store_true", help="into docs/CLEANING.md")
    args = parser.parse_args(arguments)
    rows, examples = [], []
    for number in args.record:
        article, line = read_record_at(args.file, number)
        if not isinstance(article, Article):
            raise DataError(f"{args.file}: record {number} is no article", "Choose another.")
        rows.append(page_row(article, sections_left_out(line)))
        examples += [
            f"### {article.title}",
            table(["rule", "before", "after"], example_rows(article)),
        ]
    header = ["page", "words in", "words out", "sections left out", "places changed, by rule"]
    section = "\n\n".join([table(header, rows), *examples])
    emit(section)
    if args.write:
        record("examples", section, DOCUMENT)


if __name__ == "__main__":
    run_script(main)
