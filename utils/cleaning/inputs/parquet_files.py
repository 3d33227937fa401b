"""The rows of Parquet files, as lines of JSON for the same reader of records.

Only the columns that make a record are read. Memory is a few pages of each: writers put up to
1,024 rows into a page, so that a page of articles can have 20 MB. Needs pyarrow.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

from utils.cleaning.inputs.decompression import DamagedDataError
from utils.cleaning.inputs.raw_files import MAX_LINE_BYTES
from utils.cleaning.inputs.raw_reader import RawReader
from utils.cleaning.records.record_fields import RECORD_KEYS
from utils.errors import DataError

_BATCH_ROWS = 16  # of which some may have megabytes
_READ_BYTES = 1 << 16  # at a time, instead of the whole column of a row group
_UNDECODABLE = b'{"text":"\xff"}\n'  # as JSON lines have a row whose text is not UTF-8

pa.set_memory_pool(pa.system_memory_pool())  # the others keep half as much again


class ParquetReader(RawReader):
    """The rows of a Parquet file as lines of JSON, without the keys whose value is null.

    `bytes_read` is the share of the rows that are read, in bytes of the file. Raises DataError
    as RawReader does, and if no column is one that records have.
    """

    _bytes_read = 0

    @property
    def bytes_read(self) -> int:
        return self._bytes_read

    def _lines(self) -> Iterator[bytes]:
        try:
            with parquet.ParquetFile(
                self.raw.path,
                buffer_size=_READ_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            ) as file:
                rows = file.metadata.num_rows
                columns = self._known_columns(file.schema_arrow)
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                    for line in _lines_of(batch):
                        self._line += 1
                        yield line[: MAX_LINE_BYTES + 1]
                    self._bytes_read = self.size_bytes * self._line // rows
        except MemoryError:
            raise
        except pa.ArrowException as error:
            raise DamagedDataError(str(error).partition("\n")[0]) from None

    def _known_columns(self, schema: pa.Schema) -> list[str]:
        columns = [name for name in schema.names if name in RECORD_KEYS]
        if not columns:
            raise DataError(
                f"{self.raw}: no column is one of a record; it has {', '.join(schema.names)}",
                f"Known are {', '.join(sorted(RECORD_KEYS))}.",
            )
        return columns


def _lines_of(batch: pa.RecordBatch) -> Iterator[bytes]:
    try:
        values = [_values(name, batch.column(name)) for name in batch.schema.names]
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            yield _UNDECODABLE
        else:
            for row in range(batch.num_rows):
                yield from _lines_of(batch.slice(row, 1))
        return
    names = batch.schema.names
    for fields in zip(*values, strict=True):
        record = {
            name: field for name, field in zip(names, fields, strict=True) if field is not None
        }
        yield msgspec.json.encode(record) + b"\n"


def _values(name: str, column: Any) -> list[Any]:
    """A column's values; those that Python cannot hold, such as the year 20,000, as text."""
    try:
        values: list[Any] = column.cast(_plain(column.type), safe=False).to_pylist()
        return values
    except (pa.ArrowException, UnicodeDecodeError):
        raise
    except (OverflowError, ValueError) as error:
        if len(column) > 1:
            return [_values(name, column.slice(row, 1))[0] for row in range(len(column))]
        try:
            values = column.cast(pa.string()).to_pylist()
        except pa.ArrowNotImplementedError:
            raise DamagedDataError(f"column {name}: a value out of range: {error}") from None
        return values


def _plain(kind: Any) -> Any:
    """The type whose values are text where `kind` has bytes, and dates that Python can hold."""
    types = pa.types
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.large_string()
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return kind
