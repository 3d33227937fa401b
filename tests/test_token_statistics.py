import doctest
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import utils.token_statistics
from utils.errors import DatasetError
from utils.token_statistics import (
    BIN_STARTS,
    BINS,
    LengthHistogram,
    TokenStatistics,
    bins_of,
)

VOCABULARY = 300
IDS = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)
ARTICLES = st.lists(st.tuples(IDS, st.integers(0, 5000)), max_size=12)

Article = tuple[list[int], int]  # ids and characters


def counted(*batches: Sequence[Article], vocab_size: int = VOCABULARY) -> TokenStatistics:
    statistics = TokenStatistics(vocab_size)
    for batch in batches:
        ids = np.array([token for ids, _ in batch for token in ids], np.uint16)
        offsets = np.cumsum([0, *(len(ids) for ids, _ in batch)], dtype=np.int64)
        statistics.add(ids, offsets, [characters for _, characters in batch])
    return statistics


def saved(statistics: TokenStatistics, folder: Path) -> bytes:
    """What it is on disk: everything that it holds."""
    path = folder / "saved.json"
    statistics.save(path)
    return path.read_bytes()


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(utils.token_statistics)
    assert results.attempted > 0
    assert results.failed == 0


# Bins


@given(st.integers(0, 2**40 - 1))
def test_a_length_lies_in_its_bin_which_is_narrow(length: int) -> None:
    position = int(bins_of(np.array([length]))[0])
    start, end = int(BIN_STARTS[position]), int(BIN_STARTS[position + 1])
    assert start <= length < end
    assert end - start <= max(1, length / 128)


def test_bins_cover_all_lengths_without_a_gap() -> None:
    assert BIN_STARTS[0] == 0
    assert BIN_STARTS[-1] == 2**40
    assert (np.diff(BIN_STARTS) > 0).all()
    assert bins_of(BIN_STARTS[:-1]).tolist() == list(range(BINS))
    assert bins_of(BIN_STARTS[1:] - 1).tolist() == list(range(BINS))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10**6) | st.integers(0, 300), min_size=1, max_size=200),
    st.integers(0, 100),
)
def test_percentiles_are_numpys_within_half_a_bin(lengths: list[int], percent: int) -> None:
    histogram = LengthHistogram()
    histogram.add(np.array(lengths))
    expected = int(np.percentile(lengths, percent, method="inverted_cdf"))
    assert abs(histogram.percentile(percent) - expected) <= expected / 256
    assert min(lengths) <= histogram.percentile(percent) <= max(lengths)


