"""Which documents are held out for validation, and which windows each side may use.

The decision is made by document, from the seed alone, before any window is looked at. Documents
that start in the same stretch of a file stay together: with one coin per document, a window that
spans several short ones would almost never lie on one side.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import DatasetError

STRETCH_TOKENS = 16_384
MIN_STRETCHES = 64  # of a small dataset, so that a share of it can be drawn at all

Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Spans:
    """Stretches of a token stream, and the windows inside them.

    `begins` and `ends` (stretches,) are token positions in the file's stream; `window_starts` are
    positions in the stretches joined end to end.
    """

    begins: Int64Array
    ends: Int64Array
    window_starts: Int64Array

    @property
    def tokens(self) -> int:
        return int((self.ends - self.begins).sum())


def held_out(
    document_starts: Mapping[str, Int64Array], tokens: int, share: float, seed: int
) -> dict[str, BoolArray]:
    """For each file (by stem), which of its documents belong to validation.

    About `share` of the `tokens` are held out, at least one stretch. Adding files does not move
    documents of a large dataset from one side to the other.
    """
    stretch = max(1, min(STRETCH_TOKENS, tokens // MIN_STRETCHES))
    draws: dict[tuple[str, int], float] = {}
    for stem, starts in document_starts.items():
        for index in np.unique(starts // stretch).tolist():
            draws[stem, index] = _uniform(f"{seed}:{stem}:{index}")
    if len(draws) < 2:
        raise DatasetError(
            f"the dataset is too small to split: {tokens:,} tokens in {len(draws)} group(s) of"
            " documents",
            "Prepare more text.",
        )
    chosen = {key for key, draw in draws.items() if draw < share} or {
        min(draws, key=draws.__getitem__)
    }
    if len(chosen) == len(draws):
        chosen.remove(max(draws, key=draws.__getitem__))
    return {
        stem: np.array([(stem, index) in chosen for index in (starts // stretch).tolist()], bool)
        for stem, starts in document_starts.items()
    }


def select_windows(
    window_starts: Int64Array, window: int, document_starts: Int64Array, wanted: BoolArray
) -> Int64Array:
    """The windows all of whose tokens belong to `wanted` documents, in order."""
    unwanted_before = np.concatenate(([0], np.cumsum(~wanted)))
    first = np.searchsorted(document_starts, window_starts, side="right") - 1
    last = np.searchsorted(document_starts, window_starts + window - 1, side="right") - 1
    kept: Int64Array = window_starts[unwanted_before[last + 1] == unwanted_before[first]]
    return kept


def compact(window_starts: Int64Array, window: int) -> Spans:
    """The stretches of the stream that ascending windows cover, and the windows within them.

    What no window covers is left out: one side's memory holds no token of the other.
    """
    if not len(window_starts):
        empty = np.zeros(0, np.int64)
        return Spans(empty, empty, empty)
    previous_ends = np.concatenate(([0], window_starts[:-1] + window))
    gaps = np.maximum(window_starts - previous_ends, 0)
    opens = gaps > 0
    opens[0] = True
    closes = np.append(opens[1:], True)
    return Spans(
        begins=window_starts[opens],
        ends=window_starts[closes] + window,
        window_starts=window_starts - np.cumsum(gaps),
    )


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone, on any machine."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
