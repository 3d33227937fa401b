"""Real records give the same cleaned text out of every format, through cleaner.py."""

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import cleaner
from tests.packing import COMPRESSORS, tar_of, zip_of
from tests.test_cleaner import arguments
from utils.articles import read_marker, text_path_of
from utils.errors import DataError

PARTS = 3
RECORDS = 40  # of each file of records, for each part
Parts = dict[str, bytes]  # by the name of the file that they would be alone


@pytest.fixture(scope="module")
def parts(shared_dir: Path) -> Parts:
    """Real records of three shapes, in files of some megabytes."""
    data = shared_dir / "data"
    sources = [
        (data / "structured_contents_real" / "wme_parser_pages.jsonl").read_bytes(),
        (data / "enwiki_namespace_0" / "enwiki_namespace_0_3.jsonl").read_bytes(),
        gzip.decompress((data / "enwiki_text_jsonl" / "enwiki_text_1.jsonl.gz").read_bytes()),
    ]
    lines = [source.split(b"\n") for source in sources]
    return {
        f"part_{part}.jsonl": b"".join(
            line + b"\n" for some in lines for line in some[part::PARTS][:RECORDS] if line
        )
        for part in range(PARTS)
    }


def cleaned(folder: Path, raw: Parts) -> dict[str, bytes]:
    """The texts by stem, after a run on these files."""
    (folder / "raw").mkdir(parents=True)
    for name, data in raw.items():
        (folder / "raw" / name).write_bytes(data)
    cleaner.main(arguments(folder, "--workers", "2"))
    paths = (folder / "cleaned").glob("cleaned_*.txt")
    return {path.stem.removeprefix("cleaned_"): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def expected(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    texts = cleaned(tmp_path_factory.mktemp("plain"), parts)
    assert all(text.count(b"\n") > RECORDS for text in texts.values())
    assert sorted(texts) == [f"part_{part}" for part in range(PARTS)]
    return texts


def parquet_of(lines: bytes, as_json: bool) -> bytes:
    """The rows as published: sections as lists, or, as other tools read them, as JSON strings."""
    rows = [storable(json.loads(line)) for line in lines.splitlines()]
    for row in rows:
        for name in ("sections", "infoboxes"):
            if as_json and name in row:
                row[name] = json.dumps(row[name])
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(with_all_keys(rows)), sink, row_group_size=50)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def storable(value: Any) -> Any:
    """The value without empty objects, for which Parquet has no type."""
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items() if item != {}}
    return [storable(item) for item in value] if isinstance(value, list) else value


def with_all_keys(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Arrow takes a table's columns from its first row."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


FORMATS: dict[str, Callable[[Parts], Parts]] = {
    "zip": lambda parts: {"all.zip": zip_of(parts)},
    "zip, stored": lambda parts: {"all.zip": zip_of(parts, zipfile.ZIP_STORED)},
    "zip with folders, bzip2, gz": lambda parts: {
        "all.zip": zip_of(
            {f"x/{name}.gz": gzip.compress(data) for name, data in parts.items()},
            zipfile.ZIP_BZIP2,
        )
    },
    "a zip beside a plain file": lambda parts: {
        "a.zip": zip_of({name: data for name, data in parts.items() if "1" in name}),
        **{name: data for name, data in parts.items() if "1" not in name},
    },
    "tar.gz each": lambda parts: {
        name.replace(".jsonl", ".tar.gz"): gzip.compress(tar_of({"README.md": b"#", name: data}))
        for name, data in parts.items()
    },
    "compressed each": lambda parts: {
        f"{name}{suffix}": COMPRESSORS[suffix](parts[name])
        for name, suffix in zip(sorted(parts), (".gz", ".zst", ".bz2"), strict=True)
    },
    "parquet": lambda parts: {
        name.replace(".jsonl", ".parquet"): parquet_of(data, as_json=False)
        for name, data in parts.items()
    },
    "parquet with JSON": lambda parts: {
        name.replace(".jsonl", ".parquet"): parquet_of(data, as_json=True)
        for name, data in parts.items()
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_text(
    tmp_path: Path, parts: Parts, expected: dict[str, bytes], name: str
) -> None:
    assert cleaned(tmp_path, FORMATS[name](parts)) == expected


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_tar_archive_gives_its_members_in_one_text(
    tmp_path: Path, parts: Parts, expected: dict[str, bytes], suffix: str
) -> None:
    archive = {f"dump.json.tar{suffix}": COMPRESSORS[suffix](tar_of(parts))}
    assert cleaned(tmp_path, archive) == {
        "dump": b"".join(expected[stem] for stem in sorted(expected))
    }


def test_bad_lines_and_left_out_members_are_told_with_their_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = b'{"title": "T", "text": "A river runs to the sea and past a city."}\n'
    members = {"a.jsonl": good * 9, "b.jsonl": good + b"{\n", "c.zip": b""}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "z.zip").write_bytes(zip_of(members))
    members = {f"d/{name}": data for name, data in members.items()}
    (tmp_path / "raw" / "t.tgz").write_bytes(gzip.compress(tar_of(members)))
    columns = {"title": ["T", "T"], "text": pa.array([b"A river to the sea", b"\xff"])}
    parquet.write_table(pa.table(columns), tmp_path / "raw" / "p.parquet")
    cleaner.main(arguments(tmp_path, "--set", "cleaner.max_bad_share=0.5"))
    said = capfd.readouterr().err
    raw = re.escape(f"{tmp_path}/raw")
    for pattern in (
        rf"first: {raw}/z\.zip!b\.jsonl:2: Input data was truncated",
        rf"first: {raw}/t\.tgz!d/b\.jsonl:2: Input data was truncated",
        rf"first: {raw}/p\.parquet:2: invalid start byte",
        rf"warning: {raw}/z\.zip: not read of it: c\.zip\. Unpack",
        rf"warning: {raw}/t\.tgz: not read of it: d/c\.zip\. Unpack",
        r"\nb: 1 articles of 2 records",
        r"\nt: \d+ articles of 11 records",
    ):
        assert re.search(pattern, said), said
    assert read_marker(text_path_of(tmp_path / "cleaned", "b")).input_name == "z.zip!b.jsonl"


def test_a_damaged_member_fails_alone(tmp_path: Path) -> None:
    good = b'{"title": "T", "text": "A river runs to the sea and past a city."}\n'
    data = bytearray(zip_of({f"a_{n}.jsonl": good for n in range(3)}, zipfile.ZIP_STORED))
    data[data.index(b"a_1.jsonl") + 30] ^= 1
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "z.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"z\.zip!a_1\.jsonl: damaged \.zip data") as raised:
        cleaner.main(arguments(tmp_path))
    assert "1 of 3 files failed; the others are finished." in str(raised.value)
    names = {path.name for path in (tmp_path / "cleaned").glob("*.txt")}
    assert names == {"cleaned_a_0.txt", "cleaned_a_2.txt"}
