"""Batches from main memory to the GPU, ahead of their use.

A thread gathers the windows into pinned pages while the GPU computes, and the copy runs on a
stream of its own: the training step waits for neither. The thread makes no CUDA call, which would
break a CUDA graph that is being captured. Tokens travel as 16 bits and become int64 on the GPU.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Indices = TypeVar("Indices")


class Slot(Protocol):
    """Room for one batch here and on the device: used in the order host, send, take."""

    def host(self) -> Tensor:
        """The buffer here, int16 (rows, window), once its last batch was copied."""

    def send(self, bits: Tensor) -> None:
        """Begin to copy the first rows of the buffer to the device."""

    def take(self) -> Tensor:
        """What was sent, int64, for use on the device's current stream."""


class CudaSlot:
    """A pinned buffer and its twin on the GPU, (rows, window); `stream` is where copies run."""

    def __init__(self, rows: int, window: int, stream: torch.cuda.Stream) -> None:
        self._stream, self._device = stream, stream.device
        self._pinned = torch.empty(rows, window, dtype=torch.int16, pin_memory=True)
        self._bits = torch.empty(rows, window, dtype=torch.int16, device=self._device)
        self._sent = self._bits
        self._copied, self._used = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]
        # The memory may have been another tensor's, which work in the queue still reads.
        self._used.record(torch.cuda.current_stream(self._device))

    def host(self) -> Tensor:
        self._copied.synchronize()
        return self._pinned

    def send(self, bits: Tensor) -> None:
        self._sent = self._bits[: len(bits)]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used)
            self._sent.copy_(bits, non_blocking=True)
            self._copied.record(self._stream)

    def take(self) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._copied)
        batch = widen(self._sent)
        self._used.record(current)
        return batch


def cuda_slots(rows: int, window: int, device: torch.device) -> list[Slot]:
    """What `stream_batches` needs to bring batches of up to `rows` windows to a GPU."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return [CudaSlot(rows, window, stream) for _ in range(2)]


def stream_batches(
    order: Iterable[Indices], gather: Callable[[Indices, Tensor], Tensor], slots: Sequence[Slot]
) -> Generator[Tensor, None, None]:
    """The batches that `order` lists, int64 (rows, window), on the slots' device.

    `gather(indices, buffer)` fills the first rows of `buffer` and returns them; it runs in a
    thread, one batch after the other. While a batch is in use, the next one is on its way and the
    one behind it is being gathered. An error in gathering comes in its batch's turn, after all
    batches before it.
    """
    indices = iter(order)
    gathering: deque[tuple[Slot, Future[Tensor]]] = deque()

    def fill(slot: Slot) -> None:
        for index in indices:
            gathering.append((slot, thread.submit(gather, index, slot.host())))
            break

    def send_next() -> Slot | None:
        if not gathering or gathering[0][1].exception():
            return None
        slot, bits = gathering.popleft()
        slot.send(bits.result())
        return slot

    try:
        with ThreadPoolExecutor(1, "batches") as thread:
            for slot in slots:
                fill(slot)
            sent = send_next()
            while sent is not None:
                batch, emptied = sent.take(), sent
                sent = send_next()
                fill(emptied)
                yield batch
            if gathering:
                gathering[0][1].result()  # raises what kept it from being sent
    finally:
        for slot in slots:
            slot.host()  # a copy into memory that is given back would hit its next owner


def widen(bits: Tensor) -> Tensor:
    """Tokens of 16 bits, seen as int16, as int64."""
    return bits.long() & 0xFFFF
