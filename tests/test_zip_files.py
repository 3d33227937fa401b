"""Zip archives: members cleaned as if they were files, and what is refused, left out or damaged."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from tests.packing import COMPRESSORS, lines_of, tar_of, zip_of
from utils.cleaning.inputs.raw_files import find_raw_files
from utils.errors import DataError

LINES = [b'{"n": %d, "text": "%s"}\n' % (n, b"word " * (n % 50)) for n in range(2_000)]
DATA = b"".join(LINES)
METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
}


def read(folder: Path, data: bytes) -> list[bytes]:
    """All lines of an archive."""
    (folder / "dump.zip").write_bytes(data)
    return [line for _, line in lines_of(folder)]


def changed(data: bytes, at: int, values: bytes) -> bytes:
    return data[:at] + values + data[at + len(values) :]


def directory_at(data: bytes) -> int:
    """Where the first entry of the archive's directory begins."""
    return data.index(b"PK\x01\x02")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_members_of_every_method_and_compression(tmp_path: Path, method: int, suffix: str) -> None:
    assert read(tmp_path, zip_of({f"a.jsonl{suffix}": COMPRESSORS[suffix](DATA)}, method)) == LINES


def test_members_packed_with_zstd(tmp_path: Path) -> None:
    data = zip_of({"a.jsonl": COMPRESSORS[".zst"](DATA)}, zipfile.ZIP_STORED)
    method, size = struct.pack("<H", 93), struct.pack("<L", len(DATA))
    crc = struct.pack("<L", zipfile.crc32(DATA))  # type: ignore[attr-defined]
    entry = directory_at(data)
    for at, value in ((entry + 10, method), (entry + 16, crc), (entry + 24, size)):
        data = changed(data, at, value)
    assert read(tmp_path, data) == LINES


def test_archives_written_as_a_stream_and_as_zip64(tmp_path: Path) -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

    file = Unseekable()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # with data descriptors
        for name in ("a.jsonl", "b.jsonl"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(DATA)
    data = file.getvalue()
    assert read(tmp_path, data) == LINES * 2
    assert read(tmp_path, b"#!/bin/sh\n" * 100 + data) == LINES * 2, "a self-extracting archive"


def test_members_that_are_no_lines_are_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    members = {
        "README.md": b"no lines",
        "folder/": b"",
        "__MACOSX/._a.jsonl": b"\0\0",
        "__MACOSX/b.jsonl": b"\0\0",
        "folder/.hidden.jsonl": b"{}\n",
        "folder/inner.tar.gz": b"",
        "part.parquet": b"",
        "folder/a.jsonl": DATA,
    }
    assert read(tmp_path, zip_of(members)) == LINES
    said = capfd.readouterr().err
    assert said == (
        f"warning: {tmp_path}/dump.zip: not read of it: folder/inner.tar.gz, part.parquet. Unpack"
        " the archive and what is packed inside it; a .json file with a record on each line must be"
        " named .jsonl.\n"
    )


def test_links_are_left_out(tmp_path: Path) -> None:
    file = io.BytesIO(zip_of({"a.jsonl": DATA}))
    with zipfile.ZipFile(file, "a") as archive:
        link = zipfile.ZipInfo("b.jsonl")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert read(tmp_path, file.getvalue()) == LINES


def test_an_archive_without_lines_is_an_error_that_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"dump\.zip: no member is \.jsonl, \.ndjson, .*; it holds b\.tar, a\.txt\n  Unpack",
    ):
        read(tmp_path, zip_of({"a.txt": b"", "b.tar": tar_of({})}))
    with pytest.raises(DataError, match="it holds no files"):
        read(tmp_path, zip_of({}))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../../etc/a.jsonl", "a"),
        ("/etc/cron.d/b.jsonl", "b"),
        ("C:\\Windows\\c.jsonl", "c"),
        ("..\\..\\d.ndjson.gz", "d"),
        ("x/....jsonl/e.jsonl", "e"),
    ],
)
def test_a_members_folders_are_never_a_path_of_ours(tmp_path: Path, name: str, stem: str) -> None:
    (tmp_path / "dump.zip").write_bytes(zip_of({name: b""}))
    (raw,) = find_raw_files(tmp_path)
    assert raw.stem == stem
    assert raw.path == tmp_path / "dump.zip"