def test_percentiles_of_many_lengths() -> None:
    lengths = np.random.default_rng(0).lognormal(7, 1.5, 100_000).astype(np.int64)
    histogram = LengthHistogram()
    for part in np.array_split(lengths, 7):
        histogram.add(part)
    assert histogram.mean == pytest.approx(lengths.mean())
    assert (histogram.smallest, histogram.largest) == (lengths.min(), lengths.max())
    for percent in (0, 1, 5, 25, 50, 75, 95, 99, 100):
        expected = np.percentile(lengths, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == pytest.approx(expected, rel=1 / 256)


def test_nothing_has_no_lengths() -> None:
    histogram = LengthHistogram()
    histogram.add(np.array([], np.int64))
    histogram.merge(LengthHistogram())
    assert (histogram.count, histogram.mean, histogram.percentile(50)) == (0, 0, 0)


@pytest.mark.parametrize("length", [-1, 2**40])
def test_lengths_without_a_bin_are_a_mistake(length: int) -> None:
    with pytest.raises(AssertionError):
        LengthHistogram().add(np.array([length]))


# Counting


@settings(deadline=None)
@given(st.lists(ARTICLES, max_size=4))
def test_counts_are_those_of_a_naive_recount(batches: list[list[Article]]) -> None:
    statistics = counted(*batches)
    articles = [article for batch in batches for article in batch]
    tokens = Counter(token for ids, _ in articles for token in ids)
    assert statistics.token_counts.dtype == np.int64
    assert {i: n for i, n in enumerate(statistics.token_counts.tolist()) if n} == tokens
    assert statistics.articles == len(articles)
    for histogram, lengths in (
        (statistics.tokens, [len(ids) for ids, _ in articles]),
        (statistics.characters, [characters for _, characters in articles]),
    ):
        bins = Counter(bins_of(np.array(lengths, np.int64)).tolist())
        assert {i: n for i, n in enumerate(histogram.counts.tolist()) if n} == bins
        assert histogram.total == sum(lengths)
        assert histogram.smallest == min(lengths, default=0)
        assert histogram.largest == max(lengths, default=0)


def test_counts_of_a_real_text_are_numpys(shared_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(
        str(shared_dir / "tokenizers/codellama_hub_files/tokenizer.json")
    )
    with (shared_dir / "data/enwiki_namespace_0/enwiki_namespace_0_0.jsonl").open() as lines:
        texts = [json.loads(line)["abstract"] for line, _ in zip(lines, range(300), strict=False)]
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    statistics = counted(
        list(zip(encoded, map(len, texts), strict=True)), vocab_size=tokenizer.get_vocab_size()
    )
    ids, times = np.unique(np.concatenate(encoded), return_counts=True)
    assert len(ids) > 1000
    assert np.flatnonzero(statistics.token_counts).tolist() == ids.tolist()
    assert statistics.token_counts[ids].tolist() == times.tolist()
    assert statistics.characters.total == sum(map(len, texts))


@pytest.mark.parametrize(
    ("ids", "offsets", "characters"),
    [
        ([VOCABULARY], [0, 1], [1]),
        ([1, 2], [0, 1], [1]),
        ([1, 2], [1, 2], [1]),
        ([1, 2], [0, 1, 2], [1]),
    ],
    ids=["an id beyond the vocabulary", "ids of no article", "no start", "no length"],
)
def test_batches_that_do_not_fit_are_a_mistake(
    ids: list[int], offsets: list[int], characters: list[int]
) -> None:
    with pytest.raises(AssertionError):
        TokenStatistics(VOCABULARY).add(np.array(ids, np.uint16), np.array(offsets), characters)


# Merging and files


@settings(deadline=None, max_examples=30)
@given(st.lists(ARTICLES, max_size=4))
def test_merged_files_are_counted_as_if_they_were_one(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[Article]]
) -> None:
    folder = tmp_path_factory.mktemp("merged")
    total = TokenStatistics(VOCABULARY)
    for file in files:
        counted(file).save(folder / "file.json")
        total.merge(TokenStatistics.load(folder / "file.json", VOCABULARY))
    assert saved(total, folder) == saved(counted(*files), folder)


def test_loading_gives_what_was_saved(tmp_path: Path) -> None:
    lengths = [0, 1, 255, 256, 100_000, 2**40 - 1]
    statistics = counted([([number], length) for number, length in enumerate(lengths)])
    content = saved(statistics, tmp_path)
    loaded = TokenStatistics.load(tmp_path / "saved.json", VOCABULARY)
    assert saved(loaded, tmp_path) == content
    assert loaded.characters.percentile(50) == statistics.characters.percentile(50)


def test_a_missing_file_names_the_rerun(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        TokenStatistics.load(tmp_path / "none.json", VOCABULARY)
    assert "none.json: missing" in caught.value.what
    assert "dataset_prep.py --force" in caught.value.hint


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    content = saved(counted([([1, 2, 2], 40), ([3] * 500, 2000)], vocab_size=5), tmp_path)
    damages = [content[:end] for end in range(len(content) - 1)]  # the last byte is a newline
    for position in range(len(content)):
        bit = 1 << position % 8
        flipped = bytes([content[position] ^ bit])
        damages.append(content[:position] + flipped + content[position + 1 :])
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(DatasetError) as caught:
            TokenStatistics.load(path, 5)
        assert f"{path}: damaged" in caught.value.what
        assert "dataset_prep.py --force" in caught.value.hint


def test_counts_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    saved(counted([([1], 4)]), tmp_path)
    with pytest.raises(DatasetError, match="300 different tokens, but the vocabulary has 32,016"):
        TokenStatistics.load(tmp_path / "saved.json", 32_016)
