"""Documentation text to paragraphs: what an editor wrapped is unwrapped, code keeps its lines."""

import re
import textwrap
from collections.abc import Iterator
from itertools import groupby, pairwise

_UNDERLINE = re.compile(r"([-=*~^#])\1{2,}\s*")
_BULLET = re.compile(r"(?:[*+-]|\d+\.) ")
_SENTENCE = re.compile(r"[\"'(A-Z].*[.:;!?)]", re.DOTALL)


def titled_sections(text: str, first: str) -> list[tuple[str, list[str]]]:
    """Split at underlined headings: (heading, paragraphs), `first` heading what precedes them.

    >>> titled_sections("Title\\n=====\\nOne\\ntwo.\\n", first="Lead")
    [('Lead', []), ('Title', ['One two.'])]
    """
    lines = text.expandtabs().splitlines()
    headings = [
        number
        for number, (line, below) in enumerate(pairwise(lines))
        if line[:1].strip() and _UNDERLINE.fullmatch(below) and len(below) >= len(line)
    ]
    sections = [(first, paragraphs("\n".join(lines[: headings[0] if headings else None])))]
    for start, end in pairwise([*headings, len(lines)]):
        sections.append((lines[start].strip(), paragraphs("\n".join(lines[start + 2 : end]))))
    return sections


def paragraphs(text: str) -> list[str]:
    """The paragraphs of `text`: prose on one line each, list items apart, code as it stands.

    >>> paragraphs("One\\ntwo.\\n\\n    if x:\\n\\n        y()\\n")
    ['One two.', 'if x:\\n\\n    y()']
    """
    found: list[str] = []
    blocks = re.split(r"\n\s*\n", text.expandtabs().strip("\n"))
    for is_code, group in groupby(filter(str.strip, blocks), key=_is_code):
        if is_code:
            found.append(textwrap.dedent("\n\n".join(group)).strip("\n"))
        else:
            found.extend(item for block in group for item in _items(block))
    return found


def _is_code(block: str) -> bool:
    """Whether line breaks and columns carry meaning: indented, a session, or a table."""
    lines = block.splitlines()
    if lines[0].lstrip().startswith(">>>") or re.search(r"[-=+]{4}|\S {3}", block):
        return True
    if not lines[0].startswith(" "):
        return any(line.startswith(" ") for line in lines) and not _BULLET.match(block)
    one_column = len({len(line) - len(line.lstrip()) for line in lines}) == 1
    return not (one_column and _SENTENCE.fullmatch(block.strip())) and not _BULLET.match(
        block.lstrip()
    )


def _items(block: str) -> Iterator[str]:
    """The list items of a block, or the block itself, each on one line."""
    item: list[str] = []
    for line in block.splitlines():
        if item and _BULLET.match(line.lstrip()):
            yield " ".join(item)
            item = []
        item.append(line.strip())
    yield " ".join(item)
