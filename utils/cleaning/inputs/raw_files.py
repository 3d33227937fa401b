"""Raw dump files: which ones a folder holds, each of them one cleaned text to be."""

import importlib.util
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from utils.cleaning.inputs.raw_names import (
    ACCEPTED,
    LINE_SUFFIXES,
    PARQUET_SUFFIX,
    RENAME_JSON,
    ZIP_SUFFIX,
    MemberFilter,
    Name,
    is_of_wikiextractor,
    may_hold_articles,
    shown,
    some_of,
    split_name,
)
from utils.cleaning.inputs.zip_files import ZipMember, member_of, read_directory
from utils.errors import DataError
from utils.files import natural_key
from utils.terminal import warn

MAX_LINE_BYTES = 10 << 20  # bounds a worker's memory; a page's source is at most 2 MiB
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_STEM_BYTES = 200  # file systems take names of 255 bytes
_HINT = "Put the dump there, unpacked if it is an archive of another kind, or set paths.raw_dir."
_WIKIEXTRACTOR = "`wikiextractor --json -o - dump.xml.bz2 > dump.jsonl`"
_XML_HINT = (
    "A MediaWiki XML dump holds wikitext: take Structured Contents or wikimedia/wikipedia instead,"
    f" or turn it into JSON lines: {_WIKIEXTRACTOR}."
)
_WIKIEXTRACTOR_HINT = f"Let wikiextractor write one file of JSON lines: {_WIKIEXTRACTOR}."
_SEARCHED_ENTRIES = 1_000  # of a folder inside the folder of raw files


@dataclass(frozen=True)
class RawFile:
    """What becomes one cleaned text; `stem` is its name without any suffix of ours.

    That is a file of JSON lines; one member of a zip archive, so that several workers can share
    an archive; a whole tar archive, which can only be read from front to back, with its members
    one after the other; or a Parquet file.
    """

    path: Path
    stem: str
    format: str  # one of raw_names' LINE_SUFFIXES, TAR_SUFFIX or PARQUET_SUFFIX
    compression: str  # "", ".gz", ".zst" or ".bz2"
    size_bytes: int  # as stored, when it was found
    member: ZipMember | None = None

    @property
    def name(self) -> str:
        """The file's name, "dump.zip!part_0.jsonl" for a member of an archive."""
        return f"{self.path.name}!{self.member.name}" if self.member else self.path.name

    @property
    def packing(self) -> str:
        """What it is packed in, by its suffix: ".gz", ".tar.gz", ".zip"; "" for plain lines."""
        if self.member:
            return ZIP_SUFFIX
        return ("" if self.format in LINE_SUFFIXES else self.format) + self.compression

    def __str__(self) -> str:
        return str(self.path.parent / self.name)


def find_raw_files(folder: Path) -> list[RawFile]:
    """The raw files of a folder in natural numeric order: ..._2 before ..._10.

    Warns of what looks like a dump and is not read, here or inside archives. Raises DataError if
    the folder is absent or holds no raw file, if one is a broken link, if an archive holds none or
    cannot be unpacked, or if two raw files have one stem: they would be cleaned into the same text.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder of raw files",
            f"Put the dump there ({ACCEPTED}), or set paths.raw_dir.",
        )
    entries = sorted(folder.iterdir(), key=natural_key)
    by_stem: dict[str, RawFile] = {}
    for raw in (raw for path in entries for raw in _raw_files_of(path)):
        if raw.stem in by_stem:
            raise DataError(
                f"{folder}: {by_stem[raw.stem].name} and {raw.name} have one stem, {raw.stem}, and"
                " would be cleaned into one file",
                "Move one of them away, or rename it.",
            )
        by_stem[raw.stem] = raw
    if not by_stem:
        raise _none_found(folder, entries)
    paths = {raw.path for raw in by_stem.values()}
    passed_over = [name for path in entries if path not in paths and (name := _dump_at(path))]
    if passed_over:
        warn(
            f"{folder}: not read: {some_of(passed_over)}. Put dumps there themselves, in a format"
            f" that is read ({ACCEPTED}); {RENAME_JSON}"
        )
    return list(by_stem.values())


def _none_found(folder: Path, entries: Sequence[Path]) -> DataError:
    names = [
        f"{shown(path.name)}{'/' * path.is_dir()}"
        for path in entries
        if not path.name.startswith(".")
    ]
    dumps = [name for path in entries if (name := _dump_at(path))]
    hint = _HINT
    if any(is_of_wikiextractor(Path(name).name) for name in dumps):
        hint = _WIKIEXTRACTOR_HINT
    elif any(".xml" in name.lower() for name in names):
        hint = _XML_HINT
    holds = f"only {some_of(dumps or names)}" if names else "nothing"
    return DataError(f"{folder}: no raw files ({ACCEPTED}); it holds {holds}", hint)


def _dump_at(path: Path) -> str | None:
    """The name of what looks like a dump: that of the file, or of the first one in the folder."""
    if path.name.startswith("."):
        return None
    files = islice(path.rglob("*"), _SEARCHED_ENTRIES) if path.is_dir() else [path]
    found = (file for file in files if may_hold_articles(file.name) and file.is_file())
    file = next(found, None)
    return shown(str(file.relative_to(path.parent))) if file else None


def _raw_files_of(path: Path) -> Iterator[RawFile]:
    name = split_name(path.name)
    if not name.format or path.is_dir():
        return
    if not path.exists():
        raise DataError(
            f"{path}: a broken link to {shown(str(path.readlink()))}", "Mend it, or delete it."
        )
    if not path.is_file():
        return
    if name.format == ZIP_SUFFIX:
        yield from _raw_members(path)
        return
    if name.format == PARQUET_SUFFIX and importlib.util.find_spec("pyarrow") is None:
        raise DataError(
            f"{path}: reading Parquet needs the package pyarrow",
            "pip install pyarrow (the extra `parquet` of pyproject.toml).",
        )
    _check_stem(name.stem, shown(str(path)), "Rename it.")
    yield RawFile(path, name.stem, name.format, name.compression, path.stat().st_size)


def _raw_members(archive: Path) -> list[RawFile]:
    """The members of a zip archive that hold JSON lines."""
    members = MemberFilter(archive)
    raw_files = [
        _raw_member(archive, info, name)
        for info in read_directory(archive)
        if (name := members.name_of(info.filename))
    ]
    members.check_found()
    if members.warning:
        warn(members.warning)
    return sorted(raw_files, key=lambda raw: natural_key(Path(raw.stem)))


def _raw_member(archive: Path, info: zipfile.ZipInfo, name: Name) -> RawFile:
    member = member_of(archive, info, shown(info.filename))
    _check_stem(name.stem, f"{archive}!{member.name}", "Unpack and rename it.")
    return RawFile(archive, name.stem, name.format, name.compression, member.stored_bytes, member)


def _check_stem(stem: str, where: str, hint: str) -> None:
    if not stem.isprintable() or len(stem.encode()) > _MAX_STEM_BYTES:
        raise DataError(f"{where}: a text cannot be named after it", hint)
