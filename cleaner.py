"""Clean raw Wikipedia dumps: JSON lines in paths.raw_dir to one text per file in paths.cleaned_dir.

One process per file, `cleaner.workers` of them at a time. A file that is finished is skipped when
the script runs again; one whose raw file or settings changed is done again. Then all the texts are
compared, and of pages that are there several times the newest stays.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.articles import (
    CleanedMarker,
    CleanerSettings,
    read_marker,
    stem_of,
    text_files,
    text_path_of,
)
from utils.cleaning.duplicates.comparison import DUPLICATE_TEXT, OLDER_COPY, drop_duplicates
from utils.cleaning.explain import explain
from utils.cleaning.file_cleaner import reason_not_current, reason_to_clean
from utils.cleaning.inputs.raw_files import RawFile, find_raw_files
from utils.cleaning.pool import clean_files, raise_failures
from utils.cli import config_from, run_script, script_parser
from utils.config import Config
from utils.errors import DataError
from utils.files import format_bytes, sole_writer
from utils.terminal import emit, format_seconds, printable, say, warn


def main(arguments: Sequence[str]) -> None:
    parser = script_parser(__doc__.partition("\n")[0])
    parser.add_argument(
        "--test", action="store_true", help="stop after cleaner.test_articles articles per file"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (cleaner.workers)")
    parser.add_argument("--force", action="store_true", help="clean finished files again")
    parser.add_argument(
        "--explain", type=Path, metavar="FILE", help="show what cleaning does to a record of FILE"
    )
    parser.add_argument(
        "--record", type=int, metavar="N", help="which one, by its line (default: 1)"
    )
    args = parser.parse_args(arguments)
    if args.record is not None and args.explain is None:
        parser.error("--record goes with --explain")
    config = config_from(args, {"cleaner.workers": args.workers})
    if args.explain is not None:
        number = 1 if args.record is None else args.record
        for line in explain(args.explain, number, config.cleaner.min_characters).split("\n"):
            emit(printable(line))
        return
    clean_folder(config, test=args.test, force=args.force)


def clean_folder(config: Config, test: bool = False, force: bool = False) -> None:
    """Bring every file of `paths.cleaned_dir` up to date with `paths.raw_dir`."""
    settings = CleanerSettings(
        min_characters=config.cleaner.min_characters,
        max_bad_share=config.cleaner.max_bad_share,
        limit_articles=config.cleaner.test_articles if test else None,
        drop_duplicate_texts=config.cleaner.drop_duplicate_texts,
    )
    raw_files = find_raw_files(config.paths.raw_dir)
    cleaned_dir = config.paths.cleaned_dir
    with sole_writer(cleaned_dir, "cleaning into"):
        todo = _files_to_clean(raw_files, cleaned_dir, settings, force)
        start_seconds = time.monotonic()
        read_bytes = 0
        errors: list[DataError] = []
        if todo:
            read_bytes, errors = clean_files(todo, cleaned_dir, settings, config.cleaner.workers)
        drop_duplicates(_current_texts(cleaned_dir, settings), settings.drop_duplicate_texts)
        raise_failures(errors, len(todo))
        _say_summary(raw_files, cleaned_dir, read_bytes, time.monotonic() - start_seconds)


def _files_to_clean(
    raw_files: list[RawFile], cleaned_dir: Path, settings: CleanerSettings, force: bool
) -> list[RawFile]:
    """The files whose text is not current, after saying what is skipped and why others are not."""
    reasons = {
        raw: "--force" if force else reason_to_clean(raw, cleaned_dir, settings)
        for raw in raw_files
    }
    for raw, reason in reasons.items():
        if reason not in (None, "new", "--force"):
            say(f"{raw.stem}: again, {reason}")
    todo = [raw for raw, reason in reasons.items() if reason is not None]
    if len(todo) < len(raw_files):
        done = len(raw_files) - len(todo)
        say(f"{done} of {len(raw_files)} files are finished already; --force redoes them")
    stems = {raw.stem for raw in raw_files}
    for path in text_files(cleaned_dir):
        if stem_of(path) not in stems:
            reason = reason_not_current(path, settings)
            advice = "if it should not be trained on" if reason is None else f"now: {reason}"
            warn(f"{path}: its raw file is gone; delete it {advice}")
    return todo


def _current_texts(cleaned_dir: Path, settings: CleanerSettings) -> list[Path]:
    """The texts to compare, in order; those whose raw file is gone, too, if they are in order."""
    paths = text_files(cleaned_dir)
    return [path for path in paths if reason_not_current(path, settings) is None]


def _say_summary(
    raw_files: list[RawFile], cleaned_dir: Path, read_bytes: int, seconds: float
) -> None:
    markers = [read_marker(text_path_of(cleaned_dir, raw.stem)) for raw in raw_files]
    articles = sum(marker.articles for marker in markers)
    characters = sum(marker.characters for marker in markers)
    size = format_bytes(sum(marker.output_bytes for marker in markers))
    say(
        f"{len(markers)} file{'s' * (len(markers) != 1)}: {articles:,} articles,"
        f" {characters:,} characters, {size} in {cleaned_dir}",
        "bold",
    )
    dropped = _total(marker.dropped for marker in markers)
    del dropped[OLDER_COPY], dropped[DUPLICATE_TEXT]  # said below
    bad_lines = _total(marker.bad_lines for marker in markers)
    for label, counter in (("dropped", dropped), ("bad lines", bad_lines)):
        if counter:
            parts = ", ".join(f"{name} {count:,}" for name, count in counter.most_common())
            say(f"{label}: {parts}")
    _say_duplicates(markers)
    if read_bytes:
        rate = read_bytes / 1e6 / seconds
        say(f"{format_bytes(read_bytes)} read in {format_seconds(seconds)}, {rate:.1f} MB/s")


def _say_duplicates(markers: list[CleanedMarker]) -> None:
    older = sum(marker.dropped.get(OLDER_COPY, 0) for marker in markers)
    equal = sum(marker.duplicate_texts for marker in markers)
    parts = []
    if older:
        parts.append(f"older copies of a page dropped: {older:,}")
    if equal and markers[0].settings.drop_duplicate_texts:
        parts.append(f"exact duplicate texts dropped: {equal:,}")
    elif equal:
        parts.append(
            f"exact duplicate texts kept: {equal:,} (cleaner.drop_duplicate_texts drops them)"
        )
    if parts:
        say(f"duplicates: {'; '.join(parts)}")


def _total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


if __name__ == "__main__":
    run_script(main)
