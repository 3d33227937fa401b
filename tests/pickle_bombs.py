"""Checkpoints that run a command in whoever unpickles them carelessly, and ways to write them."""

import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from utils.sealing import SealingWriter


class Bomb:
    """Calls `function(*arguments)` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class StateBomb(dict[str, Any]):
    """A subclass of a harmless type, whose state and items are bombs."""

    def __reduce__(self) -> Any:
        return OrderedDict, (), {"state": self["bomb"]}, None, iter([("weight", self["bomb"])])


class TensorBomb(torch.Tensor):
    """A tensor by its type, a command by its pickle."""

    command = ""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return os.system, (self.command,)


def placed_bombs(canary: Path, payload: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Whole checkpoints, the payload of a good one, with one bomb in each."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    bomb = Bomb(os.system, touch)
    weights = payload["model"]
    tensor = torch.ones(3).as_subclass(TensorBomb)
    tensor.command = touch
    return {
        "as the configuration": {**payload, "config": bomb},
        "within the configuration": {**payload, "config": {"model": {"hidden_size": bomb}}},
        "as the optimizer": {**payload, "optimizer": Bomb(eval, python)},
        "deep in the optimizer": {**payload, "optimizer": {"state": {0: [(1, {"exp_avg": bomb})]}}},
        "as a key of rng": {**payload, "rng": {("torch", Bomb(exec, python)): 1}},
        "as the last weight": {**payload, "model": {**weights, "last": bomb}},
        "as a tensor's type": {**payload, "model": {**weights, "last": tensor}},
        "as a dictionary's state": {**payload, "metrics": StateBomb(bomb=bomb)},
        "as the format": {**payload, "format_version": bomb},
        "under a key of its own": {**payload, "extra": Bomb(subprocess.check_call, touch.split())},
        "as weights of another program": {"state_dict": {**weights, "last": bomb}},
        "a call of a call": {**payload, "progress": Bomb(getattr, bomb, "real")},
    }


def raw_bombs(canary: Path, numbers: int = 1) -> dict[str, bytes]:
    """Pickles written by hand, for a file whose first tensor has so many numbers."""
    touch = f"touch {canary}"
    text = f"S'{touch}'\n".encode()
    short = bytes([len(touch)]) + touch.encode()
    unicode = b"X" + len(touch).to_bytes(4, "little") + touch.encode()
    inner = io.BytesIO()
    torch.save(Bomb(os.system, touch), inner, _use_new_zipfile_serialization=False)
    content = inner.getvalue()
    counted = b"B" + len(content).to_bytes(4, "little") + content
    size = b"(K\x01t"
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpuK" + bytes([numbers]) + b"tQ"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return {
        "protocol 0": b"cposix\nsystem\n(" + text + b"tR.",
        "protocol 2": b"\x80\x02cposix\nsystem\n" + unicode + b"\x85R.",
        "protocol 4": pickle.dumps(Bomb(os.system, touch), protocol=4),
        "protocol 5": pickle.dumps(Bomb(os.system, touch), protocol=5),
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + short + b"\x85R.",
        "INST": b"(" + text + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + text + b"o.",
        "behind a POP": b"\x80\x02cposix\nsystem\n" + unicode + b"\x85R0}.",
        "within memoised items": b"\x80\x02}q\x00X\x01\x00\x00\x00acposix\nsystem\n"
        + unicode
        + b"\x85Rsh\x00.",
        "bytes that torch unpickles": b"\x80\x03ctorch.storage\n_load_from_bytes\n"
        + counted
        + b"\x85R.",
        "a type that is a function": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n"
        b"(cposix\nsystem\nctorch\nTensor\n" + unicode + b"\x85}tR.",
        "a storage's type": b"\x80\x02(X\x07\x00\x00\x00storagecposix\nsystem\n"
        + unicode
        + b"\x85RX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        "hooks of a tensor": b"\x80\x02"
        + rebuild
        + storage
        + b"K\x00"
        + size
        + size
        + b"\x89cposix\nsystem\n"
        + unicode
        + b"\x85RtR.",
        "a new object's arguments": b"\x80\x02ccollections\nOrderedDict\ncposix\nsystem\n"
        + unicode
        + b"\x85R\x85\x81.",
        "a module's attribute": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93\x8c"
        + short
        + b"\x85R.",
        "a builtin": b"\x80\x02cbuiltins\neval\nX"
        + len(python := f"open({str(canary)!r}, 'w').close()").to_bytes(4, "little")
        + python.encode()
        + b"\x85R.",
    }


def seal(content: bytes, path: Path) -> None:
    """Write a zip file as our program does, with a checksum that is right."""
    with path.open("w+b") as file:
        writer = SealingWriter(file)
        writer.write(content)
        writer.finish()


def archive(payload: object) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(payload, file)
    return file.getvalue()


def with_record(
    content: bytes, name: str, record: bytes, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """A zip file with other bytes in the record of this name, behind the archive's own name."""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(changed, "w", compression) as new,
    ):
        names = old.namelist()
        folder = names[0].partition("/")[0]
        for each in [*names, *({f"{folder}/{name}"} - {*names})]:
            new.writestr(each, record if each == f"{folder}/{name}" else old.read(each))
    return changed.getvalue()
