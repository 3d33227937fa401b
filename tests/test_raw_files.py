"""Raw files: which are found, in which order, and their lines out of any compression."""

import bz2
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from utils.cleaning import raw_files
from utils.cleaning.raw_files import RawFile, RawReader, find_raw_files
from utils.errors import DataError

LINES = [b'{"n": %d, "text": "%s"}\n' % (n, b"word " * (n % 50)) for n in range(5_000)]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}


def raw_file(path: Path, data: bytes) -> RawFile:
    path.write_bytes(data)
    return find_raw_files(path.parent)[0]


def test_files_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["w_10.jsonl", "w_2.jsonl.gz", "w_1.ndjson", "a.json-lines.zst", "W_3.JSONL.BZ2"]
    for name in [*names, "notes.txt", ".hidden.jsonl", "data.json", ".jsonl", "w_4.jsonl.zip"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    found = find_raw_files(tmp_path)
    assert [(raw.stem, raw.compression) for raw in found] == [
        ("W_3", ".bz2"),
        ("a", ".zst"),
        ("w_1", ""),
        ("w_2", ".gz"),
        ("w_10", ""),
    ]


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.jsonl.gz").touch()
    with pytest.raises(DataError, match=r"a\.jsonl and a\.jsonl\.gz have one stem, a, and would"):
        find_raw_files(tmp_path)


def test_no_files_is_an_error_that_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no such folder of raw files\n  Put the dump there \(\.js"
    ):
        find_raw_files(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no raw files \(\.jsonl, \.ndjson, .*it holds nothing"):
        find_raw_files(tmp_path)
    (tmp_path / "dump.zip").touch()
    with pytest.raises(DataError, match=r"it holds only dump\.zip\n  Put the dump there, unpacked"):
        find_raw_files(tmp_path)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_lines_stream_out_of_every_compression(tmp_path: Path, suffix: str) -> None:
    data = COMPRESSORS[suffix](b"".join(LINES))
    with RawReader(raw_file(tmp_path / f"a.jsonl{suffix}", data)) as reader:
        first = next(iter(reader))
        begun = reader.bytes_read
        rest = list(reader)
        assert [first, *rest] == LINES
        assert 0 < begun <= reader.bytes_read == len(data)
        assert reader.sha256() == hashlib.sha256(data).hexdigest()


def test_the_digest_is_of_the_whole_file_also_when_reading_stops_early(tmp_path: Path) -> None:
    data = b"".join(LINES) * 20
    with RawReader(raw_file(tmp_path / "a.jsonl", data)) as reader:
        next(iter(reader))
        assert reader.bytes_read < len(data)
        assert reader.sha256() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
def test_files_of_several_compressed_members(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    data = compress(b"".join(LINES[:2_000])) + compress(b"".join(LINES[2_000:]))
    with RawReader(raw_file(tmp_path / f"a.jsonl{suffix}", data)) as reader:
        assert list(reader) == LINES


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("harm", ["cut", "foreign"])
def test_damaged_compression_is_an_error(tmp_path: Path, suffix: str, harm: str) -> None:
    data = COMPRESSORS[suffix](b"".join(LINES))
    damaged = data[: len(data) // 2] if harm == "cut" else b"not compressed at all" * 10
    with (
        RawReader(raw_file(tmp_path / f"a.jsonl{suffix}", damaged)) as reader,
        pytest.raises(DataError, match=rf"damaged \{suffix} data after line \d+: .+\n  Download"),
    ):
        list(reader)


def test_a_file_that_cannot_be_opened_or_read_is_named(tmp_path: Path) -> None:
    raw = raw_file(tmp_path / "a.jsonl", b"{}\n")
    assert raw.size_bytes == 3
    raw.path.unlink()
    message = r"a\.jsonl: cannot be read after line 0: No such file or directory\n  Mend"
    with pytest.raises(DataError, match=message), RawReader(raw):
        pass
    memory = Path("/proc/self/mem")  # reading its first page fails like a broken disk
    if not memory.exists():
        pytest.skip("needs /proc/self/mem")
    raw.path.symlink_to(memory)
    message = r"a\.jsonl: cannot be read after line 0: Input/output error"
    with RawReader(raw) as reader:
        with pytest.raises(DataError, match=message):
            list(reader)
        with pytest.raises(DataError, match=message):
            reader.sha256()


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    with RawReader(raw_file(tmp_path / "a.jsonl", b"")) as reader:
        assert list(reader) == []


def test_a_byte_order_mark_is_skipped_at_the_start_only(tmp_path: Path) -> None:
    mark = raw_files.BYTE_ORDER_MARK
    with RawReader(raw_file(tmp_path / "a.jsonl", mark + b"1\n" + mark + b"2\r\n3")) as reader:
        assert list(reader) == [b"1\n", mark + b"2\r\n", b"3"]


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_files, "MAX_LINE_BYTES", 10)
    data = b"short\n" + b"x" * 35 + b"\n" + b"y" * 10 + b"\n" + b"z" * 10 + b"\nend"
    with RawReader(raw_file(tmp_path / "a.jsonl", data)) as reader:
        assert list(reader) == [b"short\n", b"x" * 11, b"y" * 10 + b"\n", b"z" * 10 + b"\n", b"end"]