@pytest.mark.parametrize("name", ["x\x1b[31m.jsonl", "x\ny.jsonl", "x" * 201 + ".jsonl"])
def test_names_that_no_text_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"dump\.zip!x[^\x1b\n]+: a text cannot be named after it"):
        read(tmp_path, zip_of({name: DATA}))


@pytest.mark.parametrize(("flags", "method"), [(0x1, 8), (0x41, 8), (0x1, 99), (0x2000, 8)])
def test_encrypted_members_are_refused(tmp_path: Path, flags: int, method: int) -> None:
    data = zip_of({"a.jsonl": DATA})
    entry = directory_at(data)
    data = changed(data, entry + 8, struct.pack("<HH", flags, method))
    with pytest.raises(
        DataError, match=r"dump\.zip!a\.jsonl: encrypted\n  Unpack the archive with"
    ):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("method", "name"), [(9, "Deflate64"), (14, "LZMA"), (98, "PPMd"), (1234, "method 1234")]
)
def test_methods_that_are_not_read_are_named(tmp_path: Path, method: int, name: str) -> None:
    data = zip_of({"a.jsonl": DATA})
    data = changed(data, directory_at(data) + 10, struct.pack("<H", method))
    with pytest.raises(
        DataError, match=rf"a\.jsonl: compressed with {name}, which is not read\n  Unpack"
    ):
        read(tmp_path, data)


def test_a_cut_archive_is_an_error(tmp_path: Path) -> None:
    data = zip_of({"a.jsonl": DATA, "b.jsonl": DATA})
    for size_bytes in (0, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(
            DataError, match=r"dump\.zip: damaged zip archive: .+\n  Download or copy"
        ):
            read(tmp_path, data[:size_bytes])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_damaged_member_is_named_with_its_line(tmp_path: Path, method: int) -> None:
    data = zip_of({"a.jsonl": DATA, "b.jsonl": DATA}, method)
    middle = directory_at(data) * 3 // 4
    damaged = changed(data, middle, bytes([data[middle] ^ 1]))
    with pytest.raises(DataError, match=r"dump\.zip!b\.jsonl: damaged \.zip data after line \d+: "):
        read(tmp_path, damaged)


@pytest.mark.parametrize(
    ("field", "value"),
    [(16, 1), (20, 100), (24, 100), (24, 1 << 31), (42, 7), (42, 1 << 31)],
    ids=["crc", "stored", "shorter", "longer", "offset", "outside"],
)
def test_a_directory_that_lies_is_an_error(tmp_path: Path, field: int, value: int) -> None:
    data = zip_of({"a.jsonl": DATA})
    data = changed(data, directory_at(data) + field, struct.pack("<L", value))
    with pytest.raises(DataError, match=r"dump\.zip!a\.jsonl: damaged \.zip data after line \d+: "):
        read(tmp_path, data)


def test_names_that_are_not_in_their_encoding_are_an_error(tmp_path: Path) -> None:
    data = zip_of({"é.jsonl": DATA})
    name = directory_at(data) + 46
    with pytest.raises(DataError, match=r"dump\.zip: damaged zip archive: 'utf-8' codec"):
        read(tmp_path, changed(data, name, b"\xff\xff"))


def test_an_archive_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("needs /proc/self/mem")
    (tmp_path / "a.zip").symlink_to(memory)
    with pytest.raises(DataError, match=r"a\.zip: (cannot be read|damaged zip archive): "):
        find_raw_files(tmp_path)
