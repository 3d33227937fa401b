"""Puts sections that a bench wrote into docs/RESULTS.md, where they stand between marks.

A bench run with `--record` does so itself. Where it runs on a machine whose files are lost, keep
what it writes to stdout: `python -m bench.record LOG...` records every whole section found there.
A log may be cut short, and other text may stand between its sections.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_script, script_parser
from utils.errors import DataError
from utils.files import atomic_write
from utils.terminal import say

RESULTS_PATH = Path(__file__).parent.parent / "docs" / "RESULTS.md"
_MARKED = re.compile(r"^<!-- bench:([\w.-]+) -->\n(.*?)\n<!-- /bench:\1 -->$", re.DOTALL | re.M)


def section_name(bench: str, part: str) -> str:
    """The name of a section: that of its bench, and of the part of it that was measured.

    >>> section_name("resume", "exact compile off"), section_name("tokenizer", "")
    ('resume-exact-compile-off', 'tokenizer')
    """
    return re.sub(r"[^\w.]+", "-", f"{bench} {part}".strip())


def marked(name: str, section: str) -> str:
    """The section between its marks."""
    begin, end = _marks(name)
    return f"{begin}\n{section}\n{end}"


def sections_in(log: str) -> list[tuple[str, str]]:
    """Name and text of each whole section in what benches wrote."""
    return [(found[1], found[2]) for found in _MARKED.finditer(log)]


def record(name: str, section: str, path: Path = RESULTS_PATH) -> None:
    """Put `section` between its marks in a file of results; new ones go to the end."""
    begin, end = _marks(name)
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if found and not closed:
        raise DataError(f"{path}: {begin} has no {end}", "Put the line where the section ends.")
    if not found:
        before, after = f"{text.rstrip()}\n\n", "\n"
    with atomic_write(path) as file:
        file.write(f"{before}{marked(name, section)}{after}".encode())


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"


def main(arguments: Sequence[str], path: Path = RESULTS_PATH) -> None:
    parser = script_parser("Record the results of benches that ran elsewhere, or before.")
    parser.prog = "python -m bench.record"
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="stdout of benches")
    for log in parser.parse_args(arguments).logs:
        found = sections_in(log.read_text(encoding="utf-8", errors="replace"))
        if not found:
            raise DataError(
                f"{log}: has no whole section of a bench", "Keep all that a bench writes to stdout."
            )
        for name, section in found:
            record(name, section, path)
            say(f"recorded {name}, from {log.name}", "green")


if __name__ == "__main__":
    run_script(main)
