"""NumPy .npy files that are checked before they are believed. No pickle is ever opened."""

import ast
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from utils.errors import DatasetError
from utils.files import sha256_of

MAGIC = b"\x93NUMPY\x01\x00"  # of format version 1.0


class StoredArray(BaseModel):
    """What is known of a .npy file on disk: enough to tell that it is still the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size_bytes: NonNegativeInt
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "StoredArray":
        return cls(size_bytes=path.stat().st_size, sha256=sha256_of(path))


def write_header(output: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Begin a .npy file of rows in C order.

    numpy pads the header so that the first length can grow in place: write it with length 0,
    stream the rows, and write it again with the true length.
    """
    write_array_header_1_0(output, _header(dtype, shape))


def map_array(
    path: Path, stored: StoredArray, dtype: np.dtype[Any], shape: tuple[int, ...], hint: str
) -> NDArray[Any]:
    """The array in `path`, read-only and left on disk until it is used.

    Raises DatasetError, with `hint`, unless the file is there with the size in `stored` and holds
    exactly a C-ordered array of this type and shape.
    """
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(0)
            if size_bytes != stored.size_bytes:
                raise DatasetError(
                    f"{path}: is {size_bytes:,} bytes, but should be {stored.size_bytes:,}", hint
                )
            found = _read_header(file)
            offset = file.tell()
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing", hint) from None
    data_bytes = dtype.itemsize * math.prod(shape)
    if found != _header(dtype, shape) or size_bytes != offset + data_bytes:
        what = f"{found.get('descr')} {found.get('shape')}" if found else "no .npy array"
        raise DatasetError(f"{path}: holds {what}, but should hold {dtype.str} {shape}", hint)
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def check_digest(path: Path, stored: StoredArray, hint: str) -> None:
    """Raises DatasetError, with `hint`, if the file's SHA-256 is not the one in `stored`."""
    if sha256_of(path) != stored.sha256:
        raise DatasetError(f"{path}: its contents were changed (wrong SHA-256)", hint)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"descr": dtype.str, "fortran_order": False, "shape": shape}


def _read_header(file: IO[bytes]) -> dict[str, Any] | None:
    """The header's literal, or None if there is none of ours. numpy's own reader is for trusted
    files: on damaged ones it guesses, warns, and raises errors it does not document."""
    start = file.read(len(MAGIC) + 2)
    if not start.startswith(MAGIC):
        return None
    text = file.read(int.from_bytes(start[len(MAGIC) :], "little")).decode("latin-1")
    try:
        header = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as documented
        return None
    return header if isinstance(header, dict) else None
