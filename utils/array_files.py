"""NumPy .npy files: streamed out, and checked before they are believed. No pickle is opened."""

import ast
import hashlib
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


class ArrayWriter:
    """Streams rows of one shape into an open .npy file, which must be readable too."""

    def __init__(
        self, output: IO[bytes], dtype: np.dtype[Any], row_shape: tuple[int, ...] = ()
    ) -> None:
        self.rows = 0
        self._output, self._dtype, self._row_shape = output, dtype, row_shape
        self._write_header()
        self._header_bytes = output.tell()

    def write(self, rows: NDArray[Any]) -> None:
        """Add rows (any number, *row_shape), C-ordered and of the array's type."""
        assert rows.dtype == self._dtype, "the header promises another type"
        assert rows.shape[1:] == self._row_shape, "the header promises another shape"
        self._output.write(rows.data)
        self.rows += len(rows)

    def finish(self) -> StoredArray:
        """Write the header again, now that the number of rows is known, and hash the file."""
        self._output.seek(0)
        self._write_header()
        assert self._output.tell() == self._header_bytes, "the header has room to grow"
        # The header comes first, so hashing while writing would not give the file's SHA-256.
        self._output.seek(0)
        digest = hashlib.file_digest(self._output, "sha256").hexdigest()  # type: ignore[arg-type]
        return StoredArray(size_bytes=self._output.seek(0, 2), sha256=digest)

    def _write_header(self) -> None:
        """numpy pads a header so that the first length can grow in place."""
        shape = (self.rows, *self._row_shape)
        write_array_header_1_0(self._output, _header(self._dtype, shape))


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
