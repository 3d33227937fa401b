"""The dataset format: its names, its metadata, and its only reader.

For each cleaned text `<stem>` a dataset folder holds

    tokens_<stem>.npy       uint16 (windows, window): windows of the file's token stream
    documents_<stem>.npy    int64 (documents,): where each document starts in that stream
    statistics_<stem>.json  how often each token stands in the text, and the articles' lengths
    tokens_<stem>.json      written after them: their metadata, so that they need no second making

and metadata.json, written last, describes them all; without it the dataset is not complete. The
stream is `<s> article </s>`, article after article. Window i starts at i * stride, the last one
is moved back to end where the stream ends: every token is in a window and none is padding. Only a
file whose whole stream is shorter than a window has no windows.

utils/preparing/token_writer.py writes the files of a text. Reading trusts nothing: sizes, headers,
digests and the stream's own structure are checked, and no pickle is ever opened.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
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

from utils.array_files import StoredArray, check_digest, map_array
from utils.documents import are_documents
from utils.errors import DatasetError
from utils.files import natural_key, write_json
from utils.token_statistics import TokenStatistics
from utils.windows import ID_TYPE, Ids, Positions, join_windows, window_count

FORMAT_VERSION: Literal[1] = 1
METADATA_NAME = "metadata.json"
POSITION_TYPE = np.dtype("<i8")
SPECIAL_TOKENS = 2  # of a document: <s> and </s>

_REDO = "Run dataset_prep.py --force, with --test if this is the test dataset, to make it again."
_TOKENS, _DOCUMENTS, _STATISTICS = "tokens_", "documents_", "statistics_"


def _plain_stem(stem: str) -> str:
    if not stem or stem != Path(stem).name or set(stem) & set("/\\\0"):
        raise ValueError("a stem is a file name without folders")
    return stem


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TokenFile(_Record):
    """What was made of one cleaned text."""

    stem: Annotated[str, AfterValidator(_plain_stem)]
    source_sha256: str  # of the cleaned text
    articles: NonNegativeInt  # each is one document of the stream
    tokens: NonNegativeInt  # of the stream, with <s> and </s>
    windows: NonNegativeInt
    characters: NonNegativeInt
    utf8_bytes: NonNegativeInt
    unknown_tokens: NonNegativeInt
    tokens_array: StoredArray
    documents_array: StoredArray

    @property
    def text_tokens(self) -> int:
        """Tokens without <s> and </s>."""
        return self.tokens - SPECIAL_TOKENS * self.articles

    @property
    def disk_bytes(self) -> int:
        """Of both arrays."""
        return self.tokens_array.size_bytes + self.documents_array.size_bytes


class Recipe(_Record):
    """What decides the windows, beside the text."""

    format_version: Literal[1] = FORMAT_VERSION
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
        text_tokens = totals["tokens"] - SPECIAL_TOKENS * totals["articles"]
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
    def text_tokens(self) -> int:
        """Tokens without <s> and </s>."""
        return sum(file.text_tokens for file in self.files)

    @property
    def bytes_per_token(self) -> float:
        """Of the text, as `characters_per_token`."""
        return self.utf8_bytes / max(self.text_tokens, 1)

    @property
    def disk_bytes(self) -> int:
        """Of all arrays."""
        return sum(file.disk_bytes for file in self.files)

    @property
    def recipe(self) -> Recipe:
        return Recipe(**{key: getattr(self, key) for key in Recipe.model_fields})

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.fingerprint != _fingerprint(self.model_dump(exclude={"fingerprint"})):
            raise ValueError("a value was changed: the fingerprint is of other values")
        for file in self.files:
            if file.windows != window_count(file.tokens, self.window, self.stride):
                raise ValueError(f"{file.stem}: {file.tokens} tokens make other windows")
        return self


def tokens_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_TOKENS}{stem}.npy"


def documents_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_DOCUMENTS}{stem}.npy"


def statistics_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_STATISTICS}{stem}.json"


def entry_path_of(dataset_dir: Path, stem: str) -> Path:
    return dataset_dir / f"{_TOKENS}{stem}.json"


def stored_stems(dataset_dir: Path) -> list[str]:
    """The stems that have any file here, finished or not, in natural order."""
    stems = {
        Path(path.name[len(prefix) : -len(suffix)])
        for prefix, suffix in (
            (_TOKENS, ".npy"),
            (_TOKENS, ".json"),
            (_DOCUMENTS, ".npy"),
            (_STATISTICS, ".json"),
        )
        for path in dataset_dir.glob(f"{prefix}*{suffix}")
    }
    return [stem.name for stem in sorted(stems, key=natural_key)]


def remove_token_file(dataset_dir: Path, stem: str) -> None:
    """Delete what is stored for `stem`, the entry first."""
    for path_of in (entry_path_of, tokens_path_of, documents_path_of, statistics_path_of):
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
        _map_arrays(dataset_dir, metadata.window, file)
    return metadata


def read_entry(dataset_dir: Path, stem: str) -> DatasetMetadata | None:
    """What is finished of `stem`: a dataset of one file, or None.

    Checks like `read_metadata` and `read_statistics`.
    """
    path = entry_path_of(dataset_dir, stem)
    if not path.is_file():
        return None
    entry = _parse(path)
    if [file.stem for file in entry.files] != [stem]:
        raise DatasetError(f"{path}: describes another file", _REDO)
    _map_arrays(dataset_dir, entry.window, entry.files[0])
    read_statistics(dataset_dir, entry)
    return entry


def read_statistics(dataset_dir: Path, metadata: DatasetMetadata) -> TokenStatistics:
    """The statistics of all files together. Raises DatasetError if any are not its file's."""
    total = TokenStatistics(metadata.vocab_size)
    for file in metadata.files:
        path = statistics_path_of(dataset_dir, file.stem)
        statistics = TokenStatistics.load(path, metadata.vocab_size)
        counted = (
            statistics.articles,
            statistics.characters.total,
            statistics.tokens.total + SPECIAL_TOKENS * statistics.articles,
            int(statistics.token_counts[metadata.unk_token_id]),
        )
        if counted != (file.articles, file.characters, file.tokens, file.unknown_tokens):
            raise DatasetError(f"{path}: counts other text than that of {file.stem}", _REDO)
        total.merge(statistics)
    return total


