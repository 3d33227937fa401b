"""A token stream as overlapping windows, and back.

Window i starts at i * stride; the last one is moved back to end where the stream ends. So every
token is in a window and none is padding. A stream shorter than a window has no windows.
"""

from typing import IO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from utils.array_files import write_header

ID_TYPE = np.dtype("<u2")
FLUSH_TOKENS = 1 << 20  # collected between writes
CHUNK_WINDOWS = 1 << 13  # copied or compared at once

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
        self.tokens = self.windows = 0  # of the stream so far; written
        self._output, self._window, self._stride = output, window, stride
        self._held: list[Ids] = [np.empty(0, ID_TYPE)]
        self._held_start = self._flushed = 0  # positions in the stream
        write_header(output, ID_TYPE, (0, window))
        self._header_bytes = output.tell()

    def add(self, *pieces: Ids) -> None:
        """Continue the stream."""
        self._held.extend(pieces)
        self.tokens += sum(map(len, pieces))
        if self.tokens - self._flushed >= FLUSH_TOKENS:
            self._flush()

    def finish(self) -> None:
        """Write the windows up to the end and, now that their number is known, the header."""
        self._flush(at_end=True)
        self._output.seek(0)
        write_header(self._output, ID_TYPE, (self.windows, self._window))
        assert self._output.tell() == self._header_bytes, "the header has room to grow"

    def _flush(self, at_end: bool = False) -> None:
        stream = np.concatenate(self._held)
        count = window_count(self.tokens, self._window, self._stride)
        last_start = self.tokens - self._window
        starts = np.arange(self.windows, count, dtype=np.int64) * self._stride
        # A window that would be moved back is not the last one while the stream goes on.
        starts = np.minimum(starts, last_start) if at_end else starts[starts <= last_start]
        for first in range(0, len(starts), CHUNK_WINDOWS):
            chosen = starts[first : first + CHUNK_WINDOWS] - self._held_start
            rows = sliding_window_view(stream, self._window)[chosen]
            self._output.write(rows.data)  # (chosen, window)
        self.windows += len(starts)
        kept = stream[-self._window :].copy()
        self._held, self._held_start = [kept], self.tokens - len(kept)
        self._flushed = self.tokens


def join_windows(windows: Ids, tokens: int, stride: int) -> Ids | None:
    """The stream of `tokens` that was cut into `windows` (windows, window), at least one.

    None if windows that overlap hold different tokens.
    """
    window = windows.shape[1]
    stream = np.empty(tokens, ID_TYPE)
    stream[: (len(windows) - 1) * stride].reshape(-1, stride)[:] = windows[:-1, :stride]
    stream[tokens - window :] = windows[-1]
    views = sliding_window_view(stream, window)[::stride]
    for first in range(0, len(windows) - 1, CHUNK_WINDOWS):
        rows = slice(first, min(first + CHUNK_WINDOWS, len(windows) - 1))
        if not np.array_equal(views[rows], windows[rows]):
            return None
    return stream
