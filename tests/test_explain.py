"""`cleaner.py --explain`: one record before and after, with what happened to it."""

import json
import zipfile
from pathlib import Path

import pytest

import cleaner
from utils.cleaning.explain import explain
from utils.errors import DataError


def section(name: str, *parts: dict[str, object]) -> dict[str, object]:
    return {"type": "section", "name": name, "has_parts": list(parts)}


def paragraph(value: str) -> dict[str, object]:
    return {"type": "paragraph", "value": value}


RECORDS = [
    {
        "name": "Uber",
        "identifier": 1,
        "url": "https://en.wikipedia.org/wiki/Uber",
        "in_language": {"identifier": "en"},
        "sections": [
            section("Abstract", paragraph("Uber 's cars (listen) are Monroe -inspired.")),
            section("History", paragraph("It began.The rest is known, in Uber 's words.")),
            section("Empty"),
            section("References", paragraph("↑ Smith 1999, p. 7")),
        ],
    },
    {"title": "Go", "text": "Go may refer to:\n\nGo, a game\n\nGo, a language"},
    {"title": 1},
]


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    path = tmp_path / "dump.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    return path


def test_a_record_before_and_after_with_its_changes(raw_file: Path) -> None:
    before, after, left_out, changes = explain(raw_file, 1).split("\n--- ")[1:]
    assert before.splitlines()[1:] == [
        "Uber",
        "Uber 's cars (listen) are Monroe -inspired.",
        "# History",
        "It began.The rest is known, in Uber 's words.",
    ]
    assert after.splitlines()[1:] == [
        "Uber",
        "Uber's cars are Monroe-inspired.",
        "History",
        "It began. The rest is known, in Uber's words.",
    ]
    assert left_out.splitlines()[1:] == ["Empty: empty", "References: sources and links"]
    lines = changes.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [
        "5 changes",
        "glued_sentences: 1",
        "listen: 1",
        "spaced_hyphen: 1",
        "spaced_possessive: 2",
    ]
    assert "  - It began.The rest is known, ..." in lines
    assert "  + It began. The rest is known, ..." in lines


def test_what_is_dropped_or_bad_says_why(raw_file: Path) -> None:
    assert explain(raw_file, 2).endswith("\ndropped: disambiguation")
    assert "\nno record (wrong_type): Expected `str" in explain(raw_file, 3)


def test_a_member_of_an_archive_is_named_behind_it(raw_file: Path, tmp_path: Path) -> None:
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(raw_file, "part_0.jsonl")
        file.writestr("part_1.jsonl", json.dumps(RECORDS[1]))
    raw_file.unlink()
    assert "Monroe-inspired" in explain(tmp_path / "all.zip!part_0.jsonl", 1)
    with pytest.raises(DataError, match=r"holds 2 files\n *Name one of them: all\.zip!part_0"):
        explain(archive, 1)


@pytest.mark.parametrize("number", [-1, 0, 4])
def test_records_that_are_not_there(raw_file: Path, number: int) -> None:
    with pytest.raises(DataError, match=f"has no record {number}"):
        explain(raw_file, number)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such raw file"):
        explain(tmp_path / "none.jsonl", 1)


def test_the_command(raw_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cleaner.main(["--explain", str(raw_file), "--record", "2"])
    captured = capfd.readouterr()
    assert captured.out == f"record 2 of {raw_file}\ndropped: disambiguation\n"
    assert not captured.err