def read_stream(
    dataset_dir: Path, metadata: DatasetMetadata, file: TokenFile, verify: bool = True
) -> tuple[Ids, Positions]:
    """A file's token stream, uint16 (tokens,), and its document starts, int64 (documents,).

    Both are in memory and writable; both are empty for a file without windows. The digests are
    compared unless `verify` is false; that the windows overlap as they should and that documents
    begin and end as they should is always checked. Raises DatasetError.
    """
    windows, _ = _map_arrays(dataset_dir, metadata.window, file)
    tokens_path = tokens_path_of(dataset_dir, file.stem)
    if verify:
        check_digest(tokens_path, file.tokens_array, _REDO)
    starts = read_documents(dataset_dir, file, verify)
    if not file.windows:
        return np.empty(0, ID_TYPE), starts
    stream = join_windows(windows, file.tokens, metadata.stride)
    if stream is None:
        raise DatasetError(f"{tokens_path}: windows that overlap hold different tokens", _REDO)
    ids = metadata.bos_token_id, metadata.eos_token_id, metadata.vocab_size
    if not are_documents(stream, starts, *ids):
        documents_name = documents_path_of(dataset_dir, file.stem).name
        raise DatasetError(
            f"{tokens_path}: the tokens are not the documents of {documents_name}", _REDO
        )
    return stream, starts


def read_documents(dataset_dir: Path, file: TokenFile, verify: bool = True) -> Positions:
    """Where documents start in a file's stream, int64 (documents,), in memory and writable.

    Empty for a file without windows. The digest is compared unless `verify` is false. Raises
    DatasetError.
    """
    path = documents_path_of(dataset_dir, file.stem)
    stored = map_array(path, file.documents_array, POSITION_TYPE, (file.articles,), _REDO)
    if verify:
        check_digest(path, file.documents_array, _REDO)
    return np.array(stored[: file.articles if file.windows else 0])


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


def _map_arrays(dataset_dir: Path, window: int, file: TokenFile) -> tuple[Ids, Positions]:
    """Windows and document starts of a file, on disk; their sizes and headers are checked."""
    tokens_path = tokens_path_of(dataset_dir, file.stem)
    documents_path = documents_path_of(dataset_dir, file.stem)
    windows = map_array(tokens_path, file.tokens_array, ID_TYPE, (file.windows, window), _REDO)
    starts = map_array(documents_path, file.documents_array, POSITION_TYPE, (file.articles,), _REDO)
    return windows, starts
