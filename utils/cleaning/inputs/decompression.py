"""The bytes of stored files, counted and hashed as they are read, and bounded decompression.

A decompressor makes some megabytes at a time at most, whatever the data claims: 1 kB can stand for
a gigabyte. Zstandard keeps a window of up to 128 MiB beside them, for data packed with --long.
Damage raises one of DAMAGE, an early end too; sound data that is not read, NotReadError.
"""

import bz2
import io
import zlib
from collections.abc import Callable

import xxhash
import zstandard

BUFFER_BYTES = 1 << 20
RAW_DEFLATE = "deflate"
_STORED_CHUNK_BYTES = 1 << 17
_ZSTD_CHUNK_BYTES = 256  # at most 64 blocks of 4 bytes, each of which makes 128 kB
_MAX_ZSTD_WINDOW_BYTES = 1 << 27  # zstd's own default; a frame may claim 2 GiB
_ZSTD_WINDOW_ERROR = "Frame requires too much memory"  # of zstd's error_private.c


class DamagedDataError(Exception):
    """Data that is not what its archive says it is."""


class NotReadError(Exception):
    """Sound data of a kind that is not read; `hint` says what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


DAMAGE = (DamagedDataError, EOFError, OSError, zlib.error, zstandard.ZstdError)


class StoredBytes(io.RawIOBase):
    """A file, or `size_bytes` of it from `offset` on, counted and hashed as it is read."""

    def __init__(self, file: io.FileIO, offset: int = 0, size_bytes: int | None = None) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self.digest = xxhash.xxh3_128()
        self.bytes_read = 0
        if offset:
            file.seek(offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        wanted = memoryview(buffer)
        if self._size_bytes is not None:
            wanted = wanted[: self._size_bytes - self.bytes_read]
        count = self._file.readinto(wanted)
        if not count and len(wanted) and self._size_bytes is not None:
            raise EOFError("the file ends in the middle of it")
        self.digest.update(wanted[:count])
        self.bytes_read += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Inflated(io.RawIOBase):
    """Decompresses one raw deflate stream, or gzip members until there are no more."""

    def __init__(self, stored: io.BufferedReader, window_bits: int) -> None:
        self._stored = stored
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(window_bits)
        self._rest = b""  # read and not yet decompressed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        data = b""
        while not data:
            stored = self._rest or self._stored.read(_STORED_CHUNK_BYTES)
            if self._stream.eof:
                self._rest = stored.lstrip(b"\0")  # which fill up a block
                if not stored or self._window_bits == _RAW_BITS:
                    return 0
                if self._rest:
                    self._stream = zlib.decompressobj(self._window_bits)
                continue
            data = self._stream.decompress(stored, len(buffer))
            self._rest = self._stream.unconsumed_tail or self._stream.unused_data
            if not (stored or data or self._stream.eof):
                raise EOFError("the data ends in the middle of a stream")
        buffer[: len(data)] = data
        return len(data)


class _Unbz2(io.RawIOBase):
    """Decompresses bzip2 streams; unlike BZ2File, one that is damaged does not end the data."""

    def __init__(self, stored: io.BufferedReader) -> None:
        self._stored = stored
        self._stream = bz2.BZ2Decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        data = b""
        while not data:
            stored = b""
            if self._stream.eof:
                stored = self._next_stream()
                if not stored:
                    return 0
                self._stream = bz2.BZ2Decompressor()
            elif self._stream.needs_input:
                stored = self._stored.read(_STORED_CHUNK_BYTES)
                if not stored:
                    raise EOFError("the data ends in the middle of a stream")
            data = self._stream.decompress(stored, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next_stream(self) -> bytes:
        """What follows the stream that ended, without the zeros that fill up a block."""
        rest = self._stream.unused_data.lstrip(b"\0")
        while not rest and (stored := self._stored.read(_STORED_CHUNK_BYTES)):
            rest = stored.lstrip(b"\0")
        return rest


class _Unzstd(io.RawIOBase):
    """Decompresses zstd frames; unlike zstandard's stream_reader, a cut file is an EOFError."""

    def __init__(self, stored: io.BufferedReader) -> None:
        self._stored = stored
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        while not self._ready:
            stored = self._frame.unused_data or self._stored.read(_ZSTD_CHUNK_BYTES)
            if self._frame.eof:
                if not stored:
                    return 0
                self._frame = self._decompressor.decompressobj()
            elif not stored:
                raise EOFError("the data ends in the middle of a frame")
            self._ready = memoryview(self._decompress(stored))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, stored: bytes) -> bytes:
        try:
            return self._frame.decompress(stored)
        except zstandard.ZstdError as error:
            if _ZSTD_WINDOW_ERROR not in str(error):
                raise
            raise NotReadError(
                f"zstd data that takes more than {_MAX_ZSTD_WINDOW_BYTES >> 20} MiB to unpack",
                "Unpack it with `zstd -d --long=31`, and pack it again without --long.",
            ) from None


class Checked(io.RawIOBase):
    """Passes a stream on and raises DamagedDataError if its length or its CRC-32 are not these."""

    def __init__(self, stream: io.BufferedReader, size_bytes: int, crc32: int) -> None:
        self._stream = stream
        self._size_bytes, self._crc32 = size_bytes, crc32
        self._passed_bytes, self._passed_crc32 = 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        count = self._stream.readinto(buffer)
        self._passed_bytes += count
        self._passed_crc32 = zlib.crc32(memoryview(buffer)[:count], self._passed_crc32)
        if self._passed_bytes > self._size_bytes or (not count and self._is_short()):
            raise DamagedDataError(f"it is not the {self._size_bytes:,} bytes that were packed")
        return count

    def _is_short(self) -> bool:
        return (self._passed_bytes, self._passed_crc32) != (self._size_bytes, self._crc32)


def buffered(stream: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(stream, BUFFER_BYTES)


def decompressed(stored: io.RawIOBase, compression: str) -> io.BufferedReader:
    """The bytes that `stored` holds, in a buffer; `compression` is one of DECOMPRESSORS."""
    return DECOMPRESSORS[compression](buffered(stored))


_RAW_BITS = -zlib.MAX_WBITS
_GZIP_BITS = 16 + zlib.MAX_WBITS
DECOMPRESSORS: dict[str, Callable[[io.BufferedReader], io.BufferedReader]] = {
    "": lambda stored: stored,
    ".gz": lambda stored: buffered(_Inflated(stored, _GZIP_BITS)),
    ".bz2": lambda stored: buffered(_Unbz2(stored)),
    ".zst": lambda stored: buffered(_Unzstd(stored)),
    RAW_DEFLATE: lambda stored: buffered(_Inflated(stored, _RAW_BITS)),
}
