"""The articles that were dropped from a cleaned text as duplicates, and moving them out and back.

`cleaned_<stem>.duplicates` holds each on a line as in the text, behind its number and a tab.
Articles are numbered from 0 in the order in which they were cleaned, kept or dropped.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from utils.articles import ArticleWriter, CleanedMarker, duplicates_path_of, marker_path_of
from utils.cleaning.duplicates.duplicates import BoolArray
from utils.errors import DataError
from utils.files import atomic_write, sha256_of

REPORT_BYTES = 1 << 20  # between two calls of `report`
_LINES_AT_ONCE = 64  # written together


def dropped_now(text_path: Path, marker: CleanedMarker, articles: int) -> BoolArray:
    """Which of the `articles` that were cleaned are dropped from the text as it is.

    Raises DataError if the file of those dropped is damaged.
    """
    dropped = np.zeros(articles, bool)
    if marker.duplicates_sha256 is not None:
        _check(duplicates_path_of(text_path), marker.duplicates_sha256, text_path)
        for number, _ in _dropped_lines(text_path):
            dropped[number] = True
    return dropped


def all_lines(
    text_path: Path, marker: CleanedMarker, report: Callable[[int], None]
) -> Iterator[bytes]:
    """The lines of all articles that were cleaned, in order.

    `report(bytes_read)` is called about every REPORT_BYTES with those since the last call, and may
    raise to stop. Raises DataError if the text, or the file of those dropped, is damaged.
    """
    _check(text_path, marker.output_sha256, text_path)
    unreported_bytes = 0
    for line in _merged_lines(text_path, marker.duplicates_sha256 is not None):
        yield line
        unreported_bytes += len(line)
        if unreported_bytes >= REPORT_BYTES:
            report(unreported_bytes)
            unreported_bytes = 0
    report(unreported_bytes)


def rewrite(
    text_path: Path, marker: CleanedMarker, dropped: BoolArray, report: Callable[[int], None]
) -> CleanedMarker:
    """Leave in the text what is not `dropped` (articles,); returns a marker of the text as it is.

    The old marker is gone then. `report` is called, and errors are raised, as by `all_lines`,
    before the text or the marker changes.
    """
    duplicates_path = duplicates_path_of(text_path)
    digest = hashlib.sha256()
    with atomic_write(text_path) as text_file, atomic_write(duplicates_path) as duplicates_file:
        writer = ArticleWriter(text_file)
        lines = zip(dropped.tolist(), all_lines(text_path, marker, report), strict=True)
        kept: list[bytes] = []
        for number, (is_dropped, line) in enumerate(lines):
            if is_dropped:
                entry = b"%d\t%b" % (number, line)
                duplicates_file.write(entry)
                digest.update(entry)
            else:
                kept.append(line)
            if len(kept) == _LINES_AT_ONCE:
                writer.write_lines(kept)
                kept.clear()
        writer.write_lines(kept)
        marker_path_of(text_path).unlink()  # the files take their names now, one by one
    if not dropped.any():
        duplicates_path.unlink()
    changes = {
        "output_bytes": writer.size_bytes,
        "output_sha256": writer.sha256,
        "articles": writer.articles,
        "characters": writer.characters,
        "duplicates_sha256": digest.hexdigest() if dropped.any() else None,
    }
    return marker.model_copy(update=changes)


def _merged_lines(text_path: Path, any_dropped: bool) -> Iterator[bytes]:
    number = 0
    with text_path.open("rb") as text:
        for dropped_number, line in _dropped_lines(text_path) if any_dropped else ():
            yield from islice(text, dropped_number - number)
            yield line
            number = dropped_number + 1
        yield from text


def _dropped_lines(text_path: Path) -> Iterator[tuple[int, bytes]]:
    with duplicates_path_of(text_path).open("rb") as file:
        for entry in file:
            number, _, line = entry.partition(b"\t")
            yield int(number), line


def _check(path: Path, sha256: str, text_path: Path) -> None:
    if sha256_of(path) != sha256:
        raise DataError(
            f"{path}: was changed or damaged after it was cleaned (wrong SHA-256)",
            f"Delete {text_path.name} and run cleaner.py again.",
        )
