"""The cleaned-text format: its only writer and reader.

`cleaned_<stem>.txt` is UTF-8 in NFC. "\\n" ends an article and stands nowhere else; paragraphs
inside an article are divided by U+2029 PARAGRAPH SEPARATOR, so a line is an article. First comes
the title, then the lead, then the sections. `cleaned_<stem>.json` beside it is written last and
says that the text is whole and what it was made from. `cleaned_<stem>.pages` and
`cleaned_<stem>.duplicates` are the cleaner's own: by them it finds duplicates among all the texts,
and brings back what it dropped when the other copy goes.

Iterate over a file, or split at "\\n": `str.splitlines` also splits at U+2029.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from utils.errors import DataError
from utils.files import natural_key, write_json

PARAGRAPH_BREAK = "\u2029"
_PARAGRAPH_BREAK_BYTES = PARAGRAPH_BREAK.encode()
_PREFIX = "cleaned_"
_RERUN = "Run cleaner.py again; it redoes what is unfinished and keeps the rest."


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CleanerSettings(_Record):
    """What decides the text beside the input: another value makes another file."""

    min_characters: NonNegativeInt
    max_bad_share: float
    limit_articles: NonNegativeInt | None  # None: the whole file
    drop_duplicate_texts: bool

    def limit_reached(self, articles: int) -> bool:
        """Whether cleaning stops after so many, with the rest of the file unread."""
        return articles == self.limit_articles

    @property
    def without_limit(self) -> Self:
        """What decides which articles there are, but for an early end."""
        return self.model_copy(update={"limit_articles": None})

    @property
    def of_one_article(self) -> Self:
        """What decides an article, whatever other articles there are."""
        return self.without_limit.model_copy(update={"drop_duplicate_texts": False})


class CleanedMarker(_Record):
    """The done marker of one cleaned file: where it comes from, and what happened on the way."""

    format_version: Literal[2] = 2
    cleaner_version: int
    settings: CleanerSettings
    input_name: str
    input_bytes: NonNegativeInt
    input_modified_ns: int
    # XXH3-128, which finds changes at ten times the speed of SHA-256; None: the text is truncated,
    # the rest was not read
    input_xxh128: str | None
    truncated: bool  # whether it is only the text of the file's first articles
    output_bytes: NonNegativeInt
    output_sha256: str
    records: NonNegativeInt  # lines read, good and bad, without blank ones
    articles: NonNegativeInt  # records kept
    characters: NonNegativeInt  # code points of all articles, line ends not counted
    dropped: dict[str, int]  # reason -> records
    bad_lines: dict[str, int]  # kind -> lines
    rules: dict[str, int]  # cleaning rule -> articles it changed, duplicates included
    duplicate_texts: NonNegativeInt  # articles with the text of an earlier one, kept or dropped
    cleaned_sha256: str  # of the text before duplicates were dropped
    pages_sha256: str
    duplicates_sha256: str | None  # None: no duplicates were dropped, there is no such file
    compared: str | None  # what it was compared with for duplicates; None: nothing yet


class ArticleWriter:
    """Writes articles to an open binary file, and counts and hashes what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.articles = self.characters = self.size_bytes = 0

    def write_all(self, articles: Sequence[Sequence[str]]) -> list[bytes]:
        """Add articles, each as its title and paragraphs; returns their lines."""
        lines = [
            _PARAGRAPH_BREAK_BYTES.join([paragraph.encode() for paragraph in article]) + b"\n"
            for article in articles
        ]
        characters = sum(sum(map(len, article)) + len(article) - 1 for article in articles)
        self._write(b"".join(lines), len(lines), characters)
        return lines

    def write_lines(self, lines: Sequence[bytes]) -> None:
        """Add articles as the lines that they were in another file."""
        data = b"".join(lines)
        self._write(data, len(lines), len(data.decode()) - len(lines))

    def _write(self, data: bytes, articles: int, characters: int) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.articles += articles
        self.characters += characters
        self.size_bytes += len(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def text_path_of(cleaned_dir: Path, stem: str) -> Path:
    """Where the cleaned text of the raw file `stem` belongs."""
    return cleaned_dir / f"{_PREFIX}{stem}.txt"


def marker_path_of(text_path: Path) -> Path:
    return _beside(text_path, ".json")


def pages_path_of(text_path: Path) -> Path:
    """Where the index of a text's pages belongs."""
    return _beside(text_path, ".pages")


def duplicates_path_of(text_path: Path) -> Path:
    """Where the articles of a text belong that were dropped as duplicates."""
    return _beside(text_path, ".duplicates")


def _beside(text_path: Path, suffix: str) -> Path:
    return text_path.with_name(text_path.name.removesuffix(".txt") + suffix)


def stem_of(text_path: Path) -> str:
    """The raw file's stem: "enwiki_namespace_0_3" for cleaned_enwiki_namespace_0_3.txt."""
    return text_path.name.removeprefix(_PREFIX).removesuffix(".txt")


def text_files(cleaned_dir: Path) -> list[Path]:
    """Every cleaned text, finished or not, in natural numeric order."""
    return sorted(cleaned_dir.glob(f"{_PREFIX}*.txt"), key=natural_key)


def cleaned_files(cleaned_dir: Path) -> list[Path]:
    """The finished cleaned texts in natural numeric order: ..._2 before ..._10.

    Raises DataError if the folder is absent or empty, or if a text has no done marker.
    """
    if not cleaned_dir.is_dir():
        raise DataError(
            f"{cleaned_dir}: no such folder of cleaned text",
            "Run cleaner.py first, or set paths.cleaned_dir.",
        )
    texts = text_files(cleaned_dir)
    if not texts:
        raise DataError(
            f"{cleaned_dir}: holds no {_PREFIX}*.txt",
            "Run cleaner.py first, or set paths.cleaned_dir.",
        )
    unfinished = [path.name for path in texts if not marker_path_of(path).is_file()]
    if unfinished:
        raise DataError(f"{cleaned_dir}: unfinished, no marker: {', '.join(unfinished)}", _RERUN)
    return texts


def read_marker(text_path: Path) -> CleanedMarker:
    """The done marker of a cleaned text. Raises DataError if it is missing or broken."""
    path = marker_path_of(text_path)
    try:
        return CleanedMarker.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{text_path}: unfinished, {path.name} is missing", _RERUN) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{path}: not a valid marker: {where}: {first['msg']}", _RERUN) from None


