"""Cleaning one raw file into one cleaned text and its done marker."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils.articles import (
    ArticleWriter,
    CleanedMarker,
    CleanerSettings,
    duplicates_path_of,
    marker_path_of,
    read_marker,
    text_path_of,
    write_marker,
)
from utils.cleaning.duplicates.dropped_lines import REPORT_BYTES
from utils.cleaning.duplicates.pages import PageIndex, read_pages
from utils.cleaning.inputs.raw_files import RawFile
from utils.cleaning.inputs.raw_reader import RawReader, open_raw
from utils.cleaning.records.wikipedia import Article, BadLine, Dropped, read_record
from utils.cleaning.rules.text_cleaner import CleanText, clean_all
from utils.cleaning.rules.text_rules import CLEANER_VERSION
from utils.errors import DataError
from utils.files import atomic_write

BATCH_CHARACTERS = 1 << 19  # cleaned at once: enough to make one article's share of calls small
REPORT_LINES = 1 << 14  # between two calls of `report`, where they are few bytes as stored
# That many bad lines and not one good, where less than half may be bad: the file is of another
# format and need not be read to its end.
_HOPELESS_LINES = 1_000
_HOPELESS_SHARE = 0.5


@dataclass
class Counts:
    """What happened to the lines of one file."""

    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad_lines: Counter[str] = field(default_factory=Counter)
    first_bad: dict[str, str] = field(default_factory=dict)  # kind -> "file:line: detail"
    rules: Counter[str] = field(default_factory=Counter)

    def bad(self, place: str, error: BadLine) -> None:
        self.bad_lines[error.kind] += 1
        self.first_bad.setdefault(error.kind, f"{place}: {error.detail}")

    @property
    def lost(self) -> int:
        """Bad lines that may have been articles; a blank line was none."""
        return self.bad_lines.total() - self.bad_lines["blank"]


@dataclass(frozen=True)
class CleanedFile:
    """The result of cleaning one file."""

    marker: CleanedMarker
    first_bad: dict[str, str]
    warnings: list[str]  # of what was left out of an archive


def reason_to_clean(raw: RawFile, cleaned_dir: Path, settings: CleanerSettings) -> str | None:
    """Why `raw` has to be cleaned, or None if its text is finished and current.

    A text of the whole file is current for a run with any limit: a test destroys nothing.
    """
    text_path = text_path_of(cleaned_dir, raw.stem)
    if not text_path.exists() and not marker_path_of(text_path).exists():
        return "new"
    reason = reason_not_current(text_path, settings)
    return "the raw file changed" if reason is None and _input_changed(raw, text_path) else reason


def reason_not_current(text_path: Path, settings: CleanerSettings) -> str | None:
    """Why a text is not what these settings make of its raw file as it was, or None."""
    try:
        marker = read_marker(text_path)
        text_bytes = text_path.stat().st_size
    except (DataError, FileNotFoundError):
        return "unfinished"
    if marker.cleaner_version != CLEANER_VERSION:
        return "the cleaner changed"
    if marker.settings.of_one_article != settings.of_one_article:
        return "the settings changed"
    limit = marker.settings.limit_articles
    if marker.truncated and limit != settings.limit_articles:
        return f"it was stopped after {limit:,} articles"
    if text_bytes != marker.output_bytes:
        return "its text was changed"
    try:
        read_pages(text_path, marker)
    except DataError:
        return "the index of its pages is damaged"
    if marker.duplicates_sha256 is not None and not duplicates_path_of(text_path).exists():
        return "the duplicates dropped from it are missing"
    return None


def _input_changed(raw: RawFile, text_path: Path) -> bool:
    marker = read_marker(text_path)
    stat = raw.path.stat()
    size_bytes = raw.member.stored_bytes if raw.member else stat.st_size
    if (raw.name, size_bytes) != (marker.input_name, marker.input_bytes):
        return True
    if stat.st_mtime_ns == marker.input_modified_ns:
        return False
    if marker.input_xxh128 is None:
        return True
    with RawReader(raw) as reader:
        return reader.digest() != marker.input_xxh128


def clean_file(
    raw: RawFile,
    cleaned_dir: Path,
    settings: CleanerSettings,
    report: Callable[[int, int], None],
) -> CleanedFile:
    """Write `raw`'s articles, then the marker that says they are whole.

    `report(bytes_read, articles)` is called every REPORT_BYTES or REPORT_LINES, and may raise to
    stop.
    Raises DataError if the file cannot be read or too many lines are bad, and OSError naming the
    text if it cannot be written. An older text may stay then, but without its marker, and so as
    one that is not finished; where `raw` cannot be opened, all stays as it was.
    """
    text_path = text_path_of(cleaned_dir, raw.stem)
    counts = Counts()
    with open_raw(raw) as reader:  # which makes DataErrors of its own OSErrors
        try:
            marker_path_of(text_path).unlink(missing_ok=True)  # of an older text
            duplicates_path_of(text_path).unlink(missing_ok=True)
            index = PageIndex()
            with atomic_write(text_path) as file:
                writer = ArticleWriter(file)
                _clean_lines(reader, writer, index, settings, counts, report)
                _check_bad_share(raw, counts, settings.max_bad_share)
            pages_sha256 = index.save(text_path)
            marker = _marker_of(reader, writer, pages_sha256, settings, counts)
            write_marker(text_path, marker)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(text_path)) from error
    return CleanedFile(marker, counts.first_bad, reader.warnings)


def _marker_of(
    reader: RawReader,
    writer: ArticleWriter,
    pages_sha256: str,
    settings: CleanerSettings,
    counts: Counts,
) -> CleanedMarker:
    truncated = settings.limit_reached(writer.articles)
    return CleanedMarker(
        cleaner_version=CLEANER_VERSION,
        settings=settings,
        input_name=reader.raw.name,
        input_bytes=reader.size_bytes,
        input_modified_ns=reader.modified_ns,
        input_xxh128=None if truncated else reader.digest(),
        truncated=truncated,
        output_bytes=writer.size_bytes,
        output_sha256=writer.sha256,
        records=counts.records,
        articles=writer.articles,
        characters=writer.characters,
        dropped=_sorted(counts.dropped),
        bad_lines=_sorted(counts.bad_lines),
        rules=_sorted(counts.rules),
        duplicate_texts=0,
        cleaned_sha256=writer.sha256,
        pages_sha256=pages_sha256,
        duplicates_sha256=None,
        compared=None,
    )


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def _clean_lines(
    reader: RawReader,
    writer: ArticleWriter,
    index: PageIndex,
    settings: CleanerSettings,
    counts: Counts,
    report: Callable[[int, int], None],
) -> None:
    batch = _Batch(writer, index, settings, counts)
    next_report_bytes = 0
    for number, line in enumerate(reader):
        # by lines, too: a megabyte may unpack to a gigabyte
        if reader.bytes_read >= next_report_bytes or number % REPORT_LINES == 0:
            next_report_bytes = reader.bytes_read + REPORT_BYTES
            report(reader.bytes_read, writer.articles)
        try:
            record = read_record(line)
        except BadLine as error:
            counts.bad(reader.place, error)
            counts.records += error.kind != "blank"
            if counts.lost == counts.records == _HOPELESS_LINES:
                _check_beginning(reader.raw, counts, settings.max_bad_share)
            continue
        finally:
            del line  # it may have megabytes, and so may the next
        counts.records += 1
        if isinstance(record, Dropped):
            counts.dropped[record.reason] += 1
        else:
            batch.add(record)
        if settings.limit_reached(writer.articles):
            break
    batch.write()
    report(reader.bytes_read, writer.articles)


def reason_too_short(cleaned: CleanText, min_characters: int) -> str | None:
    """Why an article is dropped after it was cleaned, as it is counted, or None."""
    if not cleaned.lines:
        return "empty"
    characters = len(cleaned.title) + sum(map(len, cleaned.lines)) + len(cleaned.lines)
    return "too_short" if characters < min_characters else None


class _Batch:
    """Articles that wait to be cleaned together, which costs less than one at a time."""

    def __init__(
        self, writer: ArticleWriter, index: PageIndex, settings: CleanerSettings, counts: Counts
    ) -> None:
        self._writer, self._index = writer, index
        self._settings, self._counts = settings, counts
        self._articles: list[Article] = []
        self._characters = 0

    def add(self, article: Article) -> None:
        """Take one more; write all if they are enough, or may be all that are wanted."""
        self._articles.append(article)
        self._characters += sum(map(len, article.lines))
        is_last = self._settings.limit_reached(self._writer.articles + len(self._articles))
        if self._characters >= BATCH_CHARACTERS or is_last:
            self.write()

    def write(self) -> None:
        """Clean and write those that wait, and count what happened to them."""
        plain = {n for n, article in enumerate(self._articles) if not article.is_parsed}
        texts = clean_all([(article.title, article.lines) for article in self._articles], plain)
        kept: list[list[str]] = []
        pages: list[bytes] = []
        rules: list[str] = []
        for article, cleaned in zip(self._articles, texts, strict=True):
            if reason := reason_too_short(cleaned, self._settings.min_characters):
                self._counts.dropped[reason] += 1
            else:
                rules += cleaned.rules
                kept.append([cleaned.title, *cleaned.lines])
                pages.append(article.page)
        self._counts.rules.update(rules)
        for page, line in zip(pages, self._writer.write_all(kept), strict=True):
            self._index.add(page, line)
        self._articles.clear()
        self._characters = 0


def _check_beginning(raw: RawFile, counts: Counts, max_bad_share: float) -> None:
    """Raises DataError where good lines are not to be expected after so many bad ones."""
    if max_bad_share < _HOPELESS_SHARE:
        raise _too_many_bad(raw, counts, max_bad_share, "the first ")


def _check_bad_share(raw: RawFile, counts: Counts, max_bad_share: float) -> None:
    if counts.lost > max_bad_share * counts.records:
        raise _too_many_bad(raw, counts, max_bad_share)


def _too_many_bad(raw: RawFile, counts: Counts, max_bad_share: float, of: str = "") -> DataError:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.bad_lines.most_common())
    firsts = "\n".join(f"  first {kind}: {first}" for kind, first in counts.first_bad.items())
    return DataError(
        f"{raw}: {counts.lost:,} of {of}{counts.records:,} lines are no records ({kinds})\n"
        f"{firsts}",
        f"cleaner.max_bad_share allows {max_bad_share:.1%}. The file may be damaged, or of another"
        " format.",
    )
