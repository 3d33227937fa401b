"""Windows of a dataset drawn at random and shown as text."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.array_files import map_array
from utils.reports.markup import Html, join, section, tag, visible
from utils.token_files import DatasetMetadata, TokenFile, tokens_path_of
from utils.windows import ID_TYPE, Ids, window_starts

SAMPLES = 10
SEED = 42  # a report is the same each time

_CHANGED = "Run dataset_prep.py again, with --test if this is the test dataset; it mends the file."

Decode = Callable[[Sequence[int]], str]


def windows_section(dataset_dir: Path, metadata: DatasetMetadata, decode: Decode) -> Html:
    samples = [
        join(
            [
                tag("h3", visible(tokens_path_of(dataset_dir, file.stem).name), f"[{row}]"),
                tag(
                    "p", f"tokens {start:,} to {start + metadata.window - 1:,} of the file's stream"
                ),
                tag("pre", *_shown(ids, metadata, decode), dir="auto"),
            ]
        )
        for file, row, start, ids in draw_windows(dataset_dir, metadata)
    ]
    note = f"{len(samples)} of {metadata.windows:,}, drawn at random, as the model sees them."
    return section("Windows", tag("p", note), *samples)


def draw_windows(
    dataset_dir: Path, metadata: DatasetMetadata
) -> Iterator[tuple[TokenFile, int, int, Ids]]:
    """Up to SAMPLES windows, each equally likely, in the dataset's order.

    Each comes as its file, its row there, where it starts in the file's stream, and its ids. The
    rest stays on disk. Raises DatasetError if a file is missing or not the one in the metadata.
    """
    chance = np.random.default_rng(SEED)
    chosen = chance.choice(metadata.windows, min(SAMPLES, metadata.windows), replace=False)
    first = 0
    for file in metadata.files:
        rows = sorted(int(i) - first for i in chosen if first <= i < first + file.windows)
        first += file.windows
        if rows:
            path = tokens_path_of(dataset_dir, file.stem)
            shape = (file.windows, metadata.window)
            windows = map_array(path, file.tokens_array, ID_TYPE, shape, _CHANGED)
            starts = window_starts(file.tokens, metadata.window, metadata.stride)
            for row in rows:
                yield file, row, int(starts[row]), np.array(windows[row])


def texts_between_specials(
    ids: Ids, metadata: DatasetMetadata, decode: Decode
) -> Iterator[tuple[str, str]]:
    """The text before each special token, and the token's name, which is "" at the end."""
    names = {
        metadata.bos_token_id: "<s>",
        metadata.eos_token_id: "</s>",
        metadata.unk_token_id: "<unk>",
    }
    begin = 0
    for position in np.flatnonzero(np.isin(ids, list(names))).tolist():
        yield decode(ids[begin:position].tolist()), names[int(ids[position])]
        begin = position + 1
    yield decode(ids[begin:].tolist()), ""


def _shown(ids: Ids, metadata: DatasetMetadata, decode: Decode) -> Iterator[Html]:
    for text, special in texts_between_specials(ids, metadata, decode):
        lines = text.split("\n")
        for line in lines[:-1]:
            yield join([visible(line), tag("span", "↵", class_="dim"), "\n"])
        yield visible(lines[-1])
        if special:
            yield tag("span", special, class_="special")
        if special == "</s>":
            yield Html("\n")
