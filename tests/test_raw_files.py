"""Raw files: which are found in a folder and in its zip archives, in which order, and which not."""

import importlib.util
from pathlib import Path

import pytest

from tests.packing import zip_of
from utils.cleaning.inputs.raw_files import find_raw_files
from utils.cleaning.inputs.raw_names import split_name
from utils.errors import DataError


def test_files_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["w_10.jsonl", "w_2.jsonl.gz", "w_1.ndjson", "a.json-lines.zst", "W_3.JSONL.BZ2"]
    more = ["t_1.tar.gz", "p.parquet", "p.parquet.gz", "w_4.jsonl.7z", "z.zip.gz"]
    for name in [*names, *more, "notes.txt", ".hidden.jsonl", "data.json", ".jsonl", ".zip"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "w_5.zip").write_bytes(zip_of({"b_10.jsonl": b"", "x/b_9.ndjson.zst": b""}))
    found = find_raw_files(tmp_path)
    assert [(raw.stem, raw.format, raw.compression) for raw in found] == [
        ("W_3", ".jsonl", ".bz2"),
        ("a", ".json-lines", ".zst"),
        ("p", ".parquet", ""),
        ("t_1", ".tar", ".gz"),
        ("w_1", ".ndjson", ""),
        ("w_2", ".jsonl", ".gz"),
        ("b_9", ".ndjson", ".zst"),
        ("b_10", ".jsonl", ""),
        ("w_10", ".jsonl", ""),
    ]
    members = [raw.name for raw in found if raw.member]
    assert members == ["w_5.zip!x/b_9.ndjson.zst", "w_5.zip!b_10.jsonl"]


@pytest.mark.parametrize(
    ("name", "stem", "compression"),
    [
        ("enwiki-NS0-2024-ENTERPRISE-HTML.json.tar.gz", "enwiki-NS0-2024-ENTERPRISE-HTML", ".gz"),
        ("a.b.TGZ", "a.b", ".gz"),
        ("a.jsonl.tar", "a", ""),
        ("a.tar.zst", "a", ".zst"),
        ("a.tbz2", "a", ".bz2"),
    ],
)
def test_names_of_tar_archives(name: str, stem: str, compression: str) -> None:
    assert split_name(name) == (stem, ".tar", compression)


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "a.jsonl.gz").touch()
    with pytest.raises(DataError, match=r"a\.jsonl and a\.jsonl\.gz have one stem, a, and would"):
        find_raw_files(tmp_path)
    (tmp_path / "a.jsonl.gz").unlink()
    (tmp_path / "dump.zip").write_bytes(zip_of({"x/a.ndjson": b""}))
    with pytest.raises(DataError, match=r"a\.jsonl and dump\.zip!x/a\.ndjson have one stem, a"):
        find_raw_files(tmp_path)


def test_no_files_is_an_error_that_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no such folder of raw files\n  Put the dump there \(\.js"
    ):
        find_raw_files(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no raw files \(\.jsonl, \.ndjson, .*it holds nothing"):
        find_raw_files(tmp_path)
    (tmp_path / "dump.7z").touch()
    with pytest.raises(
        DataError, match=r"\.zip; \.parquet\); it holds only dump\.7z\n  Put the dump there, unp"
    ):
        find_raw_files(tmp_path)


def test_wikitext_dumps_are_told_from_others(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"enwiki-pages-articles{number}.xml.bz2").touch()
    with pytest.raises(
        DataError, match=r"articles2\.xml\.bz2, \.\.\.\n  A MediaWiki XML dump holds wikitext"
    ):
        find_raw_files(tmp_path)


def test_parquet_without_its_package_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError,
        match=r"a\.parquet: reading Parquet needs the package pyarrow\n  pip install pyarrow \(",
    ):
        find_raw_files(tmp_path)
