"""The records of a zip file that torch.save wrote, and whether their bytes are whole.

Each has a CRC-32, which finds flipped bits in the records that are read without reading the rest;
a seal (utils/sealing.py) takes every byte of the file.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

from utils.sealing import NotWholeError, open_archive, unlike_its_checksum
from utils.terminal import printable

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and an extra
_SIGNATURE = b"PK\3\4"
_PIECE_BYTES = 1 << 24  # after so much Ctrl-C is heard
_IS_ENCRYPTED = 1


@dataclass(frozen=True)
class Record:
    """A record's bytes: where they start in the file, how many, and their CRC-32.

    Its header, whose length is a matter of what stands in it, is before them.
    """

    name: str
    header_start: int
    start: int
    size: int
    crc: int

    @property
    def holds_numbers(self) -> bool:
        """Whether it is a tensor's; the others are the pickle and a few notes of torch's."""
        return "/data/" in self.name

    def check(self, content: memoryview) -> None:
        """Raise NotWholeError if `content` is not what was written."""
        crc = 0
        for start in range(0, len(content), _PIECE_BYTES):
            crc = zlib.crc32(content[start : start + _PIECE_BYTES], crc)
        if len(content) != self.size or crc != self.crc:
            raise unlike_its_checksum(self.name)


def read_records(file: IO[bytes]) -> list[Record]:
    """All records, in the order in which they stand in the file.

    Raises NotWholeError where the two descriptions that a zip file has of each record differ, where
    records overlap, or where one is compressed, which torch's never are.
    """
    with open_archive(file) as archive:
        entries = archive.infolist()
    size = os.fstat(file.fileno()).st_size
    records = [_record(file, entry, size) for entry in entries]
    records.sort(key=lambda record: record.header_start)
    for record, following in pairwise(records):
        if record.start + record.size > following.header_start:
            raise NotWholeError(f"{record.name} in it overlaps {following.name}")
    return records


def check_records(file: IO[bytes], records: Iterable[Record]) -> None:
    """Read these and raise NotWholeError naming the first that is not what was written."""
    for record in records:
        file.seek(record.start)
        record.check(memoryview(file.read(record.size)))


def _record(file: IO[bytes], entry: zipfile.ZipInfo, file_size: int) -> Record:
    name = printable(entry.orig_filename)
    file.seek(max(0, entry.header_offset))  # below 0 where bytes before the index are missing
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_SIGNATURE):
        raise NotWholeError(f"{name} is not where its index says")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.header_offset + len(header) + name_length + extra_length
    if file.read(name_length) not in _encoded(entry.orig_filename):
        raise NotWholeError(f"{name} is not where its index says")
    is_plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & _IS_ENCRYPTED
    if not is_plain or entry.compress_size != entry.file_size:
        raise NotWholeError(f"{name} in it is compressed")
    if start + entry.file_size > file_size:
        raise NotWholeError(f"{name} in it is cut off")
    return Record(name, entry.header_offset, start, entry.file_size, entry.CRC)


def _encoded(name: str) -> tuple[bytes, ...]:
    """The bytes that may stand for a name: zip files have two encodings."""
    return name.encode("utf-8", "replace"), name.encode("cp437", "replace")
