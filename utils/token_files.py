"""The dataset format: its only writer and reader.

For each cleaned text `<stem>` a dataset folder holds

    tokens_<stem>.npy     uint16 (windows, window): windows of the file's token stream
    documents_<stem>.npy  int64 (documents,): where each document starts in that stream
    tokens_<stem>.json    written after both: their metadata, so that they need no second making

and metadata.json, written last, describes them all; without it the dataset is not complete. The
stream is `<s> article </s>`, article after article. Window i starts at i * stride, the last one
is moved back to end where the stream ends: every token is in a window and none is padding. Only a
file whose whole stream is shorter than a window has no windows.

Reading trusts nothing: sizes, headers, digests and the stream's own structure are checked, and no
pickle is ever opened.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Self

import numpy as np
from numpy.lib.format import (
    read_array_header_1_0,
    read_magic,
    write_array_header_1_0,
)
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from utils.errors import DatasetError
from utils.files import atomic_write, natural_key, sha256_of, write_json

FORMAT_VERSION = 1
METADATA_NAME = "metadata.json"
ID_TYPE = np.dtype("<u2")
POSITION_TYPE = np.dtype("<i8")
FLUSH_TOKENS = 1 << 20  # tokens collected between writes

Ids = NDArray[np.uint16]
Positions = NDArray[np.int64]

_REDO = "Run dataset_prep.py --force, with --test if this is the test dataset, to make it again."
_TOKENS, _DOCUMENTS = "tokens_", "documents_"


def _plain_stem(stem: str) -> str:
    if not stem or stem != Path(stem).name or set(stem) & set("/\\\0"):
        raise ValueError("a stem is a file name without folders")
    return stem


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StoredArray(_Record):
    """One .npy file on disk."""

    size_bytes: NonNegativeInt
    sha256: str


class TokenFile(_Record):
    """What was made of one cleaned text."""

    stem: Annotated[str, AfterValidator(_plain_stem)]
    source_sha256: str  # of the cleaned text
    articles: NonNegativeInt
    documents: NonNegativeInt  # one per article
    tokens: NonNegativeInt  # of the stream, with <s> and </s>
    windows: NonNegativeInt
    characters: NonNegativeInt
    utf8_bytes: NonNegativeInt
    unknown_tokens: NonNegativeInt
    tokens_array: StoredArray
    documents_array: StoredArray


class Recipe(_Record):
    """What decides the windows, beside the text."""

    format_version: int = FORMAT_VERSION
    window: Annotated[int, Field(ge=2)]
    stride: PositiveInt
    tokenizer_name: str
    tokenizer_sha256: str
    vocab_size: PositiveInt
    bos_token_id: NonNegativeInt
    eos_token_id: NonNegativeInt
    unk_token_id: NonNegativeInt


class DatasetMetadata(Recipe):
    """metadata.json: the recipe, totals over the files, the files, and a digest of it all."""

    articles: NonNegativeInt
    tokens: NonNegativeInt
    windows: NonNegativeInt
    characters: NonNegativeInt
    utf8_bytes: NonNegativeInt
    unknown_tokens: NonNegativeInt
    characters_per_token: float  # of the text: <s> and </s> are not counted
    unknown_share: float
    files: list[TokenFile]
    fingerprint: str  # SHA-256 of everything above

    @classmethod
    def of(cls, recipe: Recipe, files: Sequence[TokenFile]) -> Self:
        """Add up `files`, which must all follow `recipe`."""
        totals = {
            key: sum(getattr(file, key) for file in files)
            for key in ("articles", "tokens", "windows", "characters", "utf8_bytes")
        }
        unknown = sum(file.unknown_tokens for file in files)
        text_tokens = totals["tokens"] - 2 * totals["articles"]
        values = {
            **recipe.model_dump(include=set(Recipe.model_fields)),
            **totals,
            "unknown_tokens": unknown,
            # Rounded: every digit counts in the fingerprint.
            "characters_per_token": round(totals["characters"] / max(text_tokens, 1), 4),
            "unknown_share": round(unknown / max(text_tokens, 1), 4),
            "files": [file.model_dump() for file in files],
        }
        return cls.model_validate({**values, "fingerprint": _fingerprint(values)})

    @property
    def recipe(self) -> Recipe:
        return Recipe(**{key: getattr(self, key) for key in Recipe.model_fields})

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.fingerprint != _fingerprint(self.model_dump(exclude={"fingerprint"})):
            raise ValueError("a value was changed: the fingerprint is of other values")
        for file in self.files:
            if file.windows != _window_count(file.tokens, self.window, self.stride):
                raise ValueError(f"{file.stem}: {file.windows} windows cannot be right")
        return self


def window_starts(tokens: int, window: int, stride: int) -> Positions:
    """Where each window starts in a stream of `tokens`, ascending, int64 (windows,).

    The last window ends where the stream ends. A stream shorter than a window has none.

    >>> window_starts(tokens=10, window=4, stride=2).tolist()
    [0, 2, 4, 6]
    >>> window_starts(tokens=11, window=4, stride=2).tolist()
    [0, 2, 4, 6, 7]
    """
    count = _window_count(tokens, window, stride)
    return np.minimum(np.arange(count, dtype=np.int64) * stride, tokens - window)


def tokens_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_TOKENS}{stem}.npy"


def documents_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_DOCUMENTS}{stem}.npy"


def entry_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_TOKENS}{stem}.json"


def stored_stems(dataset_dir: Path) -> list[str]:
    """The stems that have any file here, finished or not, in natural order."""
    names = [path for prefix in (_TOKENS, _DOCUMENTS) for path in dataset_dir.glob(f"{prefix}*.*")]
    stems = {path.stem.removeprefix(_TOKENS).removeprefix(_DOCUMENTS) for path in names}
    return [path.name for path in sorted(map(Path, stems), key=natural_key)]


def remove_token_file(dataset_dir: Path, stem: str) -> None:
    """Delete what is stored for `stem`, the entry first."""
    for path_of in (entry_path_of, tokens_path_of, documents_path_of):
        path_of(dataset_dir, stem).unlink(missing_ok=True)


def remove_metadata(dataset_dir: Path) -> None:
    """Mark the dataset as incomplete; do it before any of its files changes."""
    (dataset_dir / METADATA_NAME).unlink(missing_ok=True)


def write_metadata(dataset_dir: Path, metadata: DatasetMetadata) -> None:
    """Mark the dataset as complete."""
    write_json(dataset_dir / METADATA_NAME, metadata.model_dump())


def read_metadata(dataset_dir: Path) -> DatasetMetadata:
    """Metadata of a complete dataset whose files are there with the right sizes and headers.

    Raises DatasetError naming what is missing or wrong. `read_stream` checks the contents.
    """
    path = dataset_dir / METADATA_NAME
    if not path.is_file():
        raise DatasetError(
            f"{dataset_dir}: no complete dataset here, {METADATA_NAME} is missing",
            "Run `python dataset_prep.py`, with --test for the test dataset; it goes on where it"
            " was stopped.",
        )
    metadata = _parse(path)
    for file in metadata.files:
        _check_arrays(dataset_dir, metadata.window, file)
    return metadata


def read_entry(dataset_dir: Path, stem: str) -> DatasetMetadata | None:
    """What is finished of `stem`: a dataset of one file, or None. Checks like `read_metadata`."""
    path = entry_path_of(dataset_dir, stem)
    if not path.is_file():
        return None
    entry = _parse(path)
    if [file.stem for file in entry.files] != [stem]:
        raise DatasetError(f"{path}: describes another file", _REDO)
    _check_arrays(dataset_dir, entry.window, entry.files[0])
    return entry


def read_stream(
    dataset_dir: Path, metadata: DatasetMetadata, file: TokenFile, verify: bool = True
) -> tuple[Ids, Positions]:
    """A file's token stream, uint16 (tokens,), and its document starts, int64 (documents,).

    Both are in memory and writable; both are empty for a file without windows. The digests are
    compared unless `verify` is false; that the windows overlap as they should and that documents
    begin and end as they should is always checked. Raises DatasetError.
    """
    _check_arrays(dataset_dir, metadata.window, file)
    tokens_path = tokens_path_of(dataset_dir, file.stem)
    documents_path = documents_path_of(dataset_dir, file.stem)
    if verify:
        _check_digest(tokens_path, file.tokens_array)
        _check_digest(documents_path, file.documents_array)
    if not file.windows:
        return np.empty(0, ID_TYPE), np.empty(0, POSITION_TYPE)
    stream = _join(_map_windows(tokens_path, file.windows, metadata.window), metadata.stride, file)
    if stream is None:
        raise DatasetError(f"{tokens_path}: the windows do not overlap as they should", _REDO)
    starts = np.fromfile(
        documents_path, POSITION_TYPE, offset=file.documents_array.size_bytes - file.documents * 8
    )
    if not _is_a_stream(stream, starts, metadata):
        raise DatasetError(
            f"{tokens_path}: the tokens are not the documents of {documents_path.name}", _REDO
        )
    return stream, starts


def write_token_file(
    dataset_dir: Path,
    stem: str,
    source_sha256: str,
    recipe: Recipe,
    documents: Iterable[tuple[str, Ids]],
) -> TokenFile:
    """Write all files of one cleaned text, given the text and the ids of each article in order.

    The ids must not hold <s> and </s>; they are added here. Memory does not grow with the number
    of documents but for 8 bytes each. The entry is written last.
    """
    assert _plain_stem(stem) == stem
    entry_path_of(dataset_dir, stem).unlink(missing_ok=True)
    tokens_path = tokens_path_of(dataset_dir, stem)
    documents_path = documents_path_of(dataset_dir, stem)
    bos, eos = np.array([recipe.bos_token_id], ID_TYPE), np.array([recipe.eos_token_id], ID_TYPE)
    starts: list[int] = []
    characters = utf8_bytes = unknown_tokens = 0
    with atomic_write(tokens_path) as output:
        windows = _WindowWriter(output, recipe.window, recipe.stride)
        for text, ids in documents:
            starts.append(windows.tokens)
            windows.add(bos, ids, eos)
            characters += len(text)
            utf8_bytes += len(text.encode())
            unknown_tokens += int(np.count_nonzero(ids == recipe.unk_token_id))
        windows.finish()
    with atomic_write(documents_path) as output:
        _write_header(output, POSITION_TYPE, (len(starts),))
        output.write(np.array(starts, POSITION_TYPE).tobytes())
    file = TokenFile(
        stem=stem,
        source_sha256=source_sha256,
        articles=len(starts),
        documents=len(starts),
        tokens=windows.tokens,
        windows=windows.windows,
        characters=characters,
        utf8_bytes=utf8_bytes,
        unknown_tokens=unknown_tokens,
        tokens_array=_stored(tokens_path),
        documents_array=_stored(documents_path),
    )
    write_json(entry_path_of(dataset_dir, stem), DatasetMetadata.of(recipe, [file]).model_dump())
    return file


class _WindowWriter:
    """Streams windows of a token stream into an open .npy file.

    It holds the tokens that were not written yet and the last window of those that were.
    """

    def __init__(self, output: IO[bytes], window: int, stride: int) -> None:
        self.tokens = self.windows = 0
        self._output, self._window, self._stride = output, window, stride
        self._held: list[Ids] = []
        self._held_start = self._flushed = 0  # positions in the stream
        _write_header(output, ID_TYPE, (0, window))
        self._header_bytes = output.tell()

    def add(self, *pieces: Ids) -> None:
        """Continue the stream."""
        self._held.extend(pieces)
        self.tokens += sum(map(len, pieces))
        if self.tokens - self._flushed >= FLUSH_TOKENS:
            self._flush()

    def finish(self) -> None:
        """Write the remaining windows and, now that their number is known, the header."""
        self._flush(to_end=True)
        self._output.seek(0)
        _write_header(self._output, ID_TYPE, (self.windows, self._window))
        assert self._output.tell() == self._header_bytes, "the header has room to grow"

    def _flush(self, to_end: bool = False) -> None:
        stream = np.concatenate([np.empty(0, ID_TYPE), *self._held])
        starts = window_starts(self.tokens, self._window, self._stride)[self.windows :]
        if not to_end and len(starts) and starts[-1] % self._stride:
            starts = starts[:-1]  # the stream goes on: this window is not the last
        if len(starts):
            views = sliding_window_view(stream, self._window)
            self._output.write(views[starts - self._held_start].data)
            self.windows += len(starts)
        kept = stream[-self._window :]
        self._held, self._held_start = [kept.copy()], self.tokens - len(kept)
        self._flushed = self.tokens


def _window_count(tokens: int, window: int, stride: int) -> int:
    return 0 if tokens < window else -((window - tokens) // stride) + 1


def _write_header(output: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """A .npy header, padded by numpy so that the first length can grow in place."""
    write_array_header_1_0(output, {"descr": dtype.str, "fortran_order": False, "shape": shape})


def _stored(path: Path) -> StoredArray:
    return StoredArray(size_bytes=path.stat().st_size, sha256=sha256_of(path))


def _fingerprint(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parse(path: Path) -> DatasetMetadata:
    content = path.read_bytes()
    try:
        values = from_json(content)
        version = values.get("format_version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DatasetError(
                f"{path}: has format version {version}, but this program reads {FORMAT_VERSION}",
                "Use the newer program that made it, or make it again with dataset_prep.py.",
            )
        return DatasetMetadata.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else first["msg"]
    except ValueError as error:
        problem = f"not JSON: {error}"
    raise DatasetError(f"{path}: damaged or not made by dataset_prep.py: {problem}", _REDO)


def _check_arrays(dataset_dir: Path, window: int, file: TokenFile) -> None:
    """Both files exist, with the size and the header that their entry tells."""
    for path, stored, dtype, shape in (
        (
            tokens_path_of(dataset_dir, file.stem),
            file.tokens_array,
            ID_TYPE,
            (file.windows, window),
        ),
        (
            documents_path_of(dataset_dir, file.stem),
            file.documents_array,
            POSITION_TYPE,
            (file.documents,),
        ),
    ):
        try:
            with path.open("rb") as array_file:
                ...
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing", _REDO) from None
