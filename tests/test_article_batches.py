import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_text import write_cleaned
from utils.articles import CleanedMarker, read_articles, read_marker
from utils.errors import DataError
from utils.preparing import article_batches as module
from utils.preparing.article_batches import (
    ArticleBatch,
    check_content,
    check_size,
    read_batches,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\u2029"), max_size=20)
ARTICLES = ["Title\nText.", "", "é\n\n漢字 🚀", "x" * 100, "\n", "end"]


def all_batches(path: Path, most: int = 1000, articles: int | None = None) -> list[ArticleBatch]:
    marker = read_marker(path)
    wanted = marker.articles if articles is None else articles
    return list(read_batches(path, marker, wanted, most))


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXT, max_size=20), st.integers(1, 30), st.integers(1, 60), st.data())
def test_batches_are_the_articles(
    articles: list[str], most: int, most_bytes: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.integers(0, len(articles)))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_BYTES", most_bytes)
        path = write_cleaned(Path(name), "a", articles)
        batches = all_batches(path, most, wanted)
        assert [text for batch in batches for text in batch.texts] == articles[:wanted]
        assert list(read_articles(path)) == articles
        lines = path.read_bytes().split(b"\n")[:wanted]
        assert sum(batch.size_bytes for batch in batches) == sum(len(line) + 1 for line in lines)
    for batch in batches:
        assert 0 < len(batch.texts) <= most
        assert batch.utf8_bytes == sum(len(text.encode()) for text in batch.texts)


def test_a_batch_ends_by_articles_or_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 12)
    path = write_cleaned(tmp_path, "a", ["aaaa"] * 5)  # a line is 5 bytes
    assert [len(batch.texts) for batch in all_batches(path, 2)] == [2, 2, 1]
    assert [len(batch.texts) for batch in all_batches(path, 9)] == [3, 2]
    assert [batch.size_bytes for batch in all_batches(path, 9)] == [15, 10]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("wanted", [1, 3, None])
def test_any_changed_byte_is_found_even_beyond_the_articles_wanted(
    tmp_path: Path, wanted: int | None
) -> None:
    chance = random.Random(0)
    path = write_cleaned(tmp_path, "a", ARTICLES)
    good = path.read_bytes()
    for position in [0, len(good) - 1, *(chance.randrange(len(good)) for _ in range(30))]:
        flip(path, position)
        with pytest.raises(DataError, match=r"cleaned_a\.txt") as caught:
            all_batches(path, articles=wanted)
        assert "`python cleaner.py`" in caught.value.hint or "cleaner.py" in caught.value.hint
        with pytest.raises(DataError, match="was changed or damaged after it was cleaned"):
            check_content(path, read_marker(path))
        path.write_bytes(good)
    all_batches(path, articles=wanted)
    check_content(path, read_marker(path))


def test_a_batch_comes_before_the_rest_is_known(tmp_path: Path) -> None:
    path = write_cleaned(tmp_path, "a", ARTICLES)
    flip(path, -2)
    batches = read_batches(path, read_marker(path), len(ARTICLES), 2)
    assert next(batches).texts == ARTICLES[:2]
    with pytest.raises(DataError, match="was changed or damaged"):
        list(batches)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], r"cleaned_a\.txt:6: the last article is cut off"),
        (lambda content: b"\xff" + content[1:], r"cleaned_a\.txt:1: not UTF-8 text"),
        (lambda content: content + b"more\n", r"was changed or damaged .* \(wrong SHA-256\)"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = write_cleaned(tmp_path, "a", ARTICLES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        all_batches(path)


@pytest.mark.parametrize(("promised", "than"), [(7, "fewer"), (5, "more")])
def test_another_number_of_articles_than_promised_is_refused(
    tmp_path: Path, promised: int, than: str
) -> None:
    path = write_cleaned(tmp_path, "a", ARTICLES, promised=promised)
    with pytest.raises(DataError, match=rf"has {than} articles than the {promised} its marker"):
        all_batches(path)
    assert len(all_batches(path, articles=4)) == 1


def test_another_size_is_found_without_reading(tmp_path: Path) -> None:
    path = write_cleaned(tmp_path, "a", ARTICLES)
    marker = read_marker(path)
    check_size(path, marker)
    size_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"x\n")
    message = rf"was changed or damaged .*\({size_bytes + 2} bytes, once {size_bytes}\)"
    with pytest.raises(DataError, match=message) as caught:
        check_size(path, marker)
    assert "Delete it, then run `python cleaner.py` and this command again." in caught.value.hint


@pytest.mark.parametrize("read", [all_batches, lambda path: check_content(path, read_marker(path))])
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    memory = Path("/proc/self/mem")  # reading its first page fails like a broken disk
    if not memory.exists():
        pytest.skip("needs /proc/self/mem")
    path = write_cleaned(tmp_path, "a", ARTICLES)
    path.unlink()
    path.symlink_to(memory)
    with pytest.raises(DataError, match=r"cleaned_a\.txt: cannot be read: Input/output error"):
        read(path)


def test_an_empty_text_has_no_batches(tmp_path: Path) -> None:
    path = write_cleaned(tmp_path, "a", [])
    marker = read_marker(path)
    assert isinstance(marker, CleanedMarker)
    assert all_batches(path) == []
