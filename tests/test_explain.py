"""`cleaner.py --explain`: one record before and after, with what happened to it."""

import json
import zipfile
from pathlib import Path

import pytest

import cleaner
from utils.articles import CleanerSettings, read_articles, text_path_of
from utils.cleaning.explain import explain
from utils.cleaning.file_cleaner import clean_file
from utils.cleaning.inputs.raw_files import find_raw_files
from utils.errors import DataError


def section(name: str, *parts: dict[str, object]) -> dict[str, object]:
    return {"type": "section", "name": name, "has_parts": list(parts)}


def paragraph(value: str) -> dict[str, object]:
    return {"type": "paragraph", "value": value}


RECORDS: list[dict[str, object]] = [
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
    before, after, left_out, changes = explain(raw_file, 1, 10).split("\n--- ")[1:]
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
    assert explain(raw_file, 2, 10).endswith("\ndropped: disambiguation")
    assert "\nno record (wrong_type): Expected `str" in explain(raw_file, 3, 10)


def test_what_is_too_short_once_it_is_clean_says_so(raw_file: Path) -> None:
    length = len("Uber\nUber's cars are Monroe-inspired.\nHistory\n")
    length += len("It began. The rest is known, in Uber's words.")
    assert "dropped" not in explain(raw_file, 1, length)
    lines = explain(raw_file, 1, length + 1).splitlines()
    assert lines[:2] == [f"record 1 of {raw_file}", "dropped: too_short"]
    assert lines[3] == "--- before"


def test_what_is_shown_is_what_is_written(raw_file: Path, tmp_path: Path) -> None:
    """Rules for the faults of the parser of Structured Contents leave other text alone."""
    text = "Uber 's cars (listen) are Monroe -inspired.It began ( ; born 1745 ) "
    records = [
        {"title": "Go", "text": text},
        {**RECORDS[0], "sections": [section("Abstract", paragraph(text))]},
    ]
    raw_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    raw = find_raw_files(tmp_path)[0]
    settings = CleanerSettings(
        min_characters=1, max_bad_share=0, limit_articles=None, drop_duplicate_texts=False
    )
    clean_file(raw, tmp_path, settings, lambda *_: None)
    written = list(read_articles(text_path_of(tmp_path, raw.stem)))
    for number, article in enumerate(written, start=1):
        after = explain(raw_file, number, 1).split("\n--- ")[2]
        assert after.removeprefix("after\n").rstrip("\n") == article


def test_a_member_of_an_archive_is_named_behind_it(raw_file: Path, tmp_path: Path) -> None:
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(raw_file, "part_0.jsonl")
        file.writestr("folder/part_2.jsonl", json.dumps(RECORDS[1]))
        file.writestr("part_1.jsonl", json.dumps(RECORDS[1]))
    raw_file.unlink()
    assert "Monroe-inspired" in explain(tmp_path / "all.zip!part_0.jsonl", 1, 10)
    in_folder = explain(tmp_path / "all.zip!folder/part_2.jsonl", 1, 10)
    assert in_folder.endswith("dropped: disambiguation")
    with pytest.raises(DataError, match=r"holds 3 files\n *Name one .* reads: all\.zip!part_0"):
        explain(archive, 1, 10)
    with pytest.raises(DataError, match=r"wrong\.jsonl: no such file in all\.zip"):
        explain(tmp_path / "all.zip!wrong.jsonl", 1, 10)


def test_an_only_member_is_meant_by_its_archive_and_by_no_other_name(
    raw_file: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as file:
        file.write(raw_file, "part_0.jsonl")
    assert "Monroe-inspired" in explain(tmp_path / "one.zip", 1, 10)
    with pytest.raises(
        DataError, match=r"wrong\.jsonl: no such .*\n *Name .*: one\.zip!part_0\.jsonl$"
    ):
        explain(tmp_path / "one.zip!wrong.jsonl", 1, 10)


@pytest.mark.parametrize("number", [-1, 0, 4])
def test_records_that_are_not_there(raw_file: Path, number: int) -> None:
    with pytest.raises(DataError, match=f"has no record {number}"):
        explain(raw_file, number, 10)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such raw file"):
        explain(tmp_path / "none.jsonl", 1, 10)


def test_the_command(raw_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cleaner.main(["--explain", str(raw_file), "--record", "2"])
    captured = capfd.readouterr()
    assert captured.out == f"record 2 of {raw_file}\ndropped: disambiguation\n"
    assert not captured.err
    cleaner.main(["--explain", str(raw_file), "--set", "cleaner.min_characters=99999"])
    assert f"record 1 of {raw_file}\ndropped: too_short\n" in capfd.readouterr().out


def test_a_record_without_a_file_is_wrong_usage(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cleaner.main(["--record", "2"])
    assert raised.value.code == 2
    assert "--record goes with --explain" in capfd.readouterr().err
