"""Which articles the stock tokenizer checks: whole ones, of all places and lengths, and few."""

import random

from hypothesis import given
from hypothesis import strategies as st

from utils.preparing.checked_articles import (
    LONG_CHARACTERS,
    LONG_SHARE,
    SHORT_ARTICLES,
    SHORT_CHARACTERS,
    SHORT_SHARE,
    CheckedArticles,
)

ADVANCE_CHARACTERS = SHORT_ARTICLES * SHORT_CHARACTERS + LONG_CHARACTERS


@given(st.lists(st.lists(st.integers(0, 2 * LONG_CHARACTERS), max_size=30), max_size=10))
def test_they_are_numbers_of_the_batch_and_bounded(batches: list[list[int]]) -> None:
    checked = CheckedArticles()
    read = chosen = 0
    for lengths in batches:
        numbers = checked.choose(["x" * length for length in lengths])
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= SHORT_ARTICLES + 1
        assert all(lengths[number] <= LONG_CHARACTERS for number in numbers)
        read += sum(lengths)
        chosen += sum(lengths[number] for number in numbers)
        assert chosen <= ADVANCE_CHARACTERS + (SHORT_SHARE + LONG_SHARE) * read


def test_short_ones_are_of_every_quarter_of_every_batch() -> None:
    chance = random.Random(0)
    lengths = [round(chance.lognormvariate(7.5, 1)) for _ in range(800)]
    texts = ["x" * length for length in lengths]
    checked = CheckedArticles()
    for batch in range(10):
        numbers = checked.choose(texts)
        short = [number for number in numbers if lengths[number] <= SHORT_CHARACTERS]
        if batch < 3:
            assert {number // 200 for number in short} == {0, 1, 2, 3}
        assert short


def test_a_longer_one_comes_at_first_and_then_now_and_then() -> None:
    checked = CheckedArticles()
    texts = [
        "x" * length for length in (3, LONG_CHARACTERS + 1, LONG_CHARACTERS - 1, *[9_000] * 200)
    ]
    batches = [batch for batch in range(40) if 2 in checked.choose(texts)]
    assert batches[0] == 0
    assert 2 <= len(batches) <= 5


def test_a_text_of_long_articles_alone_is_checked_too() -> None:
    checked = CheckedArticles()
    chosen = sum(len(checked.choose(["x" * 5_000] * 400)) for _ in range(40))
    assert chosen >= 10


def test_no_articles_and_empty_ones() -> None:
    assert CheckedArticles().choose([]) == []
    assert len(CheckedArticles().choose(["", "", ""])) <= 1
