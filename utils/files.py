"""Files that are whole or absent: atomic writes, digests, and one writer per folder."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from utils.errors import BusyError

TEMPORARY_SUFFIX = ".tmp"
LOCK_NAME = ".lock"

_UMASK = os.umask(0o077)  # it can only be read by setting it, which is safe before threads
os.umask(_UMASK)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the name `path` only when the block ends without error.

    The bytes go to a temporary file in the same folder, are fsynced, renamed over `path`, and
    the folder is fsynced: after a crash at any moment `path` is the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent
    )
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Write `values` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy bytes, atomically."""
    with source.open("rb") as reader, atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def sync_folder(folder: Path) -> None:
    """Make renames and deletions inside `folder` survive a power cut (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in one pass."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_stale_temporaries(folder: Path, names: str = "*") -> None:
    """Delete what writers that were killed left of files called `names`, which is a pattern.

    Call while holding the folder's lock.
    """
    for path in folder.glob(f".{names}{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path, activity: str, names: str = "*") -> Iterator[None]:
    """Hold `folder` for this process; raises BusyError if another process holds it.

    The lock is the operating system's, so it ends with the process, however that ends. What such
    a process left of files called `names`, a pattern, is deleted: name ours where others' may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"{folder}: another process is {activity} this folder",
            "Wait for it to end, or name another folder in the configuration.",
        ) from None
    try:
        remove_stale_temporaries(folder, names)
        yield
    finally:
        lock.release()


def natural_key(path: Path) -> list[str | int]:
    """Sorts names by the numbers in them: part_2 before part_10."""
    # split at the numbers, the odd places are digits: two keys always compare like with like
    parts: list[str | int] = list(re.split(r"([0-9]+)", path.name))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return [*parts, path.name]


def format_bytes(count: float) -> str:
    """Bytes for people: "1.4 GB" (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
