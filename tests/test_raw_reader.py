"""The lines of raw files: out of any packing, to their end, in bounded memory, with their place."""

import bz2
import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from tests.conftest import REPOSITORY
from tests.packing import COMPRESSORS, lines_of, tar_of, zip_of
from tests.test_cleaner import SETTINGS
from utils.cleaning import file_cleaner
from utils.cleaning.inputs import raw_files, raw_reader
from utils.cleaning.inputs.raw_files import RawFile, find_raw_files
from utils.cleaning.inputs.raw_reader import open_raw
from utils.errors import DataError

LINES = [b'{"n": %d, "text": "%s"}\n' % (n, b"word " * (n % 50)) for n in range(5_000)]


def raw_file(path: Path, data: bytes) -> RawFile:
    path.write_bytes(data)
    return find_raw_files(path.parent)[0]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_lines_stream_out_of_every_compression(tmp_path: Path, suffix: str) -> None:
    data = COMPRESSORS[suffix](b"".join(LINES))
    with open_raw(raw_file(tmp_path / f"a.jsonl{suffix}", data)) as reader:
        lines = iter(reader)
        first = next(lines)
        begun = reader.bytes_read
        assert reader.place == f"{tmp_path}/a.jsonl{suffix}:1"
        assert [first, *lines] == LINES
        assert 0 < begun <= reader.bytes_read == reader.size_bytes == len(data)
        assert reader.place == f"{tmp_path}/a.jsonl{suffix}:5000"
        assert reader.digest() == xxhash.xxh3_128_hexdigest(data)


