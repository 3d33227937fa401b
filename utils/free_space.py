"""Room on a disk, looked at before gigabytes are written to it."""

import shutil
from pathlib import Path

from utils.errors import CheckpointError
from utils.files import format_bytes


def free_bytes(folder: Path) -> int | None:
    """What this user may still write to the disk of `folder`, which need not exist yet.

    None where the disk does not say, as some network disks do not.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        usage = shutil.disk_usage(existing)
    except OSError:
        return None
    return usage.free if usage.total else None


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise CheckpointError, with both numbers, if `needed_bytes` do not fit into `folder`."""
    free = free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise CheckpointError(
            f"{folder}: checkpoints need {format_bytes(needed_bytes)} more, {format_bytes(free)}"
            " are free there",
            "Free some space, name another paths.checkpoint_dir, or lower"
            " training.keep_step_checkpoints.",
        )
