"""utils/split.py: no document, no window and no passage on both sides."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from utils.errors import DatasetError
from utils.split import (
    MIN_STRETCHES,
    STRETCH_TOKENS,
    Spans,
    compact,
    held_out,
    select_windows,
)
from utils.windows import window_starts

Int64Array = NDArray[np.int64]

files_of_documents = st.lists(
    st.lists(st.integers(1, 60), min_size=1, max_size=40), min_size=1, max_size=3
)


def starts_of(lengths: list[int]) -> Int64Array:
    return np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)


def random_documents(tokens: int, seed: int = 0, longest: int = 2000) -> Int64Array:
    lengths = np.random.default_rng(seed).integers(1, longest, 4 * tokens // longest + 99)
    starts: Int64Array = np.cumsum(lengths) - lengths
    return starts[starts < tokens]


@settings(max_examples=150, deadline=None)
@given(
    files=files_of_documents,
    window=st.integers(1, 20),
    overlap=st.integers(0, 19),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63),
)
def test_windows_hold_documents_of_their_own_side_alone(
    files: list[list[int]], window: int, overlap: int, share: float, seed: int
) -> None:
    documents = {f"file_{number}": starts_of(lengths) for number, lengths in enumerate(files)}
    tokens = {f"file_{number}": sum(lengths) for number, lengths in enumerate(files)}
    if sum(len(lengths) for lengths in files) < 2:
        return
    try:
        is_val = held_out(documents, sum(tokens.values()), share, seed)
    except DatasetError:  # all documents begin in one stretch
        assert len(files) == 1
        return
    assert any(chosen.any() for chosen in is_val.values())
    assert not all(chosen.all() for chosen in is_val.values())
    for (stem, starts), lengths in zip(documents.items(), files, strict=True):
        side_of_token = np.repeat(is_val[stem], lengths)
        every = window_starts(tokens[stem], window, max(1, window - overlap))
        for wanted in (is_val[stem], ~is_val[stem]):
            kept = select_windows(every, window, starts, wanted)
            mine = side_of_token if wanted is is_val[stem] else ~side_of_token
            expected = [start for start in every if mine[start : start + window].all()]
            assert kept.tolist() == expected
            check_compact(kept, window, tokens[stem])


def check_compact(kept: Int64Array, window: int, tokens: int) -> None:
    """Joined stretches hold the windows' tokens, each once, and no other's."""
    spans = compact(kept, window)
    stream = np.arange(tokens)  # each token is its own position
    parts = [stream[begin:end] for begin, end in zip(spans.begins, spans.ends, strict=True)]
    joined = np.concatenate([np.zeros(0, np.int64), *parts])
    assert len(joined) == spans.tokens
    assert len(spans.window_starts) == len(kept)
    for start, place in zip(kept, spans.window_starts, strict=True):
        assert (joined[place : place + window] == stream[start : start + window]).all()
    covered = {token for start in kept.tolist() for token in range(start, start + window)}
    assert sorted(covered) == joined.tolist()


def test_stretches_are_joined_where_they_touch() -> None:
    spans = compact(np.array([4, 6, 8, 20, 24, 40]), window=4)
    assert spans.begins.tolist() == [4, 20, 40]
    assert spans.ends.tolist() == [12, 28, 44]
    assert spans.window_starts.tolist() == [0, 2, 4, 8, 12, 16]
    assert spans.tokens == 20
    nothing = compact(np.zeros(0, np.int64), window=4)
    assert isinstance(nothing, Spans)
    assert (nothing.tokens, len(nothing.begins), len(nothing.window_starts)) == (0, 0, 0)


def passages(windows: NDArray[np.uint16], length: int = 64) -> set[int]:
    """A hash of every run of `length` tokens inside the windows (windows, window)."""
    powers = np.power(np.uint64(0x9E3779B97F4A7C15), np.arange(length, dtype=np.uint64))
    runs = sliding_window_view(windows, length, axis=1).astype(np.uint64)
    return set((runs @ powers).ravel().tolist())


@pytest.mark.parametrize("seed", range(10))
def test_no_64_tokens_stand_on_both_sides(seed: int) -> None:
    tokens, window = 40_000, 128
    stream = np.random.default_rng(seed).integers(0, 32_016, tokens, dtype=np.uint16)
    starts = random_documents(tokens, seed, longest=300)
    is_val = held_out({"a": starts}, tokens, 0.2, seed)["a"]
    every = window_starts(tokens, window, window // 2)
    sides = []
    for wanted in (is_val, ~is_val):
        kept = select_windows(every, window, starts, wanted)
        assert len(kept) > 20
        sides.append(passages(sliding_window_view(stream, window)[kept]))
    assert not sides[0] & sides[1]
    # What this would see: windows dealt out one by one, as overlapping windows often are.
    dealt = np.random.default_rng(seed).random(len(every)) < 0.2
    view = sliding_window_view(stream, window)
    assert passages(view[every[dealt]]) & passages(view[every[~dealt]])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_about_the_asked_share_is_held_out(share: float) -> None:
    tokens = 500 * STRETCH_TOKENS
    documents = {f"file_{n}": random_documents(tokens, seed=n) for n in range(10)}
    chosen = held_out(documents, 10 * tokens, share, seed=42)
    found = sum(int(c.sum()) for c in chosen.values()) / sum(map(len, chosen.values()))
    assert found == pytest.approx(share, rel=0.15)


def test_adding_files_moves_no_document_of_a_large_dataset() -> None:
    tokens = MIN_STRETCHES * STRETCH_TOKENS
    first = {"part_1": random_documents(tokens)}
    both = {**first, "part_2": random_documents(tokens, seed=1)}
    alone = held_out(first, tokens, 0.1, seed=42)["part_1"]
    assert alone.any()
    assert (alone == held_out(both, 2 * tokens, 0.1, seed=42)["part_1"]).all()
    assert (alone == held_out(dict(reversed(both.items())), 2 * tokens, 0.1, 42)["part_1"]).all()


def test_the_seed_and_the_files_name_decide_on_every_machine() -> None:
    starts = np.arange(0, 6400, 50)
    groups = [
        held_out({stem: starts}, 6400, 0.1, seed)[stem]
        for stem, seed in (("a", 0), ("a", 0), ("a", 1), ("b", 0))
    ]
    assert (groups[0] == groups[1]).all()
    assert (groups[0] != groups[2]).any()
    assert (groups[0] != groups[3]).any()
    # Two documents begin in each stretch of 100 tokens.
    assert np.unique(np.flatnonzero(groups[0]) // 2).tolist() == [9, 19, 26, 44, 47, 48, 57, 58, 63]


def test_documents_of_one_stretch_stay_together() -> None:
    tokens = 100 * STRETCH_TOKENS
    starts = random_documents(tokens, longest=1000)
    chosen = held_out({"a": starts}, tokens, 0.3, seed=7)["a"]
    for (stretch, side), (next_stretch, next_side) in pairwise(
        zip((starts // STRETCH_TOKENS).tolist(), chosen.tolist(), strict=True)
    ):
        assert stretch != next_stretch or side == next_side


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_each_side_has_something(share: float) -> None:
    chosen = held_out({"a": np.arange(0, 1000, 100)}, 1000, share, seed=0)["a"]
    assert 0 < chosen.sum() < len(chosen)


def test_too_little_to_split_is_refused() -> None:
    message = r"the dataset is too small to split: 50 tokens in 1 group\(s\) of documents\n"
    with pytest.raises(DatasetError, match=message):
        held_out({"a": np.array([0])}, 50, 0.1, seed=0)