def test_the_digest_is_of_the_whole_file_also_when_reading_stops_early(tmp_path: Path) -> None:
    data = b"".join(LINES) * 20
    with open_raw(raw_file(tmp_path / "a.jsonl", data)) as reader:
        next(iter(reader))
        assert reader.bytes_read < len(data)
        assert reader.digest() == xxhash.xxh3_128_hexdigest(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
def test_files_of_several_compressed_members(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    data = b"".join(compress(b"".join(LINES[n : n + 1_000])) for n in range(0, 5_000, 1_000))
    data += bytes(512) if suffix == ".gz" else b""  # a block that a tape drive filled up
    with open_raw(raw_file(tmp_path / f"a.jsonl{suffix}", data)) as reader:
        assert list(reader) == LINES


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("harm", ["nothing", "cut", "foreign", "followed"])
def test_damaged_compression_is_an_error(tmp_path: Path, suffix: str, harm: str) -> None:
    data = COMPRESSORS[suffix](b"".join(LINES))
    damaged = {
        "nothing": b"",
        "cut": data[: len(data) // 2],
        "foreign": b"not compressed at all" * 10,
        "followed": data + COMPRESSORS[suffix](b"more")[:10],
    }
    with (
        open_raw(raw_file(tmp_path / f"a.jsonl{suffix}", damaged[harm])) as reader,
        pytest.raises(DataError, match=rf"damaged \{suffix} data after line \d+: .+\n  Download"),
    ):
        list(reader)


@pytest.mark.parametrize("bit", range(8))
def test_damage_where_a_later_stream_of_bzip2_begins_is_no_end(tmp_path: Path, bit: int) -> None:
    streams = [bz2.compress(b"".join(LINES[n : n + 100])) for n in range(0, 1_000, 100)]
    data = bytearray(b"".join(streams))
    data[len(streams[0]) + len(streams[1])] ^= 1 << bit
    assert bz2.decompress(data) == b"".join(LINES[:200]), "the reason not to use it"
    with (
        open_raw(raw_file(tmp_path / "a.jsonl.bz2", bytes(data))) as reader,
        pytest.raises(DataError, match=r"damaged \.bz2 data after line \d+: Invalid data stream"),
    ):
        list(reader)


def test_foreign_bytes_after_bzip2_are_damage_and_zeros_are_not(tmp_path: Path) -> None:
    data = bz2.compress(b"".join(LINES))
    with open_raw(raw_file(tmp_path / "a.jsonl.bz2", data + bytes(300_000) + data)) as reader:
        assert list(reader) == [*LINES, *LINES]
    with (
        open_raw(raw_file(tmp_path / "a.jsonl.bz2", data + b"foreign")) as reader,
        pytest.raises(DataError, match=r"damaged \.bz2 data after line \d+: Invalid data stream"),
    ):
        list(reader)


def zstd_frame(window_log: int, data: bytes) -> bytes:
    """A frame of one stored block that claims a window of this size (RFC 8878, 3.1.1)."""
    block = len(data) << 3 | 1
    return (
        b"\x28\xb5\x2f\xfd\0" + bytes([window_log - 10 << 3]) + block.to_bytes(3, "little") + data
    )


def test_a_zstd_frame_may_not_claim_any_memory(tmp_path: Path) -> None:
    with open_raw(raw_file(tmp_path / "a.jsonl.zst", zstd_frame(27, b"1\n"))) as reader:
        assert list(reader) == [b"1\n"]
    with (
        open_raw(raw_file(tmp_path / "a.jsonl.zst", zstd_frame(31, b"1\n"))) as reader,
        pytest.raises(DataError, match=r"takes more than 128 MiB to unpack\n  .* without --long"),
    ):
        list(reader)


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 30])
def test_gzip_is_read_to_its_checksum(tmp_path: Path, cut: int) -> None:
    data = gzip.compress(b"".join(LINES))
    with (
        open_raw(raw_file(tmp_path / "a.jsonl.gz", data[:-cut])) as reader,
        pytest.raises(DataError, match="the data ends in the middle of a stream"),
    ):
        list(reader)


def test_a_file_that_cannot_be_opened_or_read_is_named(tmp_path: Path) -> None:
    raw = raw_file(tmp_path / "a.jsonl", b"{}\n")
    assert raw.size_bytes == 3
    raw.path.unlink()
    message = r"a\.jsonl: cannot be read after line 0: No such file or directory\n  Mend"
    with pytest.raises(DataError, match=message), open_raw(raw):
        pass
    memory = Path("/proc/self/mem")  # reading its first page fails like a broken disk
    if not memory.exists():
        pytest.skip("needs /proc/self/mem")
    raw.path.symlink_to(memory)
    message = r"a\.jsonl: cannot be read after line 0: Input/output error"
    with open_raw(raw) as reader:
        with pytest.raises(DataError, match=message):
            list(reader)
        with pytest.raises(DataError, match=message):
            reader.digest()


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    with open_raw(raw_file(tmp_path / "a.jsonl", b"")) as reader:
        assert list(reader) == []


def test_a_byte_order_mark_is_skipped_at_the_start_only(tmp_path: Path) -> None:
    mark = raw_files.BYTE_ORDER_MARK
    with open_raw(raw_file(tmp_path / "a.jsonl", mark + b"1\n" + mark + b"2\r\n3")) as reader:
        assert list(reader) == [b"1\n", mark + b"2\r\n", b"3"]


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_reader, "MAX_LINE_BYTES", 10)
    monkeypatch.setattr(raw_reader, "_PIECE_BYTES", 4)
    data = b"short\n" + b"x" * 35 + b"\n" + b"y" * 10 + b"\n" + b"z" * 10 + b"\nend"
    with open_raw(raw_file(tmp_path / "a.jsonl", data)) as reader:
        assert list(reader) == [b"short\n", b"x" * 11, b"y" * 10 + b"\n", b"z" * 10 + b"\n", b"end"]


