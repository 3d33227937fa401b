import doctest
import hashlib
import io
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import windows as windows_module
from utils.windows import WindowWriter, join_windows, window_count, window_starts


def test_examples_of_the_docstrings() -> None:
    results = doctest.testmod(windows_module)
    assert results.attempted > 0
    assert results.failed == 0


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(2, 20), st.data())
def test_windows_cover_every_token_and_nothing_else(
    tokens: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    starts = window_starts(tokens, window, stride)
    assert starts.dtype == np.int64
    assert len(starts) == window_count(tokens, window, stride)
    if tokens < window:
        assert not len(starts)
        return
    covered = {start + offset for start in starts.tolist() for offset in range(window)}
    assert covered == set(range(tokens))
    assert starts[:-1].tolist() == [i * stride for i in range(len(starts) - 1)]
    assert starts[-1] == tokens - window
    assert (np.diff(starts) > 0).all()


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=20),
    window=st.integers(2, 12),
    flush=st.integers(1, 40),
    data=st.data(),
)
def test_streamed_windows_equal_windows_of_the_whole(
    sizes: list[int], window: int, flush: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    stream = np.arange(sum(sizes), dtype=np.uint16)
    output = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_module, "FLUSH_TOKENS", flush)
        writer = WindowWriter(output, window, stride)
        for piece in np.split(stream, np.cumsum(sizes)[:-1]) if sizes else []:
            writer.add(piece)
        stored = writer.finish()
    assert stored.size_bytes == len(output.getvalue())
    assert stored.sha256 == hashlib.sha256(output.getvalue()).hexdigest()
    output.seek(0)
    written = np.load(output, allow_pickle=False)
    starts = window_starts(len(stream), window, stride)
    assert written.dtype == np.uint16
    assert written.shape == (len(starts), window)
    for start, row in zip(starts.tolist(), written, strict=True):
        assert row.tolist() == list(range(start, start + window))
    if len(written):
        joined = join_windows(written, len(stream), stride)
        assert joined is not None
        assert joined.tolist() == stream.tolist()


def peak_bytes(tokens: int, stride: int) -> int:
    """The most memory that writing a stream of `tokens` takes."""
    piece = np.zeros(10_000, np.uint16)
    with open(os.devnull, "r+b") as output:  # noqa: PTH123
        tracemalloc.start()
        writer = WindowWriter(output, 64, stride)
        for _ in range(tokens // len(piece)):
            writer.add(piece)
        assert writer.tokens - writer.windows * stride < 10_000 + 64, "windows are written early"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("stride", [1, 32])
def test_memory_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
    monkeypatch.setattr(windows_module, "FLUSH_TOKENS", 10_000)
    monkeypatch.setattr(windows_module, "CHUNK_TOKENS", 32_000)
    short, long = (peak_bytes(tokens, stride) for tokens in (50_000, 1_500_000))
    assert long < 2 * short
    assert short < 500_000, "a chunk of windows at once, not all that are ready"
