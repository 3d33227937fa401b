"""Checkpoints: the sole reader and writer of `checkpoint_*.pt`.

A file is what torch.save writes, sealed with a SHA-256 of every byte (utils/sealing.py). Reading
never runs code (`weights_only=True`), so it holds only tensors and plain values. Files of other
programs load as bare weights.
"""

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.checkpoint_reading import LEGACY_WEIGHTS, Check, read_contents
from utils.config import Config
from utils.config_file import parse_config
from utils.environment import git_commit, versions
from utils.errors import CheckpointError
from utils.files import TEMPORARY_SUFFIX, atomic_write, copy_file, format_bytes, sync_folder
from utils.free_space import check_free_space, free_bytes
from utils.runs import other_checkpoints
from utils.sealing import SealingWriter
from utils.terminal import printable

FORMAT_VERSION = 2
_READABLE_VERSIONS = (1, FORMAT_VERSION)  # 1 had AdamW's state alone as its optimizer
_NAME_CHARACTERS = 100  # of a weight's name that are told
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # exFAT, some network disks


@dataclass
class Checkpoint:
    """Everything a run is. `name` is where it was read from, for messages.

    In a file that another program wrote only `model` and `config` are filled, and `config` is
    the current one.
    """

    config: Config
    model: dict[str, Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    tokenizer_sha256: str = ""
    dataset_fingerprint: str = ""
    run_name: str = ""
    git_commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    saved_at: str = ""
    format_version: int | None = FORMAT_VERSION  # None in a file that does not say
    name: str = ""

    @property
    def can_be_resumed(self) -> bool:
        """Whether it holds the state of a run as this version keeps it, not only weights."""
        return self.format_version == FORMAT_VERSION

    @property
    def step(self) -> int | None:
        """Optimizer steps taken, or None in a file that does not say."""
        return self.progress.get("step")

    @property
    def validation_loss(self) -> float | None:
        """The last validation loss before this was saved, or None."""
        return self.progress.get("validation_loss")


_REQUIRED = tuple(
    key.name
    for key in fields(Checkpoint)
    if key.name not in ("name", "format_version", "git_commit", "versions", "saved_at")
)


def save_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    also_as: Sequence[Path] = (),
    is_given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Write `path` atomically, then give the same file the names in `also_as`, atomically each.

    A crash at any moment leaves every name with its old or its new content, whole. Raises
    CheckpointError when the disk is full or the folder cannot be written, or as soon as
    `is_given_up`; the old file stays.
    """
    payload = {
        **{f.name: getattr(checkpoint, f.name) for f in fields(checkpoint) if f.name != "name"},
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.model_dump(mode="json"),
        "git_commit": git_commit(),
        "versions": versions(),
        "saved_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    check_free_space(path.parent, required_bytes(checkpoint))
    try:
        with atomic_write(path) as file:
            writer = SealingWriter(file, is_given_up)
            try:
                torch.save(payload, writer)  # type: ignore[arg-type]
            except RuntimeError as error:  # torch's report of our writer's OSError
                raise writer.error or error from None
            writer.finish()
        for other in also_as:
            _link(path, other)
    except OSError as error:
        raise CheckpointError(
            f"{path}: could not be saved: {error.strerror or error}",
            "The checkpoints saved before are intact. A checkpoint of this run takes about"
            f" {format_bytes(required_bytes(checkpoint))}; {_free(path.parent)}.",
        ) from error


def required_bytes(checkpoint: Checkpoint) -> int:
    """About what a checkpoint takes on disk, a little more rather than less."""
    return 65_536 + sum(_bytes_of(getattr(checkpoint, key)) for key in _REQUIRED)


def load_checkpoint(path: Path, fallback_config: Config) -> Checkpoint:
    """Read a checkpoint, checked to the last bit; tensors are memory-mapped on the CPU.

    Accepts our files, and, as bare weights for `fallback_config`, those of older programs: a
    mapping of tensors, alone or under "model", "model_state_dict" or "state_dict". Keys lose
    torch.compile's "_orig_mod." prefix. Anything else raises CheckpointError naming the file.
    """
    return _checkpoint_in(path, fallback_config, Check.ALL)


def load_weights_only(path: Path, fallback_config: Config) -> Checkpoint:
    """Read a checkpoint without what only resuming needs, which stays on disk.

    As `load_checkpoint`, but `optimizer` and `rng` are empty, and what is checked to the last bit
    is the rest: 0.47 GB of a 1.4 GB file.
    """
    checkpoint = _checkpoint_in(path, fallback_config, Check.WEIGHTS)
    return replace(checkpoint, optimizer={}, rng={})


@dataclass(frozen=True)
class CheckpointSummary:
    """What a list of checkpoints shows of one, and what loading it will take."""

    config: Config
    step: int | None
    validation_loss: float | None
    parameters: int


def summarise_checkpoint(path: Path, fallback_config: Config) -> CheckpointSummary:
    """What a checkpoint says of itself, at a cost that does not grow with its weights.

    Raises CheckpointError as `load_checkpoint` does, but cannot notice flipped bits, which only
    reading all bytes can: no weights leave this function.
    """
    found = _checkpoint_in(path, fallback_config, Check.NONE)
    parameters = sum(weight.numel() for weight in found.model.values())
    return CheckpointSummary(found.config, found.step, found.validation_loss, parameters)


def _checkpoint_in(path: Path, fallback_config: Config, check: Check) -> Checkpoint:
    contents = read_contents(path, check)
    values = contents.values
    if "format_version" not in values:
        weights = next((values[key] for key in LEGACY_WEIGHTS if key in values), values)
        named = contents.weights(weights)
        return Checkpoint(fallback_config, named, format_version=None, name=str(path))
    if not contents.is_sealed:
        raise contents.damaged("its checksum is missing")
    version = values["format_version"]
    if not isinstance(version, int) or version not in _READABLE_VERSIONS:
        raise CheckpointError(
            f"{path}: has checkpoint format {str(version)[:40]}, this program reads up to"
            f" {FORMAT_VERSION}",
            "Use the version of the program that wrote it.",
        )
    known = {f.name: values[f.name] for f in fields(Checkpoint) if f.name in values}
    missing = [key for key in _REQUIRED if key not in known]
    if missing:
        raise CheckpointError(f"{path}: has no {', '.join(missing)}", other_checkpoints(path))
    _check_kinds(known, path)
    known["config"] = parse_config(values["config"], f"{path} (its config)", path.parent)
    known["model"] = contents.weights(values["model"])
    return Checkpoint(**known, name=str(path))


def _check_kinds(known: Mapping[str, object], path: Path) -> None:
    """Raise CheckpointError where a value is not of the kind that a checkpoint has there."""
    empty = Checkpoint(Config(), {})
    kinds = {f.name: type(getattr(empty, f.name)) for f in fields(Checkpoint)}
    odd = [key for key in known if key != "config" and not isinstance(known[key], kinds[key])]
    odd += [] if _is_settings(known["config"]) else ["config"]
    progress = known["progress"]
    if not odd and isinstance(progress, dict):
        odd += [] if isinstance(progress.get("step"), int | None) else ["progress.step"]
        loss = progress.get("validation_loss")
        odd += [] if isinstance(loss, float | None) else ["progress.validation_loss"]
    if odd:
        raise CheckpointError(
            f"{path}: its {odd[0]} is not what a checkpoint holds", other_checkpoints(path)
        )


def _is_settings(value: object) -> bool:
    """Whether it is JSON of two levels, as config.json is."""
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        return False
    settings = [setting for part in value.values() for setting in part.items()]
    values = [each for _, one in settings for each in (one if isinstance(one, list) else [one])]
    names = [*value, *(name for name, _ in settings)]
    return all(isinstance(name, str) for name in names) and all(
        isinstance(each, str | int | float | None) for each in values
    )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copy `weights` into the model, or raise CheckpointError naming what does not fit."""
    expected = model.state_dict()
    check_fit(weights, {key: value.shape for key, value in expected.items()}, name)
    model.load_state_dict(weights)


def check_fit(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], name: str) -> None:
    """Raise CheckpointError, for the file `name`, where weights are not those of these shapes."""
    problems = [f"{key} is missing" for key in shapes if key not in weights]
    problems += [
        f"{printable(key[:_NAME_CHARACTERS])} is unknown" for key in weights if key not in shapes
    ]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(shape)}"
        for key, shape in shapes.items()
        if key in weights and weights[key].shape != shape
    ]
    problems += [
        f"{key} holds {weights[key].dtype}, not floating point numbers"
        for key in shapes
        if key in weights and not weights[key].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{name}: its weights do not fit the model: {', '.join(problems[:3])}{more}",
            "It was made by another program or with another model section in its configuration.",
        )


def _link(source: Path, target: Path) -> None:
    """Give `target` the content of `source`: a hard link, so it costs no space, or a copy."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        copy_file(source, target)
        return
    temporary.replace(target)
    sync_folder(target.parent)


def _free(folder: Path) -> str:
    free = free_bytes(folder)
    return "how much is free is not known" if free is None else f"{format_bytes(free)} are free"


def _bytes_of(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() + 512  # its place in the zip file
    if isinstance(value, Mapping):
        return sum(32 + _bytes_of(part) for part in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes_of(part) for part in value)
    return 16
