"""The lines of a raw file as a stream, whatever they are packed in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from types import TracebackType
from typing import Self

from utils.cleaning.inputs import zip_files
from utils.cleaning.inputs.decompression import (
    BUFFER_BYTES,
    DAMAGE,
    NotReadError,
    StoredBytes,
    decompressed,
)
from utils.cleaning.inputs.raw_files import BYTE_ORDER_MARK, MAX_LINE_BYTES, RawFile
from utils.cleaning.inputs.raw_names import PARQUET_SUFFIX, TAR_SUFFIX, MemberFilter, shown
from utils.cleaning.inputs.tar_files import TarWalk
from utils.errors import DataError

_PIECE_BYTES = 1 << 20  # nearly all lines are shorter


def open_raw(raw: RawFile) -> "RawReader":
    """The reader of a raw file, to be used as a context manager."""
    if raw.format == PARQUET_SUFFIX:
        from utils.cleaning.inputs.parquet_files import (
            ParquetReader,  # pyarrow is an extra, and 40 MB
        )

        return ParquetReader(raw)
    return RawReader(raw)


def _long_line(piece: bytes, stream: BufferedReader) -> bytes:
    """The line that begins with `piece`, in one copy; readline would hold it twice."""
    line = BytesIO()
    while piece:
        line.write(piece[: MAX_LINE_BYTES + 1 - line.tell()])
        piece = b"" if piece.endswith(b"\n") else stream.readline(_PIECE_BYTES)
    return line.getvalue()


class RawReader:
    """The lines of a raw file, as bytes with their line end; use as a context manager.

    Memory is bounded: a line longer than MAX_LINE_BYTES is yielded cut to MAX_LINE_BYTES + 1
    bytes and its rest skipped. A byte order mark at the start of a file is skipped (RFC 8259).
    `bytes_read` counts bytes as stored, so it measures progress also when they are compressed.
    Raises DataError where the file cannot be read, and where packed data is damaged or ends
    early; the error names the archive, its member, and the line in it.
    """

    def __init__(self, raw: RawFile) -> None:
        self.raw = raw
        self.warnings: list[str] = []  # of what was left out, complete after the last line
        self._file_name = str(raw)  # of the file that the lines are counted in
        self._line = 0

    def __enter__(self) -> Self:
        with self._faults_named():
            file = self.raw.path.open("rb", buffering=0)
            try:
                stat = os.fstat(file.fileno())
                member = self.raw.member
                self._stored = zip_files.open_stored(file, member) if member else StoredBytes(file)
            except BaseException:
                file.close()
                raise
        self.modified_ns = stat.st_mtime_ns
        self.size_bytes = member.stored_bytes if member else stat.st_size
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stored.close()

    @property
    def bytes_read(self) -> int:
        return self._stored.bytes_read

    @property
    def place(self) -> str:
        """Where the last line stands: "dump.jsonl:17", "dump.tar.gz!part_0.jsonl:17"."""
        return f"{self._file_name}:{self._line}"

    def __iter__(self) -> Iterator[bytes]:
        with self._faults_named():
            yield from self._lines()

    def _lines(self) -> Iterator[bytes]:
        for stream in self._streams():
            self._line = 0
            yield from self._lines_of(stream)

    def _streams(self) -> Iterator[BufferedReader]:
        """The files of lines one after the other, unpacked."""
        member = self.raw.member
        stored = zip_files.unpacked(self._stored, member) if member else self._stored
        # kept, because a buffer that is thrown away closes what it reads, also for digest
        self._unpacked = decompressed(stored, self.raw.compression)
        if self.raw.format == TAR_SUFFIX:
            yield from self._tar_members(TarWalk(self._unpacked))
        else:
            yield self._unpacked

    def _tar_members(self, walk: TarWalk) -> Iterator[BufferedReader]:
        members = MemberFilter(self.raw.path)
        for member, data in walk:
            if name := members.name_of(member):
                self._file_name = f"{self.raw}!{shown(member)}"
                yield decompressed(data, name.compression)
        members.check_found()
        if members.warning:
            self.warnings.append(members.warning)
        if not walk.has_end:
            self.warnings.append(f"{self.raw}: no mark at the end of the archive; is it all there?")
        if walk.foreign_bytes:
            self.warnings.append(
                f"{self.raw}: {walk.foreign_bytes:,} bytes after the end of the archive are no"
                " archive and were not read"
            )

    def _lines_of(self, stream: BufferedReader) -> Iterator[bytes]:
        readline = stream.readline
        while line := readline(_PIECE_BYTES):
            if len(line) == _PIECE_BYTES and not line.endswith(b"\n"):
                line = _long_line(line, stream)
            if self._line == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            self._line += 1
            yield line
            del line  # before the next one is read

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        """The disk's faults and the data's, as DataErrors that say where."""
        try:
            yield
        except NotReadError as error:
            raise DataError(f"{self._file_name}: {error}", error.hint) from None
        except DAMAGE as error:
            where = f"after line {self._line}"
            if isinstance(error, OSError) and error.errno is not None:
                what = f"{self._file_name}: cannot be read {where}: {error.strerror}"
                hint = "Mend its permissions or its disk, or copy the file again."
            else:
                what = f"{self._file_name}: damaged {self.raw.packing} data {where}: {error}"
                hint = "Download or copy the file again."
            raise DataError(what, hint) from None

    def digest(self) -> str:
        """Hexadecimal XXH3-128 of what is stored, of a zip archive only the member's data.

        Reads what the lines have not.
        """
        with self._faults_named():
            while self._stored.read(BUFFER_BYTES):
                pass
        return self._stored.digest.hexdigest()
