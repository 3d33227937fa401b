"""Exports that are whole or absent: written under another name, and moved when done."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from utils.errors import PipelineError
from utils.files import TEMPORARY_SUFFIX, format_bytes, sole_writer, sync_folder
from utils.free_space import free_bytes


@contextmanager
def staged(target: Path, needed_bytes: int) -> Iterator[Path]:
    """A path where nothing is yet, for a file or a folder that takes the name `target` at the end.

    What had that name before goes only then. If the block raises, or the process dies, the old
    one stays. Raises BusyError if another process exports to `target`, and PipelineError if
    `needed_bytes` are not free, or it cannot be written after all.
    """
    target = target.resolve()
    free = free_bytes(target.parent)
    if free is not None and free < needed_bytes:
        raise PipelineError(
            f"{target}: needs {format_bytes(needed_bytes)}, {format_bytes(free)} are free there",
            "Free some space, or name a place on another disk.",
        )
    staging = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    new, old = staging / "new", staging / "old"
    with sole_writer(staging, "exporting to"):
        try:
            _put_back(old, target)  # of a process that was killed at the worst moment
            _remove(new)
            yield new
            _sync(new)
            if target.is_dir():
                target.rename(old)  # a folder, unlike a file, is not replaced by a rename
            new.replace(target)
            sync_folder(target.parent)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PipelineError(f"{target}: could not be written: {reason}") from error
        finally:
            _put_back(old, target)
            shutil.rmtree(staging, ignore_errors=True)


def _put_back(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        old.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file, or a folder of files, survive a power cut."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
    if path.is_dir():
        sync_folder(path)