def read_markers(cleaned_dir: Path, allow_truncated: bool) -> dict[Path, CleanedMarker]:
    """The markers of all finished texts, by path, in order.

    Raises DataError as `cleaned_files` and `read_marker` do, if texts were not all cleaned in the
    same way or not all compared for duplicates, and, unless `allow_truncated`, if any holds only
    the first articles of its file.
    """
    markers = {path: read_marker(path) for path in cleaned_files(cleaned_dir)}
    ways: dict[tuple[int, CleanerSettings], str] = {}
    for path, marker in markers.items():
        ways.setdefault((marker.cleaner_version, marker.settings.without_limit), path.name)
    if len(ways) > 1:
        raise DataError(
            f"{cleaned_dir}: {' and '.join(ways.values())} were cleaned by different versions of"
            " the cleaner, or with different settings",
            "Run cleaner.py, which redoes what is out of date; delete what has no raw file.",
        )
    _check_compared(cleaned_dir, markers)
    truncated = [path.name for path, marker in markers.items() if marker.truncated]
    if truncated and not allow_truncated:
        raise DataError(
            f"{cleaned_dir}: cleaner.py --test stopped before the end of {', '.join(truncated)}",
            "Run cleaner.py without --test, or use --test here as well.",
        )
    return markers


def _check_compared(cleaned_dir: Path, markers: dict[Path, CleanedMarker]) -> None:
    comparisons = {marker.compared for marker in markers.values()}
    if len(comparisons) == 1 and None not in comparisons:
        return
    new = [path.name for path, marker in markers.items() if marker.compared is None]
    raise DataError(
        f"{cleaned_dir}: not yet compared for duplicates with all others:"
        f" {', '.join(new or [path.name for path in markers])}",
        _RERUN,
    )


def write_marker(text_path: Path, marker: CleanedMarker) -> None:
    write_json(marker_path_of(text_path), marker.model_dump())


def changed_since(cleaned_dir: Path, digests: Mapping[str, str]) -> list[str]:
    """The texts, by stem, whose marker has another SHA-256 than `digests` (stem -> SHA-256).

    Only markers are read. A text that is not there, or is not finished, is none of them.
    """
    paths = {stem: text_path_of(cleaned_dir, stem) for stem in digests}
    return [
        stem
        for stem, path in paths.items()
        if marker_path_of(path).is_file() and read_marker(path).output_sha256 != digests[stem]
    ]


def read_articles(text_path: Path) -> Iterator[str]:
    """The articles in order, one string each, paragraphs divided by "\\n", no newline at the end.

    Raises DataError naming the line where the file is not UTF-8 or ends in the middle.
    """
    with text_path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield article_of(line, text_path, number)


def article_of(line: bytes, text_path: Path, number: int) -> str:
    """The article that is line `number` of `text_path`, as `read_articles` gives it."""
    if not line.endswith(b"\n"):
        raise DataError(f"{text_path}:{number}: the last article is cut off", _RERUN)
    try:
        text = line[:-1].decode()
    except UnicodeDecodeError:
        raise DataError(f"{text_path}:{number}: not UTF-8 text", _RERUN) from None
    return text.replace(PARAGRAPH_BREAK, "\n")
