"""Raw files: which are found in a folder and in its zip archives, in which order, and which not."""

import importlib.util
import os
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


def test_what_looks_like_a_dump_and_is_not_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").touch()
    for name in ("notes.txt", ".hidden.7z", ".git/x.jsonl", "papers/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    find_raw_files(tmp_path)
    assert capsys.readouterr().err == ""
    for name in ("x.jsonl.xz", "x.7z", "x.json", "x.xml.bz2", "x.json.gz", "sub/deep/b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
        assert [raw.stem for raw in find_raw_files(tmp_path)] == ["a"]
        assert f"warning: {tmp_path}: not read: {name}. Put dumps" in capsys.readouterr().err
        (tmp_path / name).unlink()
    for number in range(9):
        (tmp_path / f"x_{number}.json").touch()
    find_raw_files(tmp_path)
    said = capsys.readouterr().err
    assert "not read: x_0.json, x_1.json, x_2.json, .... Put" in said
    assert said.count("warning") == 1


def test_a_broken_link_to_a_dump_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone.txt")
    assert [raw.stem for raw in find_raw_files(tmp_path)] == ["a"]
    (tmp_path / "b.jsonl.gz").symlink_to("gone.gz")
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: a broken link to gone\.gz\n  Mend it"):
        find_raw_files(tmp_path)


@pytest.mark.parametrize("name", [b"a\xff.jsonl", b"x" * 201 + b".jsonl", b"a\n.jsonl"])
def test_a_file_that_no_text_can_be_named_after_is_refused(tmp_path: Path, name: bytes) -> None:
    try:
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()  # noqa: PTH118, PTH123
    except OSError as error:
        pytest.skip(f"no such name here: {error}")
    with pytest.raises(DataError, match="a text cannot be named after it\n  Rename it") as raised:
        find_raw_files(tmp_path)
    assert str(raised.value).encode()


def test_members_named_json_are_in_the_archives_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump.zip").write_bytes(zip_of({"a.jsonl": b"", "d/b.json": b"", "c.txt": b""}))
    find_raw_files(tmp_path)
    assert f"{tmp_path}/dump.zip: not read of it: d/b.json. Unpack" in capsys.readouterr().err


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
        DataError, match=r"articles2\.xml\.bz2, \.\.\.\n  A MediaWiki XML dump holds wikitext.*`wi"
    ):
        find_raw_files(tmp_path)


@pytest.mark.parametrize("folder", ["AA", "extracted/AA"])
def test_the_folders_of_wikiextractor_have_a_hint_of_their_own(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "wiki_00").touch()
    with pytest.raises(
        DataError,
        match=rf"it holds only {folder}/wiki_00\n  Let wikiextractor .*`wikiextractor -",
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
