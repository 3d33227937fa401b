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
from utils.terminal import warn


@contextmanager
def staged(target: Path, needed_bytes: int) -> Iterator[Path]:
    """A path where nothing is yet, for a file or a folder that takes the name `target` at the end.

    What had that name before goes only then; if the block raises, it stays. A folder is replaced
    by two renames, and a process that is killed just between them leaves the old one in
    `.NAME.tmp/old`: the next export puts it back first, and says so. Raises BusyError if another
    process exports to `target`, and PipelineError if `needed_bytes` are not free, or it cannot be
    written after all.
    """
    target = target.resolve()
    staging = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    new, old = staging / "new", staging / "old"
    try:
        with sole_writer(staging, "exporting to"):
            if _is_put_back(old, target):
                warn(f"{target}: an export that was to replace it was killed: the old one is back")
            try:
                _remove(new)
                _check_free(target, needed_bytes)
                yield new
                _sync(new)
                if target.is_dir():
                    _remove(old)  # of a process that was killed when all was done
                    target.rename(old)  # a folder, unlike a file, is not replaced by a rename
                new.replace(target)
                sync_folder(target.parent)
            finally:
                _is_put_back(old, target)
                shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(f"{target}: could not be written: {reason}") from error


def _is_put_back(old: Path, target: Path) -> bool:
    """Whether the name was left without what it had, which then has it again.

    Raises PipelineError naming where that is if it cannot be moved; it is left there.
    """
    if not old.exists() or target.exists():
        return False
    try:
        old.rename(target)
    except OSError as error:
        raise PipelineError(
            f"{target}: what stood there is in {old}, and cannot be moved back:"
            f" {error.strerror or error}",
            "Move it yourself, then export again.",
        ) from error
    return True


def _check_free(target: Path, needed_bytes: int) -> None:
    free = free_bytes(target.parent)
    if free is not None and free < needed_bytes:
        raise PipelineError(
            f"{target}: needs {format_bytes(needed_bytes)}, {format_bytes(free)} are free there",
            "Free some space, or name a place on another disk.",
        )


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
