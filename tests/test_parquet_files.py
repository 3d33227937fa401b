"""Parquet files: rows as the lines of JSON that they were, whatever types their columns have."""

import datetime
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from pyarrow import parquet

from utils.cleaning.inputs import parquet_files
from utils.cleaning.inputs.raw_files import find_raw_files
from utils.cleaning.inputs.raw_reader import open_raw
from utils.cleaning.records import record_fields
from utils.cleaning.records.wikipedia import BadLine, Dropped, read_record
from utils.errors import DataError

ROWS = [{"title": f"T{n}", "text": f"Text {n}. " * (n % 40), "views": n} for n in range(1_000)]


def write(folder: Path, columns: Mapping[str, Any], **options: Any) -> Path:
    path = folder / "a.parquet"
    parquet.write_table(pa.table(dict(columns)), path, **options)
    return path


def lines_of(folder: Path) -> list[bytes]:
    (raw,) = find_raw_files(folder)
    with open_raw(raw) as reader:
        return list(reader)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(folder)]


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_rows_come_back_from_many_row_groups(
    tmp_path: Path, compression: str, version: str
) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.Table.from_pylist(ROWS),
        path,
        row_group_size=300,
        compression=compression,
        data_page_version=version,
        write_page_checksum=True,
    )
    (raw,) = find_raw_files(tmp_path)
    with open_raw(raw) as reader:
        rows, shares = [], []
        for line in reader:
            rows.append(json.loads(line))
            shares.append(reader.bytes_read / reader.size_bytes)
            assert reader.place == f"{path}:{len(rows)}"
        assert rows == [{"title": row["title"], "text": row["text"]} for row in ROWS]
        assert shares == sorted(shares)
        assert shares[500] == pytest.approx(0.5, abs=0.02)
        assert reader.bytes_read == reader.size_bytes == path.stat().st_size
        assert reader.digest() == xxhash.xxh3_128_hexdigest(path.read_bytes())


def test_the_columns_are_those_that_the_reader_of_records_knows() -> None:
    fields = record_fields.Record.__struct_encode_fields__
    assert {"title", "text", "sections", "in_language", *fields} <= record_fields.RECORD_KEYS
    assert "infoboxes" not in record_fields.RECORD_KEYS


def test_nulls_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"title": ["A", "B", None], "text": ["x", None, None]})
    assert rows_of(tmp_path) == [{"title": "A", "text": "x"}, {"title": "B"}, {}]


