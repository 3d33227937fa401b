"""Zip files, such as torch.save writes, that carry the SHA-256 of all their bytes.

torch.load does not notice a flipped bit. The digest stands in the comment that ends a zip file, so
every reader of the format ignores it.
"""

import errno
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

_MAGIC = b"\nllm-training-pipeline sha256 "
TRAILER_BYTES = len(_MAGIC) + 64  # behind the comment's length, which takes 2
_READ_BYTES = 1 << 20
_WRITE_BYTES = 1 << 24  # a write is given up after so much


class NotWholeError(Exception):
    """What is wrong with a file's bytes, as the end of a sentence."""


def unlike_its_checksum(name: str) -> NotWholeError:
    """For a record of a zip file whose bytes have another CRC-32 than the file says."""
    return NotWholeError(f"{name} in it does not match its checksum")


class SealingWriter:
    """Passes bytes on to a file, and ends the zip archive with their SHA-256 as its comment.

    A zip file ends with the comment's length (2 bytes, zero in torch's) and the comment, so all
    but those last 2 bytes are hashed. Once `is_given_up`, the next write fails.
    """

    def __init__(self, file: IO[bytes], is_given_up: Callable[[], bool] = lambda: False) -> None:
        self.file = file
        self.is_given_up = is_given_up
        self.digest = hashlib.sha256()
        self.held = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`. Large parts are written and hashed without holding up Python."""
        whole = memoryview(data).cast("B")
        for start in range(0, len(whole), _WRITE_BYTES):
            self._write_part(whole[start : start + _WRITE_BYTES])
        return len(whole)

    def _write_part(self, view: memoryview) -> None:
        try:
            if self.is_given_up():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            self.file.write(view)
        except OSError as error:
            self.error = error
            raise
        if len(view) < 2:
            tail = self.held + bytes(view)
            self.digest.update(tail[:-2])
            self.held = tail[-2:]
        else:
            self.digest.update(self.held)
            self.digest.update(view[:-2])
            self.held = bytes(view[-2:])

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        assert self.held == b"\0\0", "torch.save ended its archive with a comment of its own"
        self.file.seek(-2, os.SEEK_END)
        self.file.write(TRAILER_BYTES.to_bytes(2, "little") + _MAGIC)
        self.file.write(self.digest.hexdigest().encode())


@contextmanager
def open_archive(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """The zip file in `file`; NotWholeError if it is none, or a broken one."""
    try:
        if not zipfile.is_zipfile(file):
            raise NotWholeError("it is cut off, or no checkpoint at all")
        with zipfile.ZipFile(file) as archive:
            yield archive
    except NotWholeError:
        raise
    except Exception as error:  # zipfile raises many kinds on what is not quite a zip file
        raise NotWholeError(f"its index is broken ({error})") from None


def verify(file: IO[bytes]) -> bool:
    """Check every byte of a zip file against its seal, or its content against the zip's own sums.

    Returns whether it had a seal. Raises NotWholeError, for one too that has lost its seal.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - TRAILER_BYTES - 2))
    ending = file.read()
    file.seek(0)
    if ending[2:].startswith(_MAGIC):
        hashed, left = hashlib.sha256(), size - len(ending)
        while left and (block := file.read(min(_READ_BYTES, left))):
            hashed.update(block)
            left -= len(block)
        expected = TRAILER_BYTES.to_bytes(2, "little") + _MAGIC + hashed.hexdigest().encode()
        if ending != expected:
            raise NotWholeError("its bytes do not match its checksum")
        return True
    with open_archive(file) as archive:
        broken, comment = archive.testzip(), archive.comment
    if broken:
        raise unlike_its_checksum(broken)
    if comment or not ending.endswith(b"\0\0"):  # torch leaves none: it was a seal
        raise NotWholeError("its checksum is missing")
    return False


def has_seal(file: IO[bytes]) -> bool:
    """Whether a file bears a seal, unchecked; NotWholeError if its end is not a zip file's."""
    with open_archive(file):
        pass
    file.seek(max(0, os.fstat(file.fileno()).st_size - TRAILER_BYTES))
    return file.read().startswith(_MAGIC)
