"""Cleaning many raw files: one process per file, several at a time, progress, and a clean end."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from ctypes import c_int64
from pathlib import Path
from types import FrameType
from typing import Any

from utils.articles import CleanerSettings
from utils.cleaning.file_cleaner import CleanedFile, clean_file
from utils.cleaning.raw_files import RawFile
from utils.errors import DataError, Interrupted
from utils.terminal import Progress, say, warn

POLL_SECONDS = 0.2
_SHOWN_CHARACTERS = 12  # of a file's stem, beside the progress


def clean_files(
    todo: list[RawFile], cleaned_dir: Path, settings: CleanerSettings, workers: int
) -> None:
    """Clean the files, `workers` at a time, and show how far they are.

    A file that cannot be cleaned does not stop the others; at the end DataError names all of
    them. Ctrl-C and SIGTERM stop the workers, then raise Interrupted.
    """
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context, len(todo))
    workers = min(workers, len(todo))
    files = f"{len(todo)} file{'s' * (len(todo) != 1)}"
    say(f"cleaning {files} with {workers} worker{'s' * (workers != 1)} into {cleaned_dir}")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (shared,))
    with _interruptible():
        try:
            with _ctrl_c_ignored():  # which the worker processes inherit, as they start here
                futures = {
                    pool.submit(_clean_in_worker, slot, raw, cleaned_dir, settings): raw
                    for slot, raw in enumerate(todo)
                }
            errors = _follow(futures, shared, todo, settings)
        except BaseException:
            shared.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    if errors:
        raise DataError(
            "\n".join(str(error) for error in errors),
            f"{len(errors)} of {len(todo)} files failed; the others are finished.",
        )


class _Shared:
    """What workers tell while they work, two numbers per file, and the sign for them to stop."""

    def __init__(self, context: Any, files: int) -> None:
        self.bytes_read = context.RawArray(c_int64, files)
        self.articles = context.RawArray(c_int64, files)
        self._stopped = context.RawValue(c_int64, 0)

    def stop(self) -> None:
        self._stopped.value = 1

    @property
    def stopped(self) -> bool:
        return bool(self._stopped.value)


_shared: _Shared  # in a worker


def _start_worker(shared: _Shared) -> None:
    global _shared
    _shared = shared
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Stopped(Exception):
    pass


def _clean_in_worker(
    slot: int, raw: RawFile, cleaned_dir: Path, settings: CleanerSettings
) -> CleanedFile:
    def report(bytes_read: int, articles: int) -> None:
        _shared.bytes_read[slot], _shared.articles[slot] = bytes_read, articles
        if _shared.stopped:
            raise _Stopped

    report(0, 0)
    return clean_file(raw, cleaned_dir, settings, report)


def _follow(
    futures: dict[Future[CleanedFile], RawFile],
    shared: _Shared,
    todo: list[RawFile],
    settings: CleanerSettings,
) -> list[DataError]:
    """Show progress until all files are done; returns what went wrong with single files."""
    errors: list[DataError] = []
    in_work = _InWork(shared, todo)
    waiting = set(futures)
    with _progress(todo, settings.limit_articles) as progress:
        while waiting:
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            counted = shared.articles if settings.limit_articles else shared.bytes_read
            progress.advance(sum(counted) - progress.done, in_work.note())
            for future in done:
                raw = futures[future]
                try:
                    _say_finished(raw, future.result())
                    in_work.finished.add(raw)
                except DataError as error:
                    in_work.finished.add(raw)
                    warn(f"{raw.path.name} failed; the other files go on")
                    errors.append(error)
                except BrokenProcessPool:
                    raise DataError(
                        f"a worker process was killed while {in_work.names()} were in work",
                        "Out of memory is the usual reason: try fewer --workers. The same command"
                        " goes on with what is not finished.",
                    ) from None
    return errors


def _progress(todo: list[RawFile], limit_articles: int | None) -> Progress:
    """Counts bytes of the raw files; with a limit, articles, of which small files have fewer."""
    if limit_articles is not None:
        return Progress("cleaning", limit_articles * len(todo), "articles")
    return Progress("cleaning", sum(raw.size_bytes for raw in todo), "B")


class _InWork:
    """The files that are begun and not finished."""

    def __init__(self, shared: _Shared, todo: list[RawFile]) -> None:
        self.shared = shared
        self.todo = todo
        self.finished: set[RawFile] = set()

    def files(self) -> Iterator[tuple[RawFile, float]]:
        """Each file with the share of it that is read."""
        for raw, bytes_read in zip(self.todo, self.shared.bytes_read, strict=True):
            if bytes_read and raw not in self.finished:
                yield raw, bytes_read / raw.size_bytes

    def names(self) -> str:
        return ", ".join(raw.path.name for raw, _ in self.files()) or "no files"

    def note(self) -> str:
        """The articles so far, and how far each file in work is."""
        files = [f"{_end_of(raw.stem)}: {share:.0%}" for raw, share in self.files()]
        return ", ".join([f"{sum(self.shared.articles):,} articles", *files])


def _end_of(stem: str) -> str:
    """The part of a long name that differs between files."""
    return stem if len(stem) <= _SHOWN_CHARACTERS else f"…{stem[-_SHOWN_CHARACTERS:]}"


def _say_finished(raw: RawFile, result: CleanedFile) -> None:
    marker = result.marker
    say(f"{raw.stem}: {marker.articles:,} articles of {marker.records:,} records")
    for kind, first in result.first_bad.items():
        warn(f"{marker.bad_lines[kind]:,} bad lines ({kind}); the first: {first}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Interrupted, so that workers are stopped and nothing is torn."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(
            f"{signal.Signals(number).name}: stopped; finished files are kept",
            "The same command goes on with the others.",
            number,
        )

    handled = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, interrupt) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, previous, strict=True):
            signal.signal(number, handler)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal, but only the parent is to act on it."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
