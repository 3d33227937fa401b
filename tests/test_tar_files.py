"""Tar archives as streams: their members against tarfile's, and hostile and damaged ones."""

import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packing import COMPRESSORS, lines_of, tar_of
from utils.cleaning.inputs.decompression import DamagedDataError
from utils.cleaning.inputs.raw_files import find_raw_files
from utils.cleaning.inputs.raw_reader import open_raw
from utils.cleaning.inputs.tar_files import TarWalk
from utils.errors import DataError

FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
MEMBERS = {
    f"{name}.ndjson": b"".join(b'{"m": "%s", "n": %d}\n' % (name.encode(), n) for n in range(size))
    for name, size in (("a", 700), ("b", 0), ("c" * 50, 1), ("d/" * 60 + "e", 50))
}
LINES = [line for data in MEMBERS.values() for line in data.splitlines(keepends=True)]


def walked(data: bytes) -> dict[str, bytes]:
    return {name: member.readall() for name, member in TarWalk(io.BufferedReader(io.BytesIO(data)))}


def header(kind: bytes, name: str = "x", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info


@pytest.mark.parametrize("format_", FORMATS.values(), ids=FORMATS)
def test_members_are_those_that_tarfile_finds(format_: int) -> None:
    members = {**MEMBERS, "é" * 40 + ".ndjson": b"1\n"}
    data = tar_of(members, format_)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {m.name: archive.extractfile(m) for m in archive.getmembers()}
        expected = {name: file.read() for name, file in files.items() if file}
    assert walked(data) == expected == members


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_the_lines_of_all_members_in_their_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"dump.tar{suffix}"
    path.write_bytes(COMPRESSORS[suffix](tar_of(MEMBERS)))
    (raw,) = find_raw_files(tmp_path)
    with open_raw(raw) as reader:
        assert list(reader) == LINES
        assert reader.bytes_read == reader.size_bytes == path.stat().st_size
        assert reader.warnings == []


def test_what_is_not_read_is_skipped() -> None:
    walk = TarWalk(io.BufferedReader(io.BytesIO(tar_of(MEMBERS))))
    assert [name for name, _ in walk] == list(MEMBERS)
    walk = TarWalk(io.BufferedReader(io.BytesIO(tar_of(MEMBERS))))
    assert [member.read(7) for _, member in walk] == [data[:7] for data in MEMBERS.values()]


def test_links_devices_and_folders_are_left_out(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"5", b"6")
        ):
            info = header(kind, f"{number}.jsonl")
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    (tmp_path / "dump.tar").write_bytes(
        file.getvalue()[: 5 * 512] + tar_of({"../../a.jsonl": b"1\n"})
    )
    assert lines_of(tmp_path) == [("dump.tar!../../a.jsonl:1", b"1\n")]


def test_members_that_are_no_lines_are_left_out_and_archives_named(tmp_path: Path) -> None:
    members = {
        "README": b"x" * 700,
        "._a.jsonl": b"\0",
        "in/b.zip": b"PK",
        "a.jsonl": b"1\n",
        "d.json": b"1\n",
    }
    (tmp_path / "dump.tar").write_bytes(tar_of(members))
    (raw,) = find_raw_files(tmp_path)
    with open_raw(raw) as reader:
        assert list(reader) == [b"1\n"]
        assert reader.warnings == [
            f"{tmp_path}/dump.tar: not read of it: in/b.zip, d.json. Unpack the archive and what is"
            " packed inside it; a .json file with a record on each line must be named .jsonl."
        ]


def test_an_archive_without_lines_is_an_error_that_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "dump.tar").write_bytes(tar_of({f"{n}.txt": b"x" for n in range(9)}))
    with pytest.raises(
        DataError,
        match=r"dump\.tar: no member is \.jsonl.*; it holds 0\.txt, 1\.txt, 2\.txt, \.\.\.",
    ):
        lines_of(tmp_path)


def test_a_missing_end_mark_is_a_warning(tmp_path: Path) -> None:
    data = tar_of({"a.jsonl": b"1\n"})[:1024]
    (tmp_path / "dump.tar").write_bytes(data)
    (raw,) = find_raw_files(tmp_path)
    with open_raw(raw) as reader:
        assert list(reader) == [b"1\n"]
        assert reader.warnings == [
            f"{tmp_path}/dump.tar: no mark at the end of the archive; is it all there?"
        ]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_archives_one_after_another_are_all_read(tmp_path: Path, suffix: str) -> None:
    members = [{"a.jsonl": b"1\n"}, {"b.jsonl": b"2\n", "c.jsonl": b"3\n"}, {"d.jsonl": b"4\n"}]
    path = tmp_path / f"dump.tar{suffix}"
    path.write_bytes(b"".join(COMPRESSORS[suffix](tar_of(some)) for some in members))
    (raw,) = find_raw_files(tmp_path)
    with open_raw(raw) as reader:
        assert list(reader) == [b"1\n", b"2\n", b"3\n", b"4\n"]
        assert reader.bytes_read == path.stat().st_size
        assert reader.warnings == []


