"""The sides of a dataset, for training and validation: what each owns, and how it is loaded.

The document starts of all files decide the split. Then the files are read, checked and copied,
stretch by stretch, to where each side lives. Main memory holds the streams of a few files at a
time, beside a side that stays there.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.split import BoolArray, Spans, compact, held_out, select_windows
from utils.terminal import Progress
from utils.token_files import DatasetMetadata, read_documents, read_stream
from utils.windows import ID_TYPE, Ids, Positions, window_starts

TOKEN_BYTES = ID_TYPE.itemsize
START_BYTES = 8  # of a window's start, int64
READERS = 3  # files that are read at once; most of the time is SHA-256, which runs in parallel
CHUNK_TOKENS = 1 << 24  # copied at once: 32 MiB


@dataclass(frozen=True)
class Side:
    """One side of the split: the stretches of each file it owns."""

    spans: list[Spans]

    @property
    def windows(self) -> int:
        return sum(len(spans.window_starts) for spans in self.spans)

    @property
    def tokens(self) -> int:
        return sum(spans.tokens for spans in self.spans)

    @property
    def memory_bytes(self) -> int:
        """What it takes once it is loaded."""
        return self.tokens * TOKEN_BYTES + self.windows * START_BYTES


def split_sides(
    dataset_dir: Path, metadata: DatasetMetadata, share: float, seed: int
) -> tuple[Side, Side]:
    """What of a dataset is for training, and the `share` of it for validation.

    No token is read. Raises DatasetError for damaged files, or too little text to split.
    """
    documents = {file.stem: read_documents(dataset_dir, file) for file in metadata.files}
    is_val = held_out(documents, metadata.tokens, share, seed)

    def side(wanted: dict[str, BoolArray]) -> Side:
        spans = []
        for file in metadata.files:
            starts = window_starts(file.tokens, metadata.window, metadata.stride)
            kept = select_windows(starts, metadata.window, documents[file.stem], wanted[file.stem])
            spans.append(compact(kept, metadata.window))
        return Side(spans)

    return side({stem: ~chosen for stem, chosen in is_val.items()}), side(is_val)


def load_sides(
    dataset_dir: Path, metadata: DatasetMetadata, sides: Sequence[tuple[Side, torch.device]]
) -> list[tuple[Tensor, Tensor]]:
    """Each side's tokens, uint16 (tokens,), and window starts, int64 (windows,), on its device.

    Every file is read once and checked. Raises DatasetError.
    """
    stores = [_Store(side, device) for side, device in sides]
    total_bytes = sum(side.tokens for side, _ in sides) * TOKEN_BYTES
    with Progress("Loading", total_bytes, "B") as progress:
        for number, stream in enumerate(_streams(dataset_dir, metadata)):
            stem = metadata.files[number].stem
            for store in stores:
                for parts in _chunks(stream, store.side.spans[number]):
                    progress.advance(store.add(parts) * TOKEN_BYTES, stem)
    return [(store.stream, store.starts()) for store in stores]


def reading_bytes(metadata: DatasetMetadata) -> int:
    """Main memory that `load_sides` takes at most, beside the sides themselves."""
    largest = sorted((file.tokens for file in metadata.files), reverse=True)[: READERS + 1]
    return sum(largest) * TOKEN_BYTES


class _Store:
    """A side's tokens on their device, filled from the front. GPUs get them from pinned pages."""

    def __init__(self, side: Side, device: torch.device) -> None:
        self.side, self.device = side, device
        # int16 is the type that every device can copy; the bits are the same.
        self._bits = torch.empty(side.tokens, dtype=torch.int16, device=device)
        self._end = 0
        self._staging: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        if device.type == "cuda":
            chunk = min(CHUNK_TOKENS, side.tokens)
            for _ in range(2):  # one is filled while the other is copied
                buffer = torch.empty(chunk, dtype=torch.int16, pin_memory=True)
                self._staging.append((buffer, torch.cuda.Event()))  # type: ignore[no-untyped-call]

    @property
    def stream(self) -> Tensor:
        return self._bits.view(torch.uint16)

    def starts(self) -> Tensor:
        """Where the windows start in `stream`."""
        every = self.side.spans
        places = np.cumsum([0, *(spans.tokens for spans in every[:-1])])  # of each file's part
        starts = [spans.window_starts + place for spans, place in zip(every, places, strict=True)]
        return torch.from_numpy(np.concatenate(starts)).to(self.device)

    def add(self, parts: list[Ids]) -> int:
        """Put `parts`, at most CHUNK_TOKENS, behind what is there; returns how many tokens."""
        count = sum(map(len, parts))
        place = self._bits[self._end : self._end + count]
        self._end += count
        if not self._staging:
            _concatenate(parts, place)
            return count
        self._staging.rotate()
        buffer, copied = self._staging[0]
        copied.synchronize()
        _concatenate(parts, buffer[:count])
        place.copy_(buffer[:count], non_blocking=True)
        copied.record(torch.cuda.current_stream(self.device))
        return count


def _concatenate(parts: list[Ids], out: Tensor) -> None:
    np.concatenate(parts, out=out.numpy().view(ID_TYPE))


def _chunks(stream: Ids, spans: Spans) -> Iterator[list[Ids]]:
    """The stretches' tokens in order, as views of `stream`, CHUNK_TOKENS or fewer at a time."""
    # Where each stretch begins once they are joined, and where the last one ends.
    places = np.concatenate(([0], np.cumsum(spans.ends - spans.begins)))
    for first in range(0, spans.tokens, CHUNK_TOKENS):
        last = min(first + CHUNK_TOKENS, spans.tokens)
        low = int(np.searchsorted(places, first, side="right")) - 1
        high = int(np.searchsorted(places, last, side="left"))
        begins, ends = spans.begins[low:high].copy(), spans.ends[low:high].copy()
        begins[0] += first - places[low]
        ends[-1] -= places[high] - last
        yield [stream[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]


def _streams(dataset_dir: Path, metadata: DatasetMetadata) -> Iterator[Ids]:
    """Every file's token stream in turn, the next few being read meanwhile."""
    reading: deque[Future[tuple[Ids, Positions]]] = deque()
    with ThreadPoolExecutor(READERS) as threads:
        for file in metadata.files:
            reading.append(threads.submit(read_stream, dataset_dir, metadata, file))
            if len(reading) == READERS:
                yield reading.popleft().result()[0]
        while reading:
            yield reading.popleft().result()[0]
