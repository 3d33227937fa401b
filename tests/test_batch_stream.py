"""utils/batch_stream.py: batches come ahead, in order, and nothing is overwritten too early."""

import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing

import pytest
import torch
from torch import Tensor

from tests.conftest import REPOSITORY
from utils.batch_stream import cuda_slots, stream_batches, widen

ROWS, WINDOW = 4, 3


class LazySlot:
    """Copies as late as it may: when somebody waits for the copy."""

    def __init__(self, rows: int = ROWS, window: int = WINDOW) -> None:
        self.buffer = torch.zeros(rows, window, dtype=torch.int16)
        self.sent: Tensor | None = None
        self.copied = self.buffer.clone()

    def host(self) -> Tensor:
        if self.sent is not None:
            self.copied = self.sent.clone()
        self.sent = None
        return self.buffer

    def send(self, bits: Tensor) -> None:
        assert self.sent is None, "the batch before was not copied yet"
        assert bits.data_ptr() == self.buffer.data_ptr()
        self.sent = bits

    def take(self) -> Tensor:
        self.host()
        return widen(self.copied)


def lazy_slots() -> list[LazySlot]:
    return [LazySlot(), LazySlot()]


def fill(number: int, buffer: Tensor) -> Tensor:
    """Batch `number` is full of it; only the last of ten has fewer rows."""
    return buffer[: ROWS - (number == 9)].fill_(number)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_batches_come_in_order_and_whole(count: int) -> None:
    batches = list(stream_batches(range(count), fill, lazy_slots()))
    assert [set(batch.flatten().tolist()) for batch in batches] == [{n} for n in range(count)]
    assert [len(batch) for batch in batches] == [ROWS - (n == 9) for n in range(count)]
    assert all(batch.dtype == torch.int64 for batch in batches)


def test_two_batches_are_made_while_one_is_in_use() -> None:
    made = [threading.Event() for _ in range(5)]

    def gather(number: int, buffer: Tensor) -> Tensor:
        assert threading.current_thread() is not threading.main_thread()
        made[number].set()
        return fill(number, buffer)

    with closing(stream_batches(range(5), gather, lazy_slots())) as batches:
        for number in range(3):
            assert next(batches)[0, 0] == number
            assert made[number + 2].wait(timeout=60)


@pytest.mark.parametrize("failing", [0, 1, 2, 4])
def test_an_error_comes_after_all_batches_before_it(failing: int) -> None:
    def gather(number: int, buffer: Tensor) -> Tensor:
        if number == failing:
            raise RuntimeError("no such window")
        return fill(number, buffer)

    batches = stream_batches(range(5), gather, lazy_slots())
    assert [next(batches)[0, 0] for _ in range(failing)] == list(range(failing))
    with pytest.raises(RuntimeError, match="no such window"):
        next(batches)
    assert "batches" not in thread_names()


def test_leaving_early_ends_the_thread_and_the_copies() -> None:
    slots = lazy_slots()
    batches = stream_batches(range(10), fill, slots)
    next(batches)
    assert "batches" in thread_names()
    batches.close()
    assert "batches" not in thread_names()
    assert all(slot.sent is None for slot in slots)


def thread_names() -> set[str]:
    return {thread.name.rpartition("_")[0] for thread in threading.enumerate()}


def endless() -> Generator[Tensor, None, None]:
    """For the processes below, which end in the middle of it."""
    return stream_batches(range(10**9), fill, lazy_slots())


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    ],
)
def test_a_process_ends_in_the_middle_of_a_stream(ending: str, code: int) -> None:
    program = f"""
import os, signal, sys, time
from tests.test_batch_stream import endless
batches = endless()
next(batches), next(batches)
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, timeout=100
    )
    assert done.returncode == code, done.stderr.decode()


@pytest.mark.cuda
def test_the_gpu_gets_what_was_gathered_however_late_it_reads() -> None:
    """The GPU is kept busy for milliseconds a batch, so that the copies run far ahead of it."""
    device, rows, window = torch.device("cuda"), 64, 512
    stream = torch.randint(0, 65_536, (50, rows, window), generator=torch.Generator())
    bits = stream.to(torch.uint16).view(torch.int16)

    def gather(number: int, buffer: Tensor) -> Tensor:
        return buffer[: rows - number].copy_(bits[number][: rows - number])

    sums, copies = [], []
    for batch in stream_batches(range(50), gather, cuda_slots(rows, window, device)):
        assert batch.is_cuda
        torch.cuda._sleep(5_000_000)  # type: ignore[no-untyped-call]
        sums.append(batch.sum())
        copies.append(batch.clone())
        del batch  # its memory is free for the next one
    for number, (total, copy) in enumerate(zip(sums, copies, strict=True)):
        expected = stream[number][: rows - number]
        assert torch.equal(copy.cpu(), expected)
        assert total.item() == expected.sum().item()


@pytest.mark.cuda
def test_memory_of_a_closed_stream_is_not_written_to() -> None:
    device, rows, window = torch.device("cuda"), 512, 4096
    for _ in range(20):
        batches = stream_batches(
            range(9), lambda n, b: b.fill_(-1), cuda_slots(rows, window, device)
        )
        next(batches)
        batches.close()
        others = [torch.zeros(rows, window, dtype=torch.int16, device=device) for _ in range(4)]
        torch.cuda.synchronize()
        assert not any(other.any() for other in others)


@pytest.mark.cuda
def test_a_graph_can_be_captured_while_a_batch_is_gathered() -> None:
    """Capturing forbids CUDA calls in every thread of the process."""
    go_on, gathered = threading.Event(), threading.Event()

    def gather(number: int, buffer: Tensor) -> Tensor:
        if number == 2:
            assert go_on.wait(60)
        filled = fill(number, buffer)
        if number == 2:
            gathered.set()
        return filled

    device = torch.device("cuda")
    with closing(stream_batches(range(5), gather, cuda_slots(ROWS, WINDOW, device))) as batches:
        batch = next(batches)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            doubled = batch * 2
            go_on.set()
            assert gathered.wait(60)
        batch.fill_(21)
        graph.replay()
        assert bool((doubled == 42).all())
        assert [next(batches)[0, 0].item() for _ in range(4)] == [1, 2, 3, 4]