BOMB_BYTES = 150_000_000
BOMBS: dict[str, Callable[[], bytes]] = {
    "a.jsonl.gz": lambda: gzip.compress(bytes(BOMB_BYTES), 1),
    "a.jsonl.zst": lambda: COMPRESSORS[".zst"](bytes(BOMB_BYTES)),
    "a.jsonl.bz2": lambda: b"".join([bz2.compress(bytes(BOMB_BYTES // 100))] * 100),
    "a.zip": lambda: zip_of({"a.jsonl": bytes(BOMB_BYTES)}),
    "a.tar.zst": lambda: COMPRESSORS[".zst"](tar_of({"a.jsonl": bytes(BOMB_BYTES)})),
}


@pytest.mark.parametrize("name", BOMBS)
def test_data_that_unpacks_to_much_more_is_read_in_pieces(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_reader, "MAX_LINE_BYTES", 1_000_000)
    raw = raw_file(tmp_path / name, BOMBS[name]())
    assert raw.size_bytes < BOMB_BYTES / 100
    tracemalloc.start()
    with open_raw(raw) as reader:
        assert [len(line) for line in reader] == [1_000_001]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 40_000_000


CLEAN = """
import sys
from pathlib import Path
from utils.articles import CleanerSettings
from utils.cleaning.file_cleaner import clean_file
from utils.cleaning.inputs.raw_files import find_raw_files
folder = Path(sys.argv[1])
settings = CleanerSettings.model_validate_json(sys.argv[2])
(raw,) = find_raw_files(folder)
marker = clean_file(raw, folder / "cleaned", settings, lambda *_: None).marker
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(marker.records, marker.articles, int(peak.split()[1]) // 1000)
"""


def clean_in_a_process(folder: Path) -> tuple[int, int, int]:
    """Records, articles, and the most memory that the process had, in MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status")
    settings = SETTINGS.model_copy(update={"max_bad_share": 0.5})
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, str(folder), settings.model_dump_json()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    records, articles, peak_mb = map(int, done.stdout.split())
    return records, articles, peak_mb


ARTICLE = {"title": "River", "text": "The river runs past a city to the sea.\n" * 20}


def record_of(size_bytes: int) -> bytes:
    """A real article's shape: most of a long line is not text."""
    record = {**ARTICLE, "references": [{"text": "x" * size_bytes}]}
    return json.dumps(record).encode() + b"\n"


def test_a_worker_keeps_to_80_mb_with_long_lines(tmp_path: Path) -> None:
    limit = raw_files.MAX_LINE_BYTES
    with (tmp_path / "a.jsonl").open("wb") as file:
        for size_bytes in (100, limit - 2_000, limit, 100, 5 * limit, 100):
            file.write(record_of(size_bytes))
    records, articles, peak_mb = clean_in_a_process(tmp_path)
    assert (records, articles) == (6, 4)
    assert peak_mb < 80


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.zip", "a.tar.gz"])
def test_more_than_a_gigabyte_is_cleaned_in_80_mb(tmp_path: Path, name: str) -> None:
    records = 60_000
    lines = record_of(20_000) * records
    assert len(lines) > 1_200_000_000
    if name == "a.zip":
        data = zip_of({"a.jsonl": lines})
    elif name == "a.tar.gz":
        data = gzip.compress(tar_of({"a.jsonl": lines}), 1)
    else:
        data = COMPRESSORS[Path(name).suffix if name != "a.jsonl" else ""](lines)
    (tmp_path / name).write_bytes(data)
    del lines, data
    *counts, peak_mb = clean_in_a_process(tmp_path)
    assert counts == [records, records]
    assert peak_mb < 80


def test_a_changed_archive_is_noticed_and_a_touched_one_read_no_further_than_its_member(
    tmp_path: Path,
) -> None:
    raw_dir, cleaned_dir = tmp_path / "raw", tmp_path / "cleaned"
    raw_dir.mkdir()
    members = {f"a_{n}.jsonl": json.dumps({**ARTICLE, "title": str(n)}).encode() for n in range(3)}

    def reasons() -> list[str | None]:
        return [
            file_cleaner.reason_to_clean(raw, cleaned_dir, SETTINGS)
            for raw in find_raw_files(raw_dir)
        ]

    (raw_dir / "a.zip").write_bytes(zip_of(members))
    for raw in find_raw_files(raw_dir):
        marker = file_cleaner.clean_file(raw, cleaned_dir, SETTINGS, lambda *_: None).marker
        assert raw.member is not None
        assert marker.input_name == f"a.zip!{raw.member.name}"
        assert marker.input_bytes == raw.member.stored_bytes
    assert reasons() == [None, None, None]
    members["a_1.jsonl"] = members["a_1.jsonl"].replace(b"river", b"RIVER")
    (raw_dir / "a.zip").write_bytes(zip_of(members))
    assert reasons() == [None, "the raw file changed", None]


def test_lines_in_archives_have_a_place(tmp_path: Path) -> None:
    zipped = {"d/b.jsonl": b"1\n2\n", "a.jsonl.gz": gzip.compress(b"3")}
    (tmp_path / "z.zip").write_bytes(zip_of(zipped))
    tarred = {"c.jsonl": b"4\n5", "./d.ndjson": b"6\n"}
    (tmp_path / "t.tgz").write_bytes(gzip.compress(tar_of(tarred)))
    assert lines_of(tmp_path) == [
        ("t.tgz!c.jsonl:1", b"4\n"),
        ("t.tgz!c.jsonl:2", b"5"),
        ("t.tgz!./d.ndjson:1", b"6\n"),
        ("z.zip!a.jsonl.gz:1", b"3"),
        ("z.zip!d/b.jsonl:1", b"1\n"),
        ("z.zip!d/b.jsonl:2", b"2\n"),
    ]
