"""The cleaned-text format: its only writer and reader.

`cleaned_<stem>.txt` is UTF-8 in NFC. "\\n" ends an article and stands nowhere else; paragraphs
inside an article are divided by U+2029 PARAGRAPH SEPARATOR, so a line is an article. First comes
the title, then the lead, then the sections. `cleaned_<stem>.json` beside it is written last and
says that the text is whole and what it was made from.

Iterate over a file, or split at "\\n": `str.splitlines` also splits at U+2029.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from utils.errors import DataError
from utils.files import natural_key, write_json

PARAGRAPH_BREAK = "\u2029"
_PREFIX = "cleaned_"
_RERUN = "Run cleaner.py again; it redoes what is unfinished and keeps the rest."


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CleanerSettings(_Record):
    """What decides the text beside the input: another value makes another file."""

    min_characters: NonNegativeInt
    max_bad_share: float
    limit_articles: NonNegativeInt | None  # None: the whole file

    def limit_reached(self, articles: int) -> bool:
        """Whether cleaning stops after so many, with the rest of the file unread."""
        return articles == self.limit_articles

    @property
    def without_limit(self) -> Self:
        """What decides each article, however many there are."""
        return self.model_copy(update={"limit_articles": None})


class CleanedMarker(_Record):
    """The done marker of one cleaned file: where it comes from, and what happened on the way."""

    format_version: Literal[1] = 1
    cleaner_version: int
    settings: CleanerSettings
    input_name: str
    input_bytes: NonNegativeInt
    input_modified_ns: int
    input_sha256: str | None  # None: the text is truncated, the rest was not read
    output_bytes: NonNegativeInt
    output_sha256: str
    records: NonNegativeInt  # lines read, good and bad, without blank ones
    articles: NonNegativeInt  # records kept
    characters: NonNegativeInt  # code points of all articles, line ends not counted
    dropped: dict[str, int]  # reason -> records
    bad_lines: dict[str, int]  # kind -> lines
    rules: dict[str, int]  # cleaning rule -> articles it changed

    @property
    def truncated(self) -> bool:
        """Whether it is only the text of the file's first articles."""
        return self.settings.limit_reached(self.articles)


class ArticleWriter:
    """Writes articles to an open binary file, and counts and hashes what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.articles = self.characters = self.size_bytes = 0

    def write(self, text: str) -> None:
        """Add one article whose paragraphs are divided by "\\n"."""
        line = text.replace("\n", PARAGRAPH_BREAK).encode() + b"\n"
        self._file.write(line)
        self._digest.update(line)
        self.articles += 1
        self.characters += len(text)
        self.size_bytes += len(line)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def text_path_of(cleaned_dir: Path, stem: str) -> Path:
    """Where the cleaned text of the raw file `stem` belongs."""
    return cleaned_dir / f"{_PREFIX}{stem}.txt"


def marker_path_of(text_path: Path) -> Path:
    return text_path.with_name(text_path.name.removesuffix(".txt") + ".json")


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
    same way, and, unless `allow_truncated`, if any holds only the first articles of its file.
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
    truncated = [path.name for path, marker in markers.items() if marker.truncated]
    if truncated and not allow_truncated:
        raise DataError(
            f"{cleaned_dir}: cleaner.py --test stopped before the end of {', '.join(truncated)}",
            "Run cleaner.py without --test, or use --test here as well.",
        )
    return markers


def write_marker(text_path: Path, marker: CleanedMarker) -> None:
    write_json(marker_path_of(text_path), marker.model_dump())


def read_articles(text_path: Path) -> Iterator[str]:
    """The articles in order, one string each, paragraphs divided by "\\n", no newline at the end.

    Raises DataError naming the line where the file is not UTF-8 or ends in the middle.
    """
    with text_path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                raise DataError(f"{text_path}:{number}: the last article is cut off", _RERUN)
            try:
                text = line[:-1].decode()
            except UnicodeDecodeError:
                raise DataError(f"{text_path}:{number}: not UTF-8 text", _RERUN) from None
            yield text.replace(PARAGRAPH_BREAK, "\n")
