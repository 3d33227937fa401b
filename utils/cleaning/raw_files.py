"""Raw dump files: finding them, and reading their lines as a stream, compressed or not."""

import bz2
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import zstandard

from utils.errors import DataError
from utils.files import natural_key

LINE_SUFFIXES = (".jsonl", ".ndjson", ".json-lines")
COMPRESSION_SUFFIXES = (".gz", ".zst", ".bz2")
MAX_LINE_BYTES = 32 << 20  # Wikipedia's longest records are a few MB; bounds a worker's memory
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BUFFER_BYTES = 1 << 20
_ZSTD_CHUNK_BYTES = 1 << 15


@dataclass(frozen=True)
class RawFile:
    """One file of JSON lines; `stem` is its name without any suffix of ours."""

    path: Path
    stem: str
    compression: str  # "", ".gz", ".zst" or ".bz2"
    size_bytes: int  # as stored, when it was found


def find_raw_files(folder: Path) -> list[RawFile]:
    """The raw files of a folder in natural numeric order: ..._2 before ..._10.

    Raises DataError if the folder is absent or holds none, or if two files have one stem: they
    would be cleaned into the same text.
    """
    suffixes = f"{', '.join(LINE_SUFFIXES)}, plain or with {', '.join(COMPRESSION_SUFFIXES)}"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder of raw files",
            f"Put the dump there ({suffixes}), or set paths.raw_dir.",
        )
    paths = sorted((path for path in folder.iterdir() if path.is_file()), key=natural_key)
    by_stem: dict[str, RawFile] = {}
    for path in paths:
        raw = _as_raw_file(path)
        if raw is None:
            continue
        if raw.stem in by_stem:
            raise DataError(
                f"{folder}: {by_stem[raw.stem].path.name} and {path.name} have one stem,"
                f" {raw.stem}, and would be cleaned into one file",
                "Move one of them away, or rename it.",
            )
        by_stem[raw.stem] = raw
    if not by_stem:
        names = [path.name for path in paths if not path.name.startswith(".")]
        holds = f"only {', '.join(names[:3])}{', ...' if names[3:] else ''}" if names else "nothing"
        raise DataError(
            f"{folder}: no raw files ({suffixes}); it holds {holds}",
            "Put the dump there, unpacked if it is an archive, or set paths.raw_dir.",
        )
    return list(by_stem.values())


def _as_raw_file(path: Path) -> RawFile | None:
    name = path.name.lower()
    compression = next((suffix for suffix in COMPRESSION_SUFFIXES if name.endswith(suffix)), "")
    name = name.removesuffix(compression)
    for suffix in LINE_SUFFIXES:
        if name.endswith(suffix) and not name.startswith("."):
            stem = path.name[: len(name) - len(suffix)]
            return RawFile(path, stem, compression, path.stat().st_size) if stem else None
    return None


class RawReader:
    """The lines of a raw file, as bytes with their line end; use as a context manager.

    Memory is bounded: a line longer than MAX_LINE_BYTES is yielded cut to MAX_LINE_BYTES + 1
    bytes and its rest skipped. A byte order mark at the start of the file is skipped (RFC 8259).
    `bytes_read` counts bytes of the file as stored, so it measures progress also when they are
    compressed. Raises DataError where the file cannot be read, and where compressed data is
    damaged or ends early.
    """

    def __init__(self, raw: RawFile) -> None:
        self.raw = raw
        self.lines_read = 0

    def __enter__(self) -> Self:
        try:
            file = self.raw.path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from None
        self.stat = os.fstat(file.fileno())
        self._source = _Source(file)
        self._file = _DECOMPRESSORS[self.raw.compression](self._source)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._source.close()

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._lines()
        except (zlib.error, zstandard.ZstdError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise self._unreadable(error) from None  # the disk's fault, not the data's
            raise DataError(
                f"{self.raw.path}: damaged {self.raw.compression} data after line"
                f" {self.lines_read}: {error}",
                "Download or copy the file again.",
            ) from None

    def _lines(self) -> Iterator[bytes]:
        limit = MAX_LINE_BYTES + 1
        readline = self._file.readline
        while line := readline(limit):
            if self.lines_read == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            self.lines_read += 1
            if len(line) == limit and not line.endswith(b"\n"):
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = readline(limit)
            yield line

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(
            f"{self.raw.path}: cannot be read after line {self.lines_read}: {error.strerror}",
            "Mend its permissions or its disk, or copy the file again.",
        )

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the whole file as stored; reads what the lines have not."""
        try:
            while self._source.read(_BUFFER_BYTES):
                pass
        except OSError as error:
            raise self._unreadable(error) from None
        return self._source.digest.hexdigest()


class _Source(io.RawIOBase):
    """The stored bytes of a file, counted and hashed as they are read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        self.digest.update(buffer[:count])
        self.bytes_read += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd frames; unlike zstandard's stream_reader, a cut file is an EOFError."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._frame_begun = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        while not self._ready:
            stored = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                self._frame_begun = False
            stored = stored or self._source.read(_ZSTD_CHUNK_BYTES) or b""
            if not stored:
                if self._frame_begun:
                    raise EOFError("the file ends in the middle of a frame")
                return 0
            self._frame_begun = True
            self._ready = self._frame.decompress(stored)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _buffered(raw: io.RawIOBase) -> IO[bytes]:
    return io.BufferedReader(raw, _BUFFER_BYTES)


_DECOMPRESSORS: dict[str, Callable[[_Source], IO[bytes]]] = {
    "": _buffered,
    ".gz": lambda source: io.BufferedReader(
        gzip.GzipFile(fileobj=_buffered(source)),
        _BUFFER_BYTES,
    ),
    ".bz2": lambda source: io.BufferedReader(
        bz2.BZ2File(_buffered(source)),
        _BUFFER_BYTES,
    ),
    ".zst": lambda source: _buffered(_ZstdReader(source)),
}