def test_what_follows_the_end_and_is_no_archive_is_counted(tmp_path: Path) -> None:
    data = tar_of({"a.jsonl": b"1\n"})
    (tmp_path / "dump.tar").write_bytes(data + b"foreign" * 1_000_000 + bytes(512))
    (raw,) = find_raw_files(tmp_path)
    with open_raw(raw) as reader:
        assert list(reader) == [b"1\n"]
        assert reader.warnings == [
            f"{tmp_path}/dump.tar: 7,000,512 bytes after the end of the archive are no archive and"
            " were not read"
        ]
    assert walked(data + bytes(100)) == {"a.jsonl": b"1\n"}
    walk = TarWalk(io.BufferedReader(io.BytesIO(data + data[:1024])))
    assert [name for name, _ in walk] == ["a.jsonl"] * 2
    assert not walk.has_end


def test_a_damaged_header_in_the_middle_is_no_end() -> None:
    data = tar_of({"a.jsonl": b"1\n", "b.jsonl": b"2\n"})
    damaged = bytearray(data)
    damaged[data.index(b"b.jsonl")] ^= 1
    with tarfile.open(fileobj=io.BytesIO(damaged), mode="r|") as archive:
        assert archive.getnames() == ["a.jsonl"], "the reason not to use it"
    with pytest.raises(DamagedDataError, match="no member's header: bad checksum"):
        walked(bytes(damaged))


@pytest.mark.parametrize("size_bytes", [100, 512 + 5, 2 * 512 + 100, 3 * 512 + 1, 4 * 512 - 1])
def test_a_cut_archive_is_an_error(size_bytes: int) -> None:
    data = tar_of({"a.jsonl": b"1\n", "b.jsonl": b"2\n"})
    with pytest.raises((DamagedDataError, EOFError)):
        walked(data[:size_bytes])


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
def test_the_place_of_damage_is_named(tmp_path: Path, suffix: str) -> None:
    data = COMPRESSORS[suffix](tar_of(MEMBERS))
    (tmp_path / f"dump.tar{suffix}").write_bytes(data[:-10])
    with pytest.raises(
        DataError, match=rf"dump\.tar{suffix}\S*: damaged \.tar{suffix} data after line \d+: "
    ):
        lines_of(tmp_path)


class Endless(io.RawIOBase):
    """Some bytes, and then as many spaces as are wanted."""

    def __init__(self, begin: bytes) -> None:
        self.begin = begin

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.begin[: len(buffer)].ljust(len(buffer))
        self.begin = self.begin[len(buffer) :]
        buffer[:] = data
        return len(data)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_any_size_does_not_fill_the_memory(kind: bytes) -> None:
    stream = io.BufferedReader(Endless(header(kind, size=1 << 40).tobuf(tarfile.GNU_FORMAT)))
    tracemalloc.start()
    with pytest.raises(DamagedDataError, match="a header of 1,099,511,627,776 bytes"):
        list(TarWalk(stream))  # type: ignore[arg-type]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2_000_000


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def with_fields(fields: bytes) -> bytes:
    """A file of 3 bytes behind an extended header."""
    extended = header(tarfile.XHDTYPE, size=len(fields)).tobuf()
    return (
        extended
        + block(fields)
        + header(tarfile.REGTYPE, "a", 3).tobuf()
        + block(b"abc")
        + bytes(1024)
    )


SPARSE: dict[str, Callable[[], bytes]] = {
    "old": lambda: header(tarfile.GNUTYPE_SPARSE, size=3).tobuf(tarfile.GNU_FORMAT) + bytes(2048),
    "pax": lambda: with_fields(b"22 GNU.sparse.major=1\n"),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_files_are_refused(kind: str) -> None:
    with pytest.raises(DamagedDataError, match=r"'.' is a sparse file; pack it without --sparse"):
        walked(SPARSE[kind]())


def test_extended_fields_override_the_header() -> None:
    assert walked(with_fields(b"")) == {"a": b"abc"}
    assert walked(with_fields(b"10 path=b\n10 size=2\n")) == {"b": b"ab"}
    assert walked(with_fields("13 path=é=\n\n".encode())) == {"é=\n": b"abc"}


@pytest.mark.parametrize(
    "fields",
    [
        b"path=b\n",
        b"0 path=b\n",
        b"6 path=b\n",
        b"99 path=b\n",
        b"8 path=b\n",
        b"10 path=b\n\0",
        b"99999999999 a=b\n",
    ],
)
def test_malformed_fields_are_an_error(fields: bytes) -> None:
    with pytest.raises(DamagedDataError, match="a malformed extended header"):
        walked(with_fields(fields))


@pytest.mark.parametrize("size", [b"-1", b"x", b"9" * 30, b"1_0"])
def test_a_size_that_is_no_size_is_an_error(size: bytes) -> None:
    field = b" size=" + size + b"\n"
    length = len(field) + 2
    with pytest.raises(DamagedDataError, match="a member of size"):
        walked(with_fields(str(length).encode() + field))


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(DamagedDataError, match="negative"):
        walked(header(tarfile.REGTYPE, size=-1).tobuf(tarfile.GNU_FORMAT) + bytes(1024))
