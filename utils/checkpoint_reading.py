"""Reading files of weights: what torch finds in them, with nothing run, and whether it is whole."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from utils.archive_records import Record, check_records, read_records
from utils.device import is_out_of_memory
from utils.errors import CheckpointError, DeviceError
from utils.runs import other_checkpoints, whole_checkpoint_beside
from utils.sealing import NotWholeError, has_seal, verify
from utils.terminal import printable

COMPILED_PREFIX = "_orig_mod."
LEGACY_WEIGHTS = ("model_state_dict", "model", "state_dict")
_ATTEMPTS = 100


class Check(Enum):
    """Which bytes of a file are compared with their checksums."""

    ALL = "all"
    WEIGHTS = "the weights, and what says what and where they are"
    NONE = "none"


@dataclass(frozen=True)
class Contents:
    """The mapping in a file, and whether the file bears our seal. Tensors are memory-mapped."""

    path: Path
    values: dict[str, Any]
    is_sealed: bool
    check: Check
    records: dict[int, Record]  # by their place in memory; only for Check.WEIGHTS

    def weights(self, found: object) -> dict[str, Tensor]:
        """`found`, a part of the values, as named tensors without torch.compile's prefix.

        Raises CheckpointError if it is something else, or not whole.
        """
        if not isinstance(found, Mapping) or not found:
            raise CheckpointError(f"{self.path}: holds no model weights")
        odd = [key for key, value in found.items() if not _is_plain(value)]
        if odd:
            raise CheckpointError(
                f"{self.path}: holds no model weights: {odd[0]!r} is no tensor",
                "Known layouts are ours, and weights alone or under "
                + ", ".join(LEGACY_WEIGHTS)
                + ".",
            )
        # Attributes that a file may give to a tensor, over its methods too, stay behind.
        plain = {
            str(key).removeprefix(COMPILED_PREFIX): Tensor.detach(value)
            for key, value in found.items()
        }
        if self.check is Check.WEIGHTS:
            self._check_bytes(plain)
        return plain

    def damaged(self, how: str) -> CheckpointError:
        return _damaged(self.path, how, self.check)

    def _check_bytes(self, weights: Mapping[str, Tensor]) -> None:
        found = [weight.untyped_storage() for weight in weights.values()]
        storages = {(one.data_ptr(), one.nbytes()): one for one in found if one.nbytes()}
        for (place, _), storage in storages.items():
            record = self.records.get(place)
            if record is None:
                raise self.damaged("a weight is not where its index says")
            content = torch.empty(0, dtype=torch.uint8).set_(storage)
            try:
                record.check(content.numpy().data)
            except NotWholeError as error:
                raise self.damaged(str(error)) from None


def read_contents(path: Path, check: Check) -> Contents:
    """What a file holds; raises CheckpointError, naming it, for all that cannot be used.

    For Check.WEIGHTS, `Contents.weights` compares the weights' bytes, as it says which they are.
    """
    for _ in range(_ATTEMPTS):  # training may replace the file between our two looks at it
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would wait
                raise CheckpointError(f"{path}: is no file, but a pipe or a device")
            with path.open("rb") as file:
                is_sealed, records = _checked(file, check)
                values, places = _load(path)
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    continue
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such checkpoint", other_checkpoints(path)) from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
        except NotWholeError as error:
            raise _damaged(path, str(error), check) from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds a {type(values).__name__}, not a checkpoint")
        return Contents(path, values, is_sealed, check, _by_place(records, places))
    raise CheckpointError(f"{path}: is being replaced faster than it can be read")


def _checked(file: IO[bytes], check: Check) -> tuple[bool, list[Record]]:
    """Whether a file is sealed, and, for Check.WEIGHTS, its records."""
    if check is Check.ALL:
        return verify(file), []
    is_sealed = has_seal(file)
    if check is Check.NONE:
        return is_sealed, []
    records = read_records(file)
    check_records(file, (record for record in records if not record.holds_numbers))
    return is_sealed, records


def _load(path: Path) -> tuple[object, list[int]]:
    """What torch reads, running nothing, and where in memory it put the tensors' bytes."""
    places: list[int] = []

    def keep(storage: Any, _: str) -> Any:
        if storage.nbytes():
            places.append(storage.data_ptr())
        return storage

    try:
        return torch.load(path, map_location=keep, weights_only=True, mmap=True), places
    except OSError:
        raise
    except Exception as error:  # torch.load raises many kinds on files that are not its own
        if is_out_of_memory(error):
            raise DeviceError(
                f"{path}: not enough memory to read it", "Free some memory."
            ) from None
        reason = " ".join(str(error).split())
        if "weights_only" in reason or "Unsupported" in reason:
            raise CheckpointError(
                f"{path}: holds objects other than tensors and plain values; nothing in it was run",
                "Do not load it with anything else unless you trust who made it.",
            ) from None
        raise NotWholeError(f"torch cannot read it ({printable(reason[:120])})") from None


def _by_place(records: list[Record], places: list[int]) -> dict[int, Record]:
    """Tensors' records by their place in memory: torch maps the file as a whole.

    So the first tensor in memory is the first one in the file.
    """
    numbers = [record for record in records if record.holds_numbers and record.size]
    if not numbers or not places:
        return {}
    start_of_file = min(places) - numbers[0].start
    return {start_of_file + record.start: record for record in numbers}


def _is_plain(value: object) -> bool:
    """Whether it is a tensor whose numbers the file holds one after another."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )


def _damaged(path: Path, how: str, check: Check) -> CheckpointError:
    """Names what is wrong; a look for a whole file reads all bytes of others, a list does not."""
    hint = other_checkpoints(path) if check is Check.NONE else whole_checkpoint_beside(path)
    return CheckpointError(f"{path}: is damaged: {how}", hint)
