"""The files in a tar archive, streamed from front to back.

The headers are tarfile's; the walk over them is ours. TarFile takes a damaged or cut header in
the middle for the end of the archive, and reads extended headers of any size into memory.
"""

import io
import re
import tarfile
from collections.abc import Iterator

from utils.cleaning.inputs.decompression import BUFFER_BYTES, DamagedDataError

_MAX_EXTENDED_BYTES = 1 << 20  # of a long name, or of PAX fields: real ones have some hundred
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_DATA = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=\n]+)=")
_SPARSE_FIELD = "GNU.sparse."


class TarWalk:
    """Iterates over (name, data) of the regular files in a tar archive, not its links or devices.

    The data must be read before the walk goes on; what is not read is skipped. Archives one after
    another, which `cat` makes, are walked as one. Raises DamagedDataError where the archive is no
    tar archive, damaged or cut off. At the end `has_end` tells whether the mark for it stood
    there: without it, whole members may be missing; and `foreign_bytes`, how many followed the
    mark that are no tar archive.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self.has_end = False
        self.foreign_bytes = 0

    def __iter__(self) -> Iterator[tuple[str, io.RawIOBase]]:
        extended: dict[str, str] = {}
        while header := self._next_header():
            data = _Data(self._stream, 0 if header.type in _WITHOUT_DATA else header.size)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = _text(data.all().partition(b"\0")[0])
            elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                extended |= _pax_fields(data.all())
            elif header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                name = extended.get("path", header.name)
                if header.type == tarfile.GNUTYPE_SPARSE or any(
                    field.startswith(_SPARSE_FIELD) for field in extended
                ):
                    raise DamagedDataError(f"{name!a} is a sparse file; pack it without --sparse")
                if "size" in extended and header.type not in _WITHOUT_DATA:
                    data = _Data(self._stream, _size(extended["size"]))
                if header.type in _FILES:
                    yield name, data
                extended = {}
            data.skip()

    def _next_header(self) -> tarfile.TarInfo | None:
        """The header behind any end marks; None where the stream ends, checksum and all."""
        self.has_end = False
        while block := self._stream.read(tarfile.BLOCKSIZE):
            is_blank = not block.strip(b"\0")
            if is_blank and (self.has_end or len(block) == tarfile.BLOCKSIZE):
                self.has_end = True
                continue
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
            except tarfile.HeaderError as error:
                if not self.has_end:
                    raise DamagedDataError(f"no member's header: {error}") from None
                self._count_foreign(block)
                return None
            if header.size < 0:
                raise DamagedDataError("a member of negative size")
            return header
        return None

    def _count_foreign(self, block: bytes) -> None:
        while block:
            self.foreign_bytes += len(block)
            block = self._stream.read(BUFFER_BYTES)


class _Data(io.RawIOBase):
    """The next `size_bytes` of a stream, which blocks of 512 bytes hold."""

    def __init__(self, stream: io.BufferedReader, size_bytes: int) -> None:
        self._stream = stream
        self._left_bytes = size_bytes
        self._padding_bytes = -size_bytes % tarfile.BLOCKSIZE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        wanted = memoryview(buffer)[: self._left_bytes]
        count = self._stream.readinto(wanted)
        if not count and len(wanted):
            raise EOFError("the archive ends in the middle of a member")
        self._left_bytes -= count
        return count

    def all(self) -> bytes:
        """The whole of a header's data, of which the archive may claim any size."""
        if self._left_bytes > _MAX_EXTENDED_BYTES:
            raise DamagedDataError(f"a header of {self._left_bytes:,} bytes")
        return self.readall()

    def skip(self) -> None:
        """Read to the end of the last block."""
        self._left_bytes += self._padding_bytes
        self._padding_bytes = 0
        while self.read(BUFFER_BYTES):
            pass


def _pax_fields(data: bytes) -> dict[str, str]:
    """`length keyword=value` lines, whose length counts all of the line."""
    fields = {}
    position = 0
    while position < len(data):
        record = _PAX_RECORD.match(data, position)
        end = position + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise DamagedDataError("a malformed extended header")
        fields[_text(record[2])] = _text(data[record.end() : end - 1])
        position = end
    return fields


def _size(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise DamagedDataError(f"a member of size {text!a}")
    return int(text)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
