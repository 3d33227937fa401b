"""What checkpoints are evaluated on: the documents of a text file or of a dataset, as token ids.

A document is `<s>` and the ids of its text. `<s>` is only what the first token is predicted from,
and `</s>` is left out: what is scored is text, so that the same text counts the same wherever it
comes from, and with models of any tokenizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from utils.articles import read_articles, stem_of, text_path_of
from utils.checkpoint import Checkpoint
from utils.config import DataloaderConfig
from utils.errors import CheckpointError, DataError
from utils.split import BoolArray, held_out
from utils.terminal import Progress
from utils.token_files import DatasetMetadata, read_documents, read_metadata, read_stream
from utils.windows import ID_TYPE, Ids, Positions

ENCODED_TEXTS = 10_000  # tokenized at once
COUNTED_TOKENS = 1 << 22  # whose sizes are added up at once: 32 MiB


class TextEncoder(Protocol):
    """What is needed of a tokenizer; tokenizer.py has it."""

    bos_id: int
    sha256: str

    def encode_flat(self, texts: Sequence[str]) -> tuple[Ids, Positions]: ...


class Candidate(NamedTuple):
    """A checkpoint to evaluate, and its tokenizer."""

    checkpoint: Checkpoint
    tokenizer: TextEncoder


@dataclass(frozen=True)
class Documents:
    """Documents end to end: document i, `<s>` and its text, is ids[offsets[i] : offsets[i + 1]].

    `ids` (tokens,) uint16, `offsets` (documents + 1,) int64; each has a token of text at least.
    `choice` says which of a source's documents they are.
    """

    ids: Ids
    offsets: Positions
    choice: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def text_tokens(self) -> int:
        """Without the `<s>` of each document."""
        return len(self.ids) - len(self)

    def text_bytes(self, token_bytes: Sequence[int]) -> int:
        """Bytes of UTF-8 text of all documents; `token_bytes[id]` is how many each id stands for.

        The space that the encoder puts before each text is not counted.
        """
        sizes = np.asarray(token_bytes, np.int64)
        chunks = range(0, len(self.ids), COUNTED_TOKENS)
        total = sum(int(sizes[self.ids[first : first + COUNTED_TOKENS]].sum()) for first in chunks)
        return total - len(self)


class Source(ABC):
    """A place of documents, of which the first `max_tokens` tokens of text count; None: all."""

    def __init__(self, path: Path, max_tokens: int | None) -> None:
        self.path, self.max_tokens = path, max_tokens
        self._last: tuple[str, Documents] | None = None  # and the tokenizer it was made with

    def documents(self, candidate: Candidate) -> Documents:
        """The documents to evaluate a checkpoint on.

        Raises DataError or DatasetError if there are none, and CheckpointError if they are not for
        its tokenizer.
        """
        choice, texts = self._choose(candidate)
        tokenizer = candidate.tokenizer
        if self._last and (self._last[0], self._last[1].choice) == (tokenizer.sha256, choice):
            return self._last[1]
        self._last = None  # before its successor takes as much memory
        documents = _join(_first_tokens(texts, self.max_tokens), tokenizer.bos_id, choice)
        if not documents.text_tokens:
            raise DataError(f"{self.path}: has no tokens to predict", "Name a file with text.")
        self._last = tokenizer.sha256, documents
        return documents

    @abstractmethod
    def _choose(self, candidate: Candidate) -> tuple[str, Iterator[Ids]]:
        """Which documents are for a checkpoint, in words, and, once asked for, each one's ids."""


