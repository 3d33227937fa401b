"""Where checkpoints stand: one folder per training run, and the names inside it."""

import re
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from utils.errors import CheckpointError
from utils.sealing import NotWholeError, verify
from utils.terminal import warn

LATEST = "checkpoint_latest.pt"
BEST = "checkpoint_best.pt"
_STEP_NAME = re.compile(r"checkpoint_step_(\d+)\.pt")


@dataclass(frozen=True)
class CheckpointFile:
    """A file that looks like a checkpoint by its name. `kind`: latest, best, step or other."""

    path: Path
    kind: str
    step: int | None
    modified_seconds: float
    size_bytes: int


@dataclass(frozen=True)
class Run:
    """A folder with checkpoints, newest file first; `is_flat` for the base folder itself."""

    path: Path
    checkpoints: tuple[CheckpointFile, ...]
    is_flat: bool

    @property
    def modified_seconds(self) -> float:
        return max(file.modified_seconds for file in self.checkpoints)


def step_name(step: int) -> str:
    return f"checkpoint_step_{step}.pt"


def new_run_folder(
    checkpoint_dir: Path, name: str | None, is_taken: Callable[[str], bool] = lambda _: False
) -> Path:
    """Create run_YYYY_MM_DD_HH_MM, with `_name` behind it, or `_2`, `_3` ... if it is taken.

    `is_taken` says of a run's name that something else of this name exists, such as its logs.
    """
    base = time.strftime("run_%Y_%m_%d_%H_%M") + (f"_{name}" if name else "")
    for attempt in range(1, 1000):
        folder = checkpoint_dir / (base if attempt == 1 else f"{base}_{attempt}")
        if is_taken(folder.name):
            continue
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise CheckpointError(f"{checkpoint_dir}: a thousand runs named {base}", "Give a --name.")


def list_runs(checkpoint_dir: Path) -> list[Run]:
    """Folders with checkpoints, newest first: runs, and the base folder if it holds any itself."""
    if not checkpoint_dir.is_dir():
        return []
    folders = [checkpoint_dir, *(p for p in checkpoint_dir.iterdir() if p.is_dir())]
    runs = [Run(p, tuple(list_checkpoints(p)), p == checkpoint_dir) for p in folders]
    found = [run for run in runs if run.checkpoints]
    return sorted(found, key=lambda run: (run.modified_seconds, run.path.name), reverse=True)


def list_checkpoints(folder: Path) -> list[CheckpointFile]:
    """The .pt files of one folder: latest, best, then steps from new to old, then others."""
    order = {"latest": 0, "best": 1, "step": 2, "other": 3}
    found = filter(None, map(_describe, folder.glob("*.pt")))
    return sorted(found, key=lambda f: (order[f.kind], -(f.step or 0), f.path.name))


def prune_step_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the last written `keep` step checkpoints.

    By time, not by number: a run resumed from an early step outranks what it leaves behind.
    """
    steps = [file for file in list_checkpoints(folder) if file.kind == "step"]
    by_age = sorted(steps, key=lambda file: file.modified_seconds, reverse=True)
    for file in by_age[keep:]:
        file.path.unlink(missing_ok=True)


def short_names(paths: Collection[Path]) -> list[str]:
    """What to call checkpoints: by file, and by run as well where they are of several."""
    has_one_folder = len({path.parent for path in paths}) == 1
    return [path.name if has_one_folder else f"{path.parent.name}/{path.name}" for path in paths]


def find_checkpoint(path: Path) -> Path:
    """`path` itself, or the newest whole checkpoint of the run folder it names."""
    if path.is_dir():
        return newest_whole(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint", other_checkpoints(path))
    return path


def newest_whole(folder: Path) -> Path:
    """The latest checkpoint, or, each with a warning, the newest that is not broken.

    All bytes of what is returned were read and match their checksum. Raises CheckpointError.
    """
    broken = []
    for path in _by_age(folder):
        damage = damage_of(path)
        if damage is None:
            return path
        broken.append(path.name)
        warn(f"{path}: is damaged: {damage}")
    if broken:
        raise CheckpointError(
            f"{folder}: none of its checkpoints is whole: {', '.join(broken)}",
            "Start a new run, or restore one of them from a backup.",
        )
    raise CheckpointError(f"{folder}: holds no checkpoint", "Name a run folder or a .pt file.")


def whole_checkpoint_beside(path: Path) -> str:
    """A sentence that offers the newest whole checkpoint beside a broken one, if there is any."""
    others = [other for other in _by_age(path.parent) if other.name != path.name]
    for other in others:
        if damage_of(other) is None:
            return f"The newest whole one beside it is {other}"
    if others:
        names = ", ".join(other.name for other in others)
        return f"None of the others in {path.parent} is whole either: {names}"
    return other_checkpoints(path)


def damage_of(path: Path) -> str | None:
    """What is wrong with a file's bytes, all of which are read, as the end of a sentence."""
    try:
        with path.open("rb") as file:
            verify(file)
    except NotWholeError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None


def _by_age(folder: Path) -> list[Path]:
    """The latest, the best and the step checkpoints from new to old, and what else there is."""
    rank = {"latest": 0, "best": 1, "step": 1, "other": 2}
    files = list_checkpoints(folder)
    files.sort(key=lambda f: (rank[f.kind], -f.modified_seconds, -(f.step or 0)))
    return [file.path for file in files]


def find_run(checkpoint_dir: Path, name: str) -> Run:
    """The run called `name`, the newest for "latest", or the one in the folder of that path."""
    runs = list_runs(checkpoint_dir)
    if name == "latest" and runs:
        return runs[0]
    for folder in (checkpoint_dir / name, Path(name)):
        if checkpoints := list_checkpoints(folder):
            is_flat = folder.resolve() == checkpoint_dir.resolve()
            return Run(folder, tuple(checkpoints), is_flat)
    names = ", ".join(run.path.name for run in runs[:6])
    raise CheckpointError(
        f"{name}: no training run of this name in {checkpoint_dir}, and no folder with checkpoints",
        f"Runs, newest first: {names}" if runs else "Train a model first: python train.py",
    )


def find_in_run(run: Run, name: str) -> Path:
    """A run's checkpoint by file name, step number, "latest" or "best"."""
    for file in run.checkpoints:
        short_names = {"step": str(file.step), "other": file.path.name}
        if name in (file.path.name, short_names.get(file.kind, file.kind)):
            return file.path
    raise CheckpointError(
        f"{run.path}: has no checkpoint {name!r}",
        "It has " + ", ".join(file.path.name for file in run.checkpoints[:6]),
    )


def other_checkpoints(path: Path) -> str:
    others = [f.path.name for f in list_checkpoints(path.parent) if f.path.name != path.name]
    if not others:
        return f"There is no other checkpoint in {path.parent}."
    return f"Others in {path.parent}: {', '.join(others[:6])}"


def _describe(path: Path) -> CheckpointFile | None:
    """What can be told without opening the file; None if it is no file, or gone by now."""
    match = _STEP_NAME.fullmatch(path.name)
    kind = {LATEST: "latest", BEST: "best"}.get(path.name, "step" if match else "other")
    try:
        status = path.stat()
    except OSError:  # pruned by a run since it was listed, or a link that leads nowhere
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    step = int(match[1]) if match else None
    return CheckpointFile(path, kind, step, status.st_mtime, status.st_size)
