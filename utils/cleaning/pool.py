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
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from utils.articles import CleanerSettings
from utils.cleaning.file_cleaner import CleanedFile, clean_file
from utils.cleaning.inputs.raw_files import RawFile
from utils.errors import DataError
from utils.files import remove_stale_temporaries
from utils.interrupts import InterruptGuard
from utils.terminal import Progress, say, warn

POLL_SECONDS = 0.2
_SHOWN_CHARACTERS = 12  # of a file's stem, beside the progress


def clean_files(
    todo: list[RawFile], cleaned_dir: Path, settings: CleanerSettings, workers: int
) -> tuple[int, list[DataError]]:
    """Clean the files, `workers` at a time, and show how far they are.

    Returns the bytes read, and an error for each file that could not be cleaned, which does not
    stop the others. A text that cannot be written, as on a full disk, ends the work with an
    OSError. Ctrl-C and SIGTERM stop the workers, then raise Interrupted.
    """
    context = multiprocessing.get_context("spawn")
    shared = _Shared(context, len(todo))
    workers = min(workers, len(todo))
    files = f"{len(todo)} file{'s' * (len(todo) != 1)}"
    say(f"cleaning {files} with {workers} worker{'s' * (workers != 1)} into {cleaned_dir}")
    in_work = _InWork(shared, todo)
    with InterruptGuard("stopping the workers; finished files are kept") as guard:
        with _worker_deaths_named(in_work, guard):
            pool = ProcessPoolExecutor(workers, context, _start_worker, (shared,))
        try:
            with _worker_deaths_named(in_work, guard), _ctrl_c_kept_from_workers():
                futures = {
                    pool.submit(_clean_in_worker, slot, raw, cleaned_dir, settings): raw
                    for slot, raw in enumerate(todo)
                }
            errors = _follow(futures, in_work, settings, guard)
        except BaseException:
            shared.stop()
            pool.shutdown(cancel_futures=True)
            remove_stale_temporaries(cleaned_dir)  # of workers that a signal ended
            raise
        pool.shutdown()
    return sum(shared.bytes_read), errors


def raise_failures(errors: list[DataError], files: int) -> None:
    """Raises DataError naming all of the `files` that could not be cleaned, if any."""
    if errors:
        raise DataError(
            "\n".join(str(error) for error in errors),
            f"{len(errors)} of {files} files failed; the others are finished.",
        ) from errors[0].__cause__


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
    in_work: "_InWork",
    settings: CleanerSettings,
    guard: InterruptGuard,
) -> list[DataError]:
    """Show progress until all files are done; returns what went wrong with single files."""
    errors: list[DataError] = []
    shared = in_work.shared
    waiting = set(futures)
    with _progress(in_work.todo, settings.limit_articles) as progress:
        while waiting:
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            _check_interrupted(guard)
            counted = shared.articles if settings.limit_articles else shared.bytes_read
            progress.advance(sum(counted) - progress.done, in_work.note())
            for future in done:
                raw = futures[future]
                with _worker_deaths_named(in_work, guard):
                    error = _error_of(future, raw)
                in_work.finished.add(raw)
                if error is None:
                    _say_finished(raw, future.result())
                else:
                    warn(f"{raw.name} failed; the other files go on")
                    errors.append(error)
    return errors


def _check_interrupted(guard: InterruptGuard) -> None:
    guard.check("stopped; finished files are kept", "The same command goes on with the others.")


def _error_of(future: Future[CleanedFile], raw: RawFile) -> DataError | None:
    """What went wrong with this file alone; raises what concerns them all."""
    error = future.exception()
    if error is None or isinstance(error, DataError):
        return error
    if isinstance(error, (BrokenProcessPool, OSError)):  # no worker; no place to write
        raise error
    if isinstance(error, MemoryError):
        what, hint = "out of memory", "Try fewer --workers."
    else:
        what = f"unexpected {type(error).__name__}: {error}"
        hint = "This is a fault of the program. Run again with --debug and report what it shows."
    named = DataError(f"{raw}: {what}", hint)
    named.__cause__ = error
    return named


@contextmanager
def _worker_deaths_named(in_work: "_InWork", guard: InterruptGuard) -> Iterator[None]:
    """A worker that was killed, or could not even start: its pipe is broken then."""
    try:
        yield
    except (BrokenProcessPool, BrokenPipeError, EOFError):
        _check_interrupted(guard)  # SIGTERM to the whole group ends workers too
        raise DataError(
            f"a worker process was killed while {in_work.names()} were in work",
            "Out of memory is the usual reason: try fewer --workers. The same command goes on"
            " with what is not finished.",
        ) from None


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
        return ", ".join(raw.name for raw, _ in self.files()) or "no files"

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
    for warning in result.warnings:
        warn(warning)


@contextmanager
def _ctrl_c_kept_from_workers() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal, but only the parent is to act on it.

    Processes that start meanwhile inherit the blocked SIGINT; ours comes when the block ends.
    SIGTERM must reach workers: the executor ends them with it when one of them was killed.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no signals to inherit
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock it
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
