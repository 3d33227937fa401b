"""The cleaned-text format: what is written is read back, and what is unfinished is refused."""

from pathlib import Path
from typing import Any

import pytest

from utils.articles import (
    ArticleWriter,
    CleanedMarker,
    CleanerSettings,
    cleaned_files,
    marker_path_of,
    read_articles,
    read_marker,
    read_markers,
    stem_of,
    text_path_of,
    write_marker,
)
from utils.errors import DataError
from utils.files import sha256_of

SETTINGS = CleanerSettings(
    min_characters=0, max_bad_share=0.5, limit_articles=None, drop_duplicate_texts=False
)
ARTICLES = ["Title\nOne.\nTwo.", "Ünïcode 𐤑\n\n    code", "x"]


def write(folder: Path, stem: str, articles: list[str], **changes: Any) -> Path:
    path = text_path_of(folder, stem)
    with path.open("wb") as file:
        writer = ArticleWriter(file)
        for article in articles:
            writer.write_all([article.split("\n")])
    marker = CleanedMarker(
        cleaner_version=1,
        settings=SETTINGS,
        input_name=f"{stem}.jsonl",
        input_bytes=10,
        input_modified_ns=1,
        input_xxh128="0" * 64,
        output_bytes=writer.size_bytes,
        output_sha256=writer.sha256,
        records=4,
        articles=writer.articles,
        characters=writer.characters,
        dropped={"redirect": 1},
        bad_lines={},
        rules={},
        truncated=False,
        duplicate_texts=0,
        cleaned_sha256=writer.sha256,
        pages_sha256="0" * 64,
        duplicates_sha256=None,
        compared="0" * 64,
    )
    write_marker(path, CleanedMarker.model_validate({**marker.model_dump(), **changes}))
    return path


def test_articles_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = write(tmp_path, "a", ARTICLES)
    assert list(read_articles(path)) == ARTICLES
    assert path.read_bytes().decode().split("\n") == [
        "Title\u2029One.\u2029Two.",
        "Ünïcode 𐤑\u2029\u2029    code",
        "x",
        "",
    ]
    marker = read_marker(path)
    assert marker.articles == 3
    assert marker.characters == sum(map(len, ARTICLES))
    assert (marker.output_bytes, marker.output_sha256) == (path.stat().st_size, sha256_of(path))


def test_files_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for stem in ("w_10", "w_2", "w_1", "v_3"):
        write(tmp_path, stem, ARTICLES)
    assert [stem_of(path) for path in cleaned_files(tmp_path)] == ["v_3", "w_1", "w_2", "w_10"]


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder of cleaned text\n  Run cleaner\.py first"):
        cleaned_files(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no cleaned_\*\.txt\n  Run cleaner\.py first"):
        cleaned_files(tmp_path)


def test_a_text_without_marker_is_unfinished(tmp_path: Path) -> None:
    write(tmp_path, "a", ARTICLES)
    path = write(tmp_path, "b", ARTICLES)
    marker_path_of(path).unlink()
    with pytest.raises(DataError, match=r"unfinished, no marker: cleaned_b\.txt"):
        cleaned_files(tmp_path)
    with pytest.raises(DataError, match=r"unfinished, cleaned_b\.json is missing"):
        read_marker(path)


def limited(articles: int, **changes: Any) -> dict[str, Any]:
    settings = {**SETTINGS.model_dump(), "limit_articles": articles, **changes}
    return {"settings": settings, "truncated": articles == len(ARTICLES)}


def test_texts_that_stopped_at_the_limit_are_named(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "a", ARTICLES),
        write(tmp_path, "b", ARTICLES, **limited(3), input_xxh128=None),
        write(tmp_path, "c", ARTICLES, **limited(9)),
        write(tmp_path, "d", ARTICLES, **limited(3)),
    ]
    assert list(read_markers(tmp_path, allow_truncated=True)) == paths
    assert [read_marker(path).truncated for path in paths] == [False, True, False, True]
    message = r"cleaner\.py --test stopped before the end of cleaned_b\.txt, cleaned_d\.txt\n"
    with pytest.raises(DataError, match=message + r"  Run cleaner\.py without --test") as caught:
        read_markers(tmp_path, allow_truncated=False)
    assert str(tmp_path) in caught.value.what


@pytest.mark.parametrize("change", [{"cleaner_version": 2}, limited(9, min_characters=1)])
def test_texts_cleaned_in_different_ways_are_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write(tmp_path, "a", ARTICLES)
    write(tmp_path, "b", ARTICLES, **change)
    message = r"cleaned_a\.txt and cleaned_b\.txt were cleaned by different versions of the cleaner"
    for allow_truncated in (True, False):
        with pytest.raises(DataError, match=message) as caught:
            read_markers(tmp_path, allow_truncated)
    assert "Run cleaner.py" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"compared": None}, r"cleaned_b\.txt"),
        ({"compared": "1" * 64}, r"cleaned_a\.txt, cleaned_b\.txt"),
    ],
)
def test_texts_that_were_not_compared_with_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any], names: str
) -> None:
    write(tmp_path, "a", ARTICLES)
    path = write(tmp_path, "b", ARTICLES, **changes)
    message = rf"not yet compared for duplicates with all others: {names}\n  Run cleaner\.py again"
    with pytest.raises(DataError, match=message):
        read_markers(tmp_path, allow_truncated=True)
    path.unlink()
    assert len(read_markers(tmp_path, allow_truncated=True)) == 1, "less text is no more duplicates"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "the file: Invalid JSON"),
        ("{}", "cleaner_version: Field required"),
        ('{"format_version": 1}', "format_version: Input should be 2"),
    ],
)
def test_a_broken_marker_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, "a", ARTICLES)
    marker_path_of(path).write_text(content)
    with pytest.raises(DataError, match=f"cleaned_a.json: not a valid marker: {message}"):
        read_marker(path)


def test_a_damaged_text_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a", ARTICLES)
    path.write_bytes(b"fine\ncut o")
    with pytest.raises(DataError, match=r"cleaned_a\.txt:2: the last article is cut off"):
        list(read_articles(path))
    path.write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"cleaned_a\.txt:2: not UTF-8 text"):
        list(read_articles(path))
