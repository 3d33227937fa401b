"""A token stream as overlapping windows, and back.

Window i starts at i * stride; the last one is moved back to end where the stream ends. So every
token is in a window and none is padding. A stream shorter than a window has no windows.
"""

from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from utils.array_files import ArrayWriter, StoredArray

ID_TYPE = np.dtype("<u2")
FLUSH_TOKENS = 1 << 20  # collected between writes
CHUNK_TOKENS = 1 << 19  # of windows that are copied or compared at once

Ids = NDArray[np.uint16]
Positions = NDArray[np.int64]


def window_starts(tokens: int, window: int, stride: int) -> Positions:
    """Where each window starts in a stream of `tokens`, ascending, int64 (windows,).

    >>> window_starts(tokens=10, window=4, stride=2).tolist()
    [0, 2, 4, 6]
    >>> window_starts(tokens=11, window=4, stride=2).tolist()
    [0, 2, 4, 6, 7]
    """
    count = window_count(tokens, window, stride)
    return np.minimum(np.arange(count, dtype=np.int64) * stride, tokens - window)


def window_count(tokens: int, window: int, stride: int) -> int:
    """How many windows a stream of `tokens` has."""
    return -(-(tokens - window) // stride) + 1 if tokens >= window else 0


class WindowWriter:
    """Streams the windows of a token stream into an open .npy file, uint16 (windows, window).

    It holds the tokens that were not written yet and one window of those before them.
    """

    def __init__(self, output: IO[bytes], window: int, stride: int) -> None:
        self.tokens = 0  # of the stream so far
        self._array = ArrayWriter(output, ID_TYPE, (window,))
        self._window, self._stride = window, stride
        self._held: list[Ids] = [np.empty(0, ID_TYPE)]
        self._held_start = self._flushed = 0  # positions in the stream

    @property
    def windows(self) -> int:
        """Windows written so far."""
        return self._array.rows

    def add(self, piece: Ids) -> None:
        """Continue the stream."""
        self._held.append(piece)
        self.tokens += len(piece)
        if self.tokens - self._flushed >= FLUSH_TOKENS:
            self._flush()

    def finish(self) -> StoredArray:
        """Write the windows up to the end, and what belongs to the end of an array."""
        self._flush(at_end=True)
        return self._array.finish()

    def _flush(self, at_end: bool = False) -> None:
        stream = np.concatenate(self._held)
        count = window_count(self.tokens, self._window, self._stride)
        last_start = self.tokens - self._window
        starts = np.arange(self.windows, count, dtype=np.int64) * self._stride
        # A window that would be moved back is not the last one while the stream goes on.
        starts = np.minimum(starts, last_start) if at_end else starts[starts <= last_start]
        for chunk in _chunks(len(starts), self._window):
            rows = sliding_window_view(stream, self._window)[starts[chunk] - self._held_start]
            self._array.write(rows)
        kept = stream[-self._window :].copy()
        self._held, self._held_start = [kept], self.tokens - len(kept)
        self._flushed = self.tokens


def _chunks(count: int, window: int) -> Iterator[slice]:
    """`count` windows in parts that fit a processor's cache."""
    step = max(CHUNK_TOKENS // window, 1)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def join_windows(windows: Ids, tokens: int, stride: int) -> Ids | None:
    """The stream of `tokens` that was cut into `windows` (windows, window), at least one.

    None if windows that overlap hold different tokens.
    """
    window = windows.shape[1]
    stream = np.empty(tokens, ID_TYPE)
    stream[: (len(windows) - 1) * stride].reshape(-1, stride)[:] = windows[:-1, :stride]
    stream[tokens - window :] = windows[-1]
    views = sliding_window_view(stream, window)[::stride]
    for rows in _chunks(len(windows) - 1, window):
        if not np.array_equal(views[rows], windows[rows]):
            return None
    return stream
