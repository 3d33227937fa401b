"""Members of zip archives, each read alone: found in the directory, streamed from their place."""

import io
import os
import stat
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from utils.cleaning.inputs.decompression import (
    RAW_DEFLATE,
    Checked,
    DamagedDataError,
    StoredBytes,
    decompressed,
)
from utils.errors import DataError

METHODS = {0: "", 8: RAW_DEFLATE, 12: ".bz2", 93: ".zst"}  # of APPNOTE.TXT 4.4.5
_METHODS_NOT_READ = {9: "Deflate64", 14: "LZMA", 95: "XZ", 98: "PPMd"}
_ENCRYPTED_FLAGS = 1 << 0 | 1 << 6 | 1 << 13
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of what follows it
_LOCAL_SIGNATURE = b"PK\x03\x04"
_UNIX = 3


@dataclass(frozen=True)
class ZipMember:
    """Where a member's data is, and what it unpacks to, as the archive's directory says."""

    name: str
    header_offset: int
    stored_bytes: int
    method: str  # one of METHODS' values
    size_bytes: int
    crc32: int


def read_directory(path: Path) -> list[zipfile.ZipInfo]:
    """The files in an archive, without folders and links.

    Raises DataError if it is no zip archive, or damaged where the directory is: at its end.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [info for info in archive.infolist() if not (info.is_dir() or _is_link(info))]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(
            f"{path}: damaged zip archive: {error}", "Download or copy the file again."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}",
            "Mend its permissions or its disk, or copy the file again.",
        ) from None


def _is_link(info: zipfile.ZipInfo) -> bool:
    return info.create_system == _UNIX and stat.S_ISLNK(info.external_attr >> 16)


def member_of(path: Path, info: zipfile.ZipInfo, name: str) -> ZipMember:
    """The member under the name that it is shown by. Raises DataError if we cannot unpack it."""
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise DataError(f"{path}!{name}: encrypted", "Unpack the archive with its password.")
    if info.compress_type not in METHODS:
        method = _METHODS_NOT_READ.get(info.compress_type, f"method {info.compress_type}")
        raise DataError(
            f"{path}!{name}: compressed with {method}, which is not read",
            "Unpack the archive, or pack it again with Deflate.",
        )
    method = METHODS[info.compress_type] if info.compress_size else ""
    return ZipMember(name, info.header_offset, info.compress_size, method, info.file_size, info.CRC)


def open_stored(file: io.FileIO, member: ZipMember) -> StoredBytes:
    """The member's data as it is stored. Raises one of DAMAGE if it does not begin there."""
    header = b""
    if 0 <= member.header_offset < os.fstat(file.fileno()).st_size:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
        raise DamagedDataError(f"no member begins at byte {member.header_offset:,}")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    offset = member.header_offset + len(header) + name_bytes + extra_bytes
    return StoredBytes(file, offset, member.stored_bytes)


def unpacked(stored: StoredBytes, member: ZipMember) -> Checked:
    """What the member holds; reading to its end checks it against the directory."""
    return Checked(decompressed(stored, member.method), member.size_bytes, member.crc32)
