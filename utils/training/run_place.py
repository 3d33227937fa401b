"""The folder a run writes to and the name of its logs, held against other processes."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.checkpoint import Checkpoint, load_checkpoint
from utils.config import Config, PathsConfig
from utils.files import sole_writer
from utils.logging_utils import is_logged, metrics_path
from utils.runs import LATEST, find_checkpoint, new_run_folder
from utils.training.resume import folder_to_go_on_in

_ACTIVITY = "training in"
_CHECKPOINTS = "checkpoint_*"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Origin:
    """The checkpoint a run goes on from, and the folder to do so in; None asks for a new one."""

    checkpoint: Checkpoint
    path: Path
    folder: Path | None


@dataclass(frozen=True)
class RunPlace:
    """Where a run stands. `is_saved`: its latest checkpoint is the state it starts from."""

    folder: Path
    name: str
    is_new: bool
    is_saved: bool


@contextmanager
def opened_origin(path: Path, config: Config) -> Iterator[Origin]:
    """What `--resume path` means, with its folder held; CheckpointError if it cannot be read.

    The run is to go on in a new folder where nothing can be written to its own.
    """
    found = find_checkpoint(path).resolve()
    with ExitStack() as held:
        is_held = _hold(found.parent, held)
        checkpoint = load_checkpoint(found, config)
        folder = folder_to_go_on_in(checkpoint, found, config.paths.checkpoint_dir)
        yield Origin(checkpoint, found, folder if is_held else None)


def _hold(folder: Path, held: ExitStack) -> bool:
    """Hold a folder of checkpoints; false, and nothing is held, if it can only be read."""
    try:
        held.enter_context(sole_writer(folder, _ACTIVITY, _CHECKPOINTS))
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return False
    return True


@contextmanager
def claimed_place(
    paths: PathsConfig, new_name: str | None, origin: Origin | None
) -> Iterator[RunPlace]:
    """Hold the folder of `origin`, or a new one called after `new_name`, and that of the logs."""
    with ExitStack() as held:
        folder = origin.folder if origin else None
        is_new = folder is None
        if folder is None:
            has_logs = partial(is_logged, paths.log_dir)
            folder = new_run_folder(paths.checkpoint_dir, new_name, has_logs)
            held.enter_context(sole_writer(folder, _ACTIVITY, _CHECKPOINTS))
        # A flat folder is no run's own, so its checkpoints say which run they are of.
        is_flat = folder == paths.checkpoint_dir
        name = origin.checkpoint.run_name if origin and is_flat else folder.name
        held.enter_context(sole_writer(metrics_path(paths.log_dir, name).parent, "logging into"))
        is_saved = origin is not None and not is_new and origin.path.name == LATEST
        yield RunPlace(folder, name, is_new, is_saved)
