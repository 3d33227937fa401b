"""Checkpoints: the sole reader and writer of `checkpoint_*.pt`.

A file is what torch.save writes, sealed with a SHA-256 of every byte (utils/sealing.py). Reading
never runs code (`weights_only=True`), so it holds only tensors and plain values. Files of other
programs load as bare weights.
"""

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.config import Config
from utils.config_file import parse_config
from utils.environment import git_commit, versions
from utils.errors import CheckpointError
from utils.files import TEMPORARY_SUFFIX, atomic_write, copy_file, format_bytes, sync_folder
from utils.free_space import check_free_space, free_bytes
from utils.runs import other_checkpoints, whole_checkpoint_beside
from utils.sealing import NotWholeError, SealingWriter, has_seal, verify

FORMAT_VERSION = 2
_READABLE_VERSIONS = (1, FORMAT_VERSION)  # 1 had AdamW's state alone as its optimizer
COMPILED_PREFIX = "_orig_mod."
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # exFAT, some network disks
_LEGACY_WEIGHTS = ("model_state_dict", "model", "state_dict")


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
    return _checkpoint_in(path, fallback_config, reads_all=True)


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
    found = _checkpoint_in(path, fallback_config, reads_all=False)
    parameters = sum(weight.numel() for weight in found.model.values())
    return CheckpointSummary(found.config, found.step, found.validation_loss, parameters)


def _checkpoint_in(path: Path, fallback_config: Config, reads_all: bool) -> Checkpoint:
    payload, is_sealed = _read_payload(path, reads_all)
    if "format_version" not in payload:
        weights = next((payload[k] for k in _LEGACY_WEIGHTS if k in payload), payload)
        weights = _weights(weights, path)
        return Checkpoint(fallback_config, weights, format_version=None, name=str(path))
    if not is_sealed:
        raise _damaged(path, "its checksum is missing", reads_all)
    version = payload["format_version"]
    if version not in _READABLE_VERSIONS:
        raise CheckpointError(
            f"{path}: has checkpoint format {version}, this program reads up to {FORMAT_VERSION}",
            "Use the version of the program that wrote it.",
        )
    missing = [key for key in _REQUIRED if key not in payload]
    if missing:
        raise CheckpointError(f"{path}: has no {', '.join(missing)}", other_checkpoints(path))
    known = {f.name: payload[f.name] for f in fields(Checkpoint) if f.name in payload}
    known["config"] = parse_config(payload["config"], f"{path} (its config)", path.parent)
    known["model"] = _weights(payload["model"], path)
    return Checkpoint(**known, name=str(path))


def load_weights(
    model: nn.Module, weights: Mapping[str, Any], name: str, assign: bool = False
) -> None:
    """Copy `weights` into the model, or raise CheckpointError naming what does not fit."""
    expected = model.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in weights]
    problems += [f"{key} is unknown" for key in weights if key not in expected]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    problems += [
        f"{key} holds {weights[key].dtype}, not floating point numbers"
        for key in expected
        if key in weights and not weights[key].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{name}: its weights do not fit the model: {', '.join(problems[:3])}{more}",
            "It was made by another program or with another model section in its configuration.",
        )
    model.load_state_dict(weights, assign=assign)


def _read_payload(path: Path, reads_all: bool) -> tuple[dict[str, Any], bool]:
    """The mapping in a file, and whether it bore our checksum, which `reads_all` compares."""
    check = verify if reads_all else has_seal
    for _ in range(100):  # training may replace the file between our two looks at it
        try:
            with path.open("rb") as file:
                is_sealed = check(file)
                payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    continue
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such checkpoint", other_checkpoints(path)) from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
        except NotWholeError as error:
            raise _damaged(path, str(error), reads_all) from None
        except Exception as error:  # torch.load raises many kinds on files that are not its own
            reason = " ".join(str(error).split())
            if "weights_only" in reason or "Unsupported" in reason:
                raise CheckpointError(
                    f"{path}: holds objects other than tensors and plain values; nothing in it"
                    " was run",
                    "Do not load it with anything else unless you trust who made it.",
                ) from None
            how = f"torch cannot read it ({reason[:120]})"
            raise _damaged(path, how, reads_all) from None
        if not isinstance(payload, dict):
            raise CheckpointError(f"{path}: holds a {type(payload).__name__}, not a checkpoint")
        return payload, is_sealed
    raise CheckpointError(f"{path}: is being replaced faster than it can be read")


def _weights(weights: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{path}: holds no model weights")
    odd = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"{path}: holds no model weights: {odd[0]!r} is no tensor",
            "Known layouts are ours, and weights alone or under "
            + ", ".join(_LEGACY_WEIGHTS)
            + ".",
        )
    return {str(key).removeprefix(COMPILED_PREFIX): value for key, value in weights.items()}


def _damaged(path: Path, how: str, reads_all: bool) -> CheckpointError:
    hint = whole_checkpoint_beside(path) if reads_all else other_checkpoints(path)
    return CheckpointError(f"{path}: is damaged: {how}", hint)


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
