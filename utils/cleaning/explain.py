"""One record before and after cleaning, with what each rule did to it: `cleaner.py --explain`."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path

from utils.cleaning.file_cleaner import reason_too_short
from utils.cleaning.inputs.raw_files import RawFile, find_raw_files
from utils.cleaning.inputs.raw_reader import open_raw
from utils.cleaning.records.structured import sections_left_out
from utils.cleaning.records.wikipedia import (
    Article,
    BadLine,
    Dropped,
    read_record,
)
from utils.cleaning.rules.text_cleaner import Change, CleanText, changes_of, clean_all
from utils.cleaning.rules.text_rules import CODE, HEADING
from utils.errors import DataError

_WORDS_AROUND = 3  # shown on either side of a change
_SHOWN_PLACES = 5  # of each rule


def explain(path: Path, number: int, min_characters: int) -> str:
    """What happens to record `number` of a raw file, its line or row, counted from 1.

    Articles of fewer than `min_characters` are dropped. The path of a member of a zip archive is
    "dump.zip!part_0.jsonl". Raises DataError if there is no such file or record.
    """
    head = f"record {number:,} of {path}"
    try:
        record, line = read_record_at(path, number)
    except BadLine as error:
        return f"{head}\nno record ({error.kind}): {error.detail}"
    if isinstance(record, Dropped):
        return f"{head}\ndropped: {record.reason}"
    plain = () if record.is_parsed else (0,)
    cleaned = clean_all([(record.title, record.lines)], plain)[0]
    reason = reason_too_short(cleaned, min_characters)
    verdict = f"\ndropped: {reason}" if reason else ""
    shown = "\n".join(_sections(record, cleaned, sections_left_out(line)))
    return f"{head}{verdict}\n\n{shown}"


def read_record_at(path: Path, number: int) -> tuple[Article | Dropped, bytes]:
    """A record as it is read, and its line. Raises DataError as `explain` does, or BadLine."""
    line = _line(_raw_file(path), number)
    return read_record(line), line


def _raw_file(path: Path) -> RawFile:
    """The raw file of that name, "dump.zip!folder/part_0.jsonl" for a member of an archive."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    name = str(path.relative_to(folder))
    archive = name.partition("!")[0]
    is_there = (folder / name).is_file() or (folder / archive).is_file()
    found = find_raw_files(folder) if is_there else []
    inside = [raw for raw in found if raw.path == folder / name]
    named = [raw for raw in found if raw.name == name] or inside
    if len(named) == 1:
        return named[0]
    others = inside or [raw for raw in found if raw.path == folder / archive]
    if not others:
        raise DataError(f"{path}: no such raw file", "Name one that cleaner.py reads.")
    what = f"holds {len(inside)} files" if inside else f"no such file in {archive}"
    names = ", ".join(raw.name for raw in others[:3]) + " ..." * (len(others) > 3)
    raise DataError(f"{path}: {what}", f"Name one that cleaner.py reads: {names}")


def _line(raw: RawFile, number: int) -> bytes:
    with open_raw(raw) as reader:
        line = next(islice(reader, number - 1, None), None) if number > 0 else None
    if line is None:
        raise DataError(f"{raw}: has no record {number:,}", "Records are its lines, from 1 on.")
    return line


def _sections(article: Article, cleaned: CleanText, left_out: list[str]) -> Iterator[str]:
    yield from ("--- before", article.title, *_readable(article.lines), "")
    yield from ("--- after", cleaned.title, cleaned.body, "")
    yield f"--- {len(left_out)} sections left out"
    yield from left_out
    changes = changes_of(article.title, article.lines, article.is_parsed)
    changes.sort(key=attrgetter("rule.name"))
    yield f"\n--- {len(changes)} changes"
    for name, group in groupby(changes, attrgetter("rule.name")):
        places = [place for change in group for place in places_of(change)]
        yield f"{name}: {len(places)}"
        for before, after in places[:_SHOWN_PLACES]:
            yield f"  - {before}"
            yield f"  + {after}"
        if len(places) > _SHOWN_PLACES:
            yield f"  ... and {len(places) - _SHOWN_PLACES} more"


def _readable(lines: list[str]) -> Iterator[str]:
    """The lines as the rules get them, headings marked as in Markdown, code by indentation."""
    for line in lines:
        name = line.lstrip(HEADING)
        if name != line:
            yield f"{'#' * (len(line) - len(name))} {name}"
        else:
            yield f"    {line.removeprefix(CODE)}" if line.startswith(CODE) else line


def places_of(change: Change) -> Iterator[tuple[str, str]]:
    """The places where a rule changed a line, before and after, with the words around each."""
    before, after = change.before.split(" "), change.after.split(" ")
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for kind, begin, end, new_begin, new_end in matcher.get_opcodes():
        if kind != "equal":
            yield _excerpt(before, begin, end), _excerpt(after, new_begin, new_end)


def _excerpt(words: list[str], begin: int, end: int) -> str:
    first, last = max(begin - _WORDS_AROUND, 0), end + _WORDS_AROUND
    return "... " * (first > 0) + " ".join(words[first:last]) + " ..." * (last < len(words))
