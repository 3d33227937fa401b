"""Cleaning one raw file into one cleaned text and its done marker."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils.articles import (
    ArticleWriter,
    CleanedMarker,
    CleanerSettings,
    marker_path_of,
    read_marker,
    text_path_of,
    write_marker,
)
from utils.cleaning.raw_files import RawFile, RawReader
from utils.cleaning.text_rules import CLEANER_VERSION, clean, clean_title
from utils.cleaning.wikipedia import Article, BadLine, Dropped, read_record
from utils.errors import DataError
from utils.files import atomic_write, sha256_of

REPORT_BYTES = 1 << 20  # between two calls of `report`
_HOPELESS_LINES = 1_000  # bad ones, and not one good: another format, so do not read it to its end


@dataclass
class Counts:
    """What happened to the lines of one file."""

    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad_lines: Counter[str] = field(default_factory=Counter)
    first_bad: dict[str, str] = field(default_factory=dict)  # kind -> "file:line: detail"
    rules: Counter[str] = field(default_factory=Counter)

    def bad(self, path: Path, number: int, error: BadLine) -> None:
        self.bad_lines[error.kind] += 1
        self.first_bad.setdefault(error.kind, f"{path}:{number}: {error.detail}")

    @property
    def lost(self) -> int:
        """Bad lines that may have been articles; a blank line was none."""
        return self.bad_lines.total() - self.bad_lines["blank"]


@dataclass(frozen=True)
class CleanedFile:
    """The result of cleaning one file."""

    marker: CleanedMarker
    first_bad: dict[str, str]


def reason_to_clean(raw: RawFile, cleaned_dir: Path, settings: CleanerSettings) -> str | None:
    """Why `raw` has to be cleaned, or None if its text is finished and current.

    A text of the whole file is current for a run with any limit: a test destroys nothing.
    """
    text_path = text_path_of(cleaned_dir, raw.stem)
    if not text_path.exists() and not marker_path_of(text_path).exists():
        return "new"
    try:
        marker = read_marker(text_path)
        text_bytes = text_path.stat().st_size
    except (DataError, FileNotFoundError):
        return "unfinished"
    if marker.cleaner_version != CLEANER_VERSION:
        return "the cleaner changed"
    if marker.settings.without_limit != settings.without_limit:
        return "the settings changed"
    if marker.truncated and marker.settings != settings:
        return f"it was stopped after {marker.articles:,} articles"
    if text_bytes != marker.output_bytes:
        return "its text was changed"
    return "the raw file changed" if _input_changed(raw, marker) else None


def _input_changed(raw: RawFile, marker: CleanedMarker) -> bool:
    stat = raw.path.stat()
    if (raw.path.name, stat.st_size) != (marker.input_name, marker.input_bytes):
        return True
    if stat.st_mtime_ns == marker.input_modified_ns:
        return False
    return marker.input_sha256 is None or sha256_of(raw.path) != marker.input_sha256


def clean_file(
    raw: RawFile,
    cleaned_dir: Path,
    settings: CleanerSettings,
    report: Callable[[int, int], None],
) -> CleanedFile:
    """Write `raw`'s articles, then the marker that says they are whole.

    `report(bytes_read, articles)` is called about every REPORT_BYTES, and may raise to stop.
    Raises DataError if the file cannot be read or too many lines are bad, and OSError naming the
    text if it cannot be written; leaves nothing under a final name then.
    """
    text_path = text_path_of(cleaned_dir, raw.stem)
    counts = Counts()
    with RawReader(raw) as reader:  # which makes DataErrors of its own OSErrors
        try:
            marker_path_of(text_path).unlink(missing_ok=True)  # of an older text
            with atomic_write(text_path) as file:
                writer = ArticleWriter(file)
                _clean_lines(reader, writer, settings, counts, report)
                _check_bad_share(raw, counts, settings.max_bad_share)
            marker = _marker_of(reader, writer, settings, counts)
            write_marker(text_path, marker)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(text_path)) from error
    return CleanedFile(marker, counts.first_bad)


def _marker_of(
    reader: RawReader, writer: ArticleWriter, settings: CleanerSettings, counts: Counts
) -> CleanedMarker:
    return CleanedMarker(
        cleaner_version=CLEANER_VERSION,
        settings=settings,
        input_name=reader.raw.path.name,
        input_bytes=reader.stat.st_size,
        input_modified_ns=reader.stat.st_mtime_ns,
        input_sha256=None if settings.limit_reached(writer.articles) else reader.sha256(),
        output_bytes=writer.size_bytes,
        output_sha256=writer.sha256,
        records=counts.records,
        articles=writer.articles,
        characters=writer.characters,
        dropped=_sorted(counts.dropped),
        bad_lines=_sorted(counts.bad_lines),
        rules=_sorted(counts.rules),
    )


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def _clean_lines(
    reader: RawReader,
    writer: ArticleWriter,
    settings: CleanerSettings,
    counts: Counts,
    report: Callable[[int, int], None],
) -> None:
    next_report_bytes = 0
    for number, line in enumerate(reader, start=1):
        if reader.bytes_read >= next_report_bytes:
            next_report_bytes = reader.bytes_read + REPORT_BYTES
            report(reader.bytes_read, writer.articles)
        try:
            record = read_record(line)
        except BadLine as error:
            counts.bad(reader.raw.path, number, error)
            counts.records += error.kind != "blank"
            if counts.lost == counts.records >= _HOPELESS_LINES:
                break
            continue
        counts.records += 1
        text = _cleaned(record, settings.min_characters, counts)
        if text:
            writer.write(text)
            if settings.limit_reached(writer.articles):
                break
    report(reader.bytes_read, writer.articles)


def _cleaned(record: Article | Dropped, min_characters: int, counts: Counts) -> str | None:
    """The article's text, or None after counting why it is dropped."""
    if isinstance(record, Dropped):
        counts.dropped[record.reason] += 1
        return None
    fired: set[str] = set()
    body = clean(record.text, fired)
    text = f"{clean_title(record.title)}\n{body}"
    if not body or len(text) < min_characters:
        counts.dropped["too_short" if body else "empty"] += 1
        return None
    counts.rules.update(fired)
    return text


def _check_bad_share(raw: RawFile, counts: Counts, max_bad_share: float) -> None:
    if counts.lost <= max_bad_share * counts.records:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.bad_lines.most_common())
    firsts = "\n".join(f"  first {kind}: {first}" for kind, first in counts.first_bad.items())
    raise DataError(
        f"{raw.path}: {counts.lost:,} of {counts.records:,} lines are no records ({kinds})\n"
        f"{firsts}",
        f"cleaner.max_bad_share allows {max_bad_share:.1%}. The file may be damaged, or of another"
        " format.",
    )