class TextFile(Source):
    """A file of UTF-8 text.

    One named cleaned_*.txt is the cleaner's, an article a line; any other is one document, taken
    as it is, line ends and all. Raises DataError if it cannot be read.
    """

    def __init__(self, path: Path, max_tokens: int | None) -> None:
        super().__init__(path, max_tokens)
        self._texts = _read_texts(path)

    def _choose(self, candidate: Candidate) -> tuple[str, Iterator[Ids]]:
        return "all text", self._encoded(candidate.tokenizer)

    def _encoded(self, tokenizer: TextEncoder) -> Iterator[Ids]:
        for first in range(0, len(self._texts), ENCODED_TEXTS):
            ids, offsets = tokenizer.encode_flat(self._texts[first : first + ENCODED_TEXTS])
            yield from np.split(ids, offsets[1:-1])


class DatasetFolder(Source):
    """A folder of dataset_prep.py: the documents that a checkpoint's own split holds out.

    With `everything` all of them. Raises DatasetError if the folder holds no whole dataset.
    """

    def __init__(self, path: Path, max_tokens: int | None, everything: bool) -> None:
        super().__init__(path, max_tokens)
        self.metadata: DatasetMetadata = read_metadata(path)
        self.everything = everything

    def is_of(self, checkpoint: Checkpoint) -> bool:
        """Whether this is what it was trained with, so that its split is the one of training."""
        return checkpoint.dataset_fingerprint == self.metadata.fingerprint

    def _choose(self, candidate: Candidate) -> tuple[str, Iterator[Ids]]:
        checkpoint = candidate.checkpoint
        if self.metadata.tokenizer_sha256 != candidate.tokenizer.sha256:
            raise CheckpointError(
                f"{checkpoint.name}: has another tokenizer than {self.path} was made with",
                "Evaluate it on the text itself: --text FILE",
            )
        if self.everything:
            return "all documents", self._read(None)
        split = checkpoint.config.dataloader
        choice = f"validation documents of split {split.val_split:g}, seed {split.seed}"
        return choice, self._read(split)

    def _read(self, split: DataloaderConfig | None) -> Iterator[Ids]:
        """The documents that `split` holds out, without <s> and </s>."""
        metadata = self.metadata
        wanted = self._wanted(split)
        with Progress("Reading", metadata.tokens, "tokens") as progress:
            for file in metadata.files:
                if wanted[file.stem].any():
                    stream, starts = read_stream(self.path, metadata, file)
                    ends = np.append(starts[1:], len(stream))
                    for number in np.flatnonzero(wanted[file.stem]).tolist():
                        # A copy, so that the stream can go.
                        yield stream[starts[number] + 1 : ends[number] - 1].copy()
                progress.advance(file.tokens, file.stem)

    def _wanted(self, split: DataloaderConfig | None) -> dict[str, BoolArray]:
        """For each file, by stem, which of its documents."""
        starts = {file.stem: read_documents(self.path, file) for file in self.metadata.files}
        if split is None:
            return {stem: np.ones(len(each), bool) for stem, each in starts.items()}
        return held_out(starts, self.metadata.tokens, split.val_split, split.seed)


def _read_texts(path: Path) -> list[str]:
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder, not a text", "Name a file, or give --dataset FOLDER."
        )
    if text_path_of(path.parent, stem_of(path)) == path:
        return list(read_articles(path))
    try:
        return [path.read_bytes().decode()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text, at byte {error.start:,}", "Convert it to UTF-8."
        ) from None


def _first_tokens(texts: Iterable[Ids], max_tokens: int | None) -> Iterator[Ids]:
    """Texts with any tokens, up to the token at which there are `max_tokens` in all."""
    left = max_tokens
    for text in texts:
        if left is not None:
            text = text[:left]
            left -= len(text)
        if len(text):
            yield text
        if left == 0:
            return


def _join(texts: Iterable[Ids], bos_id: int, choice: str) -> Documents:
    bos = np.array([bos_id], ID_TYPE)
    pieces, sizes = [np.empty(0, ID_TYPE)], [0]
    for text in texts:
        pieces += [bos, text]
        sizes.append(len(text) + 1)
    return Documents(np.concatenate(pieces), np.cumsum(sizes, dtype=np.int64), choice)
