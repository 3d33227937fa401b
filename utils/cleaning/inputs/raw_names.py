"""What a file is by its name: the formats that can be cleaned, and those inside an archive."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.errors import DataError

LINE_SUFFIXES = (".jsonl", ".ndjson", ".json-lines")
COMPRESSION_SUFFIXES = (".gz", ".zst", ".bz2")
ZIP_SUFFIX = ".zip"
TAR_SUFFIX = ".tar"
PARQUET_SUFFIX = ".parquet"
ACCEPTED = (
    f"{', '.join(LINE_SUFFIXES)} or {TAR_SUFFIX}, plain or with {', '.join(COMPRESSION_SUFFIXES)};"
    f" {ZIP_SUFFIX}; {PARQUET_SUFFIX}"
)
RENAME_JSON = "a .json file with a record on each line must be named .jsonl."
_SHORT_TARS = {".tgz": ".gz", ".tzst": ".zst", ".tbz2": ".bz2"}
_CONTAINERS = (ZIP_SUFFIX, TAR_SUFFIX, PARQUET_SUFFIX)
_NOT_READ = (".7z", ".rar", ".xz", ".lz4", ".lzma", ".json", ".xml", *COMPRESSION_SUFFIXES)
_WIKIEXTRACTOR_NAME = re.compile("wiki_[0-9]{2,}")
_OF_ANOTHER_SYSTEM = "__MACOSX"  # macOS keeps attributes there, under the names of the files
_SHOWN_NAMES = 3
_SHOWN_CHARACTERS = 200


class Name(NamedTuple):
    """A file's name taken apart; `format` is one of the suffixes above, "" for what is not ours."""

    stem: str
    format: str
    compression: str  # "" or one of COMPRESSION_SUFFIXES


def split_name(name: str) -> Name:
    """The stem of a name without folders, and what its suffixes, in any case, say."""
    if name.startswith("."):
        return Name(name, "", "")
    short = _suffix(name, _SHORT_TARS)
    if short:
        return Name(_tar_stem(name[: -len(short)]), TAR_SUFFIX, _SHORT_TARS[short])
    compression = _suffix(name, COMPRESSION_SUFFIXES)
    rest = name[: len(name) - len(compression)]
    format_ = _suffix(rest, (*LINE_SUFFIXES, *_CONTAINERS))
    stem = rest[: len(rest) - len(format_)]
    if not stem or (compression and format_ in (ZIP_SUFFIX, PARQUET_SUFFIX)):
        return Name(name, "", "")
    return Name(_tar_stem(stem) if format_ == TAR_SUFFIX else stem, format_, compression)


def _suffix(name: str, suffixes: Iterable[str]) -> str:
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")


def may_hold_articles(name: str) -> bool:
    """Whether a file that is not read, or not where it stands, looks like a dump."""
    if name.startswith("."):
        return False
    return bool(split_name(name).format or _suffix(name, _NOT_READ) or is_of_wikiextractor(name))


def is_of_wikiextractor(name: str) -> bool:
    """Whether a file is named as wikiextractor names its output, such as AA/wiki_00."""
    return _WIKIEXTRACTOR_NAME.fullmatch(name) is not None


def _tar_stem(stem: str) -> str:
    """Of `enwiki-NS0-20240101-ENTERPRISE-HTML.json`, the part in front of what it tells twice."""
    return stem[: len(stem) - len(_suffix(stem, (*LINE_SUFFIXES, ".json")))] or stem


def shown(name: str) -> str:
    """A name out of an archive, safe to be shown: anything can stand there."""
    safe = "".join(sign if sign.isprintable() else "?" for sign in name[:_SHOWN_CHARACTERS])
    return safe if len(name) <= _SHOWN_CHARACTERS else f"{safe}..."


def some_of(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:_SHOWN_NAMES]) + ", ..." * (len(names) > _SHOWN_NAMES)


class MemberFilter:
    """Finds the members of an archive that hold JSON lines, and remembers what else is there."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._found = False
        self._passed_over: list[str] = []  # of what may hold articles, the first few names
        self._others: list[str] = []

    def name_of(self, member: str) -> Name | None:
        """The name, without its folders, of a member with JSON lines; None for any other."""
        *folders, last = member.replace("\\", "/").split("/")
        name = split_name(last)
        if _OF_ANOTHER_SYSTEM in folders or last.startswith("."):
            return None
        if name.format in LINE_SUFFIXES:
            self._found = True
            return name
        names = self._passed_over if may_hold_articles(last) else self._others
        if len(names) <= _SHOWN_NAMES:
            names.append(shown(member))
        return None

    @property
    def warning(self) -> str | None:
        """What was not read though there may be articles in it."""
        if not self._passed_over:
            return None
        return (
            f"{self._archive}: not read of it: {some_of(self._passed_over)}. Unpack the archive and"
            f" what is packed inside it; {RENAME_JSON}"
        )

    def check_found(self) -> None:
        """Raises DataError if there was no member to read."""
        if not self._found:
            names = [*self._passed_over, *self._others]
            raise DataError(
                f"{self._archive}: no member is {', '.join(LINE_SUFFIXES)}, plain or with"
                f" {', '.join(COMPRESSION_SUFFIXES)}; it holds {some_of(names) or 'no files'}",
                "Unpack it if what it holds can be cleaned; else move it away.",
            )
