"""Many files, several at a time, in threads: progress, errors, and a clean end.

Threads are enough, for what takes the time runs outside Python's lock: the tokenizer, which uses
all cores by itself, hashing, and writing. They fill the moments in which one file waits.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from utils.errors import DataError
from utils.interrupts import InterruptGuard
from utils.preparing.sources import Source, raise_together
from utils.terminal import Progress, warn

POLL_SECONDS = 0.2

T = TypeVar("T")


class Stopped(Exception):
    """In a thread: the work is to end."""


class Tally:
    """What all threads have done so far, and for them the sign to stop."""

    def __init__(self, guard: InterruptGuard) -> None:
        self.size_bytes = self.articles = self.characters = self.tokens = 0
        self.stopped = False
        self._guard = guard
        self._start_seconds = time.monotonic()
        self._lock = threading.Lock()

    def add(self, size_bytes: int, articles: int = 0, characters: int = 0, tokens: int = 0) -> None:
        """Count what was done since the last call. Raises Stopped once the work is to end."""
        self.check_wanted()
        with self._lock:
            self.size_bytes += size_bytes
            self.articles += articles
            self.characters += characters
            self.tokens += tokens

    def check_wanted(self) -> None:
        """Raise Stopped once the work is to end."""
        if self.stopped or self._guard.received is not None:
            raise Stopped

    def note(self) -> str:
        """The articles so far, tokens per second, and characters per token."""
        if not self.tokens:
            return ""
        rate = self.tokens / (time.monotonic() - self._start_seconds)
        return (
            f"{self.articles:,} articles, {rate / 1000:,.0f}k tokens/s,"
            f" {self.characters / self.tokens:.2f} chars/token"
        )


def for_each_file(
    label: str,
    sources: Sequence[Source],
    job: Callable[[Source, Tally], T],
    workers: int,
    guard: InterruptGuard,
) -> list[T]:
    """What `job` returns for each source, in their order; `workers` of them at a time.

    A DataError of one file does not stop the others; at the end one DataError names all. Any other
    error does, and Ctrl-C and SIGTERM, which raise Interrupted; the jobs end at their next
    `Tally.add`.
    """
    if not sources:
        return []
    tally = Tally(guard)
    with (
        ThreadPoolExecutor(workers) as pool,
        Progress(label, sum(source.size_bytes for source in sources), "B") as progress,
    ):
        futures = {pool.submit(_begin, job, source, tally): source for source in sources}
        try:
            errors = _follow(futures, tally, progress, guard)
        except BaseException:
            tally.stopped = True
            pool.shutdown(cancel_futures=True)
            raise
    raise_together(
        errors, f"{len(errors)} of {len(sources)} files failed; the others are finished."
    )
    return [future.result() for future in futures]


def _begin(job: Callable[[Source, Tally], T], source: Source, tally: Tally) -> T:
    tally.check_wanted()
    return job(source, tally)


def _follow(
    futures: dict[Future[T], Source], tally: Tally, progress: Progress, guard: InterruptGuard
) -> list[DataError]:
    """Show progress until all files are done; returns what went wrong with single files."""
    errors: list[DataError] = []
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
        guard.check("stopped; the finished files are kept", "Run the same command again to go on.")
        progress.advance(tally.size_bytes - progress.done, tally.note())
        for future in done:
            error = future.exception()
            if isinstance(error, DataError):
                warn(f"{futures[future].stem} failed; the other files go on")
                errors.append(error)
            elif error is not None:
                raise error
    return errors