COLUMNS = {
    "large_string": pa.array(["é", None], pa.large_string()),
    "string_view": pa.array(["é", None], pa.string_view()),
    "dictionary": pa.array(["é", None]).dictionary_encode(),
    "binary": pa.array(["é".encode(), None], pa.binary()),
    "large_binary": pa.array(["é".encode(), None], pa.large_binary()),
    "binary_view": pa.array(["é".encode(), None], pa.binary_view()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_texts_of_any_type(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"title": ["A", "B"], "text": COLUMNS[name]})
    assert rows_of(tmp_path) == [{"title": "A", "text": "é"}, {"title": "B"}]


MOMENT = datetime.datetime(2024, 9, 16, 12, 30, 5, tzinfo=datetime.UTC)
VALUES = {
    "seconds": (pa.array([MOMENT], pa.timestamp("s", "UTC")), "2024-09-16T12:30:05Z"),
    "nanoseconds": (pa.array([1_000_000_001], pa.timestamp("ns")), "1970-01-01T00:00:01"),
    "date": (pa.array([MOMENT.date()]), "2024-09-16"),
    "decimal": (pa.array([Decimal("1.50")]), "1.50"),
    "integer": (pa.array([1 << 63], pa.uint64()), 1 << 63),
    "number": (pa.array([1.5]), 1.5),
    "not a number": (pa.array([float("nan")]), None),
    "boolean": (pa.array([True]), True),
    "struct": (pa.array([{"a": {"b": [1, None]}}]), {"a": {"b": [1, None]}}),
    "bytes in a list": (pa.array([[{"a": b"x"}]]), [{"a": "x"}]),
    "time in a list": (
        pa.array([[{"a": 1}]], pa.large_list(pa.struct({"a": pa.timestamp("ns")}))),
        [{"a": "1970-01-01T00:00:00"}],
    ),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_json_has_no_type_for(tmp_path: Path, kind: str) -> None:
    column, expected = VALUES[kind]
    write(tmp_path, {"text": column})
    assert rows_of(tmp_path) == [{"text": expected}]


FAR = 1 << 62
OUT_OF_RANGE = {
    "moment": pa.array([0, FAR, None], pa.timestamp("us")),
    "day": pa.array([0, (1 << 31) - 1, None], pa.date32()),
    "duration": pa.array([0, FAR, None], pa.duration("s")),
    "nanoseconds": pa.array([0, 1_001, None], pa.time64("ns")),
}


@pytest.mark.parametrize("kind", OUT_OF_RANGE)
def test_values_that_python_cannot_hold_are_text_and_the_others_what_they_were(
    tmp_path: Path, kind: str
) -> None:
    write(tmp_path, {"title": ["A", "B", "C"], "text": OUT_OF_RANGE[kind]})
    first, second, third = rows_of(tmp_path)
    assert first["text"] in ("1970-01-01T00:00:00", "1970-01-01", "PT0S", "P0D", "00:00:00")
    assert re.search(r"range: \d+|^\d{19}$|001001", second["text"])
    assert third == {"title": "C"}


def test_such_a_value_inside_another_is_an_error_that_names_the_column(tmp_path: Path) -> None:
    write(tmp_path, {"text": pa.array([[FAR]], pa.list_(pa.timestamp("us")))})
    with pytest.raises(
        DataError, match=r"a\.parquet: damaged .* line 0: column text: a value out of range: date"
    ):
        lines_of(tmp_path)


def test_sections_as_lists_and_as_json_make_the_same_article(tmp_path: Path) -> None:
    paragraph = {"type": "paragraph", "value": "A river.", "links": [{"url": "u", "text": "t"}]}
    inner = {"type": "section", "name": "Course", "has_parts": [paragraph]}
    sections = [{"type": "section", "name": "Abstract", "has_parts": [paragraph, inner]}]
    record = {"name": "River", "sections": sections}
    expected = read_record(json.dumps(record).encode())
    for column in ([sections], [json.dumps(sections)]):
        write(tmp_path, {"name": ["River"], "sections": column})
        (line,) = lines_of(tmp_path)
        assert read_record(line) == expected


def test_records_without_content_are_told_from_other_shapes(tmp_path: Path) -> None:
    write(tmp_path, {"name": ["A", None], "identifier": [1, 2], "url": ["u", None], "x": [0, 0]})
    empty, other = lines_of(tmp_path)
    assert read_record(empty) == Dropped("empty")
    with pytest.raises(BadLine, match="keys: identifier"):
        read_record(other)


def test_a_row_that_is_not_utf8_is_a_bad_line_and_the_others_are_good(tmp_path: Path) -> None:
    texts = pa.array([b"\xff" if n == 20 else b"good" for n in range(40)])
    for column in (texts, pa.array(texts).view(pa.string())):
        write(tmp_path, {"title": ["A"] * 40, "text": column})
        lines = lines_of(tmp_path)
        kinds = []
        for number, line in enumerate(lines):
            try:
                assert json.loads(line) == {"title": "A", "text": "good"}
            except UnicodeDecodeError:
                kinds.append(number)
                with pytest.raises(BadLine, match="invalid start byte") as raised:
                    read_record(line)
                assert raised.value.kind == "invalid_utf8"
        assert kinds == [20]
        assert len(lines) == 40


def test_long_rows_are_cut_as_long_lines_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "MAX_LINE_BYTES", 100)
    write(tmp_path, {"text": ["x" * 50, "x" * 500, "x"]})
    assert [len(line) for line in lines_of(tmp_path)] == [62, 101, 13]


def test_a_file_without_a_known_column_is_an_error_that_names_those_it_has(tmp_path: Path) -> None:
    write(tmp_path, {"prompt": ["A"], "answer": ["B"]})
    with pytest.raises(
        DataError, match=r"a\.parquet: no column is one of a record; it has prompt, answer\n  Known"
    ):
        lines_of(tmp_path)


def test_a_file_without_rows_has_no_lines(tmp_path: Path) -> None:
    write(tmp_path, {"title": pa.array([], pa.string())})
    assert lines_of(tmp_path) == []


@pytest.mark.parametrize("harm", ["empty", "cut", "foreign", "flipped"])
def test_damaged_files_are_an_error_that_names_the_place(tmp_path: Path, harm: str) -> None:
    rows = [f"{n} times {n} is {n * n}" for n in range(500)]
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    path = write(tmp_path, {"text": rows}, row_group_size=100, **options)
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[data.index(rows[250].encode())] ^= 1
    else:
        data = {"empty": bytearray(), "cut": data[:-100], "foreign": bytearray(b"text" * 99)}[harm]
    path.write_bytes(data)
    line = 192 if harm == "flipped" else 0  # the batch that row 200 and its page are read for
    with pytest.raises(
        DataError, match=rf"a\.parquet: damaged \.parquet data after line {line}: .+\n  Download"
    ):
        lines_of(tmp_path)


def test_a_broken_disk_is_named(tmp_path: Path) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("needs /proc/self/mem")
    (tmp_path / "a.parquet").symlink_to(memory)
    with pytest.raises(DataError, match=r"a\.parquet: "):
        lines_of(tmp_path)
