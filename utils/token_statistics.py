"""What is counted of a text while it is tokenized: how often each token stands in it, and lengths.

Saved beside the tokens of each file, it says what a report needs without a second reading, and
the counts of several files add up to exactly the counts of all.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from utils.errors import DatasetError
from utils.files import atomic_write
from utils.windows import Ids

Counts = NDArray[np.int64]

_EXACT_BITS = 7  # of a length: bins are 1 wide below 2 ** 8, then at most 1/128 of the length
_LENGTH_BITS = 40  # lengths are below 2 ** 40
_BINS_PER_OCTAVE = 1 << _EXACT_BITS
BINS = (_LENGTH_BITS - _EXACT_BITS + 1) * _BINS_PER_OCTAVE

_AGAIN = "Run dataset_prep.py --force, with --test if this is the test dataset, to count again."


def bins_of(lengths: Counts) -> Counts:
    """The bin of each length below 2 ** 40, int64.

    >>> bins_of(np.array([0, 1, 255, 256, 257, 258])).tolist()
    [0, 1, 255, 256, 256, 257]
    """
    bits = np.frexp(lengths)[1].astype(np.int64)
    dropped_bits = np.maximum(bits - _EXACT_BITS - 1, 0)
    bins: Counts = dropped_bits * _BINS_PER_OCTAVE + (lengths >> dropped_bits)
    return bins


def _bin_starts() -> Counts:
    bins = np.arange(BINS + 1, dtype=np.int64)
    dropped_bits = np.maximum(bins // _BINS_PER_OCTAVE - 1, 0)
    starts: Counts = (bins - dropped_bits * _BINS_PER_OCTAVE) << dropped_bits
    return starts


BIN_STARTS = _bin_starts()  # (BINS + 1,): bin i holds the lengths from [i] to below [i + 1]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Count = Annotated[int, Field(ge=0, lt=1 << 46)]  # 65,536 of them add up in an int64
_Bin = Annotated[int, Field(ge=0, lt=BINS)]


class _Lengths(_Record):
    """A LengthHistogram on disk."""

    total: Annotated[int, Field(ge=0)]
    smallest: _Count
    largest: _Count
    bins: list[tuple[_Bin, _Count]]  # those that hold any length, and how many each of them holds


class _Statistics(_Record):
    """TokenStatistics on disk."""

    format_version: Literal[1] = 1
    characters: _Lengths
    tokens: _Lengths
    token_counts: list[_Count]
    fingerprint: str = ""  # SHA-256 of everything above; "" while it is being made

    def sealed(self) -> Self:
        return self.model_copy(update={"fingerprint": self._digest()})

    @property
    def is_whole(self) -> bool:
        return self.fingerprint == self._digest()

    def _digest(self) -> str:
        content = self.model_dump_json(exclude={"fingerprint"})
        return hashlib.sha256(content.encode()).hexdigest()


class LengthHistogram:
    """How many lengths fall into each bin, int64 (BINS,), and their sum and extremes, exact."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, np.int64)
        self.total = 0
        self.smallest = self.largest = 0  # while there is no length

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    def add(self, lengths: Counts) -> None:
        """Count lengths that are below 2 ** 40."""
        if len(lengths):
            smallest, largest = int(lengths.min()), int(lengths.max())
            assert smallest >= 0, "a length is not negative"
            assert largest < BIN_STARTS[-1], "a length has its bin"
            counts = np.bincount(bins_of(lengths), minlength=BINS)
            self._include(counts, int(lengths.sum()), smallest, largest)

    def merge(self, other: "LengthHistogram") -> None:
        """Count what `other` counted, too."""
        if other.count:
            self._include(other.counts, other.total, other.smallest, other.largest)

    def percentile(self, percent: int) -> int:
        """A length that `percent` % of all do not exceed: off by at most half a bin, 1/256 of it.

        It is 0 while there is no length.
        """
        rank = max(-(-percent * self.count // 100), 1)
        position = min(int(np.searchsorted(np.cumsum(self.counts), rank)), BINS - 1)
        middle = int(BIN_STARTS[position] + BIN_STARTS[position + 1] - 1) // 2
        return min(max(middle, self.smallest), self.largest)

    def to_record(self) -> _Lengths:
        used = np.flatnonzero(self.counts)
        return _Lengths(
            total=self.total,
            smallest=self.smallest,
            largest=self.largest,
            bins=list(zip(used.tolist(), self.counts[used].tolist(), strict=True)),
        )

    @classmethod
    def from_record(cls, record: _Lengths) -> Self:
        lengths = cls()
        for position, count in record.bins:
            lengths.counts[position] = count
        lengths.total = record.total
        lengths.smallest, lengths.largest = record.smallest, record.largest
        return lengths

    def _include(self, counts: Counts, total: int, smallest: int, largest: int) -> None:
        self.smallest = min(self.smallest, smallest) if self.count else smallest
        self.largest = max(self.largest, largest)
        self.counts += counts
        self.total += total


class TokenStatistics:
    """Counts of one text, or of several: how often each id stands in it, int64 (vocab,), and the
    lengths of its articles in characters and in tokens.

    Only the text's own tokens count: <s> and </s> around an article do not.
    """

    def __init__(self, vocab_size: int) -> None:
        self.token_counts: Counts = np.zeros(vocab_size, np.int64)
        self.characters = LengthHistogram()
        self.tokens = LengthHistogram()

    @property
    def articles(self) -> int:
        return self.tokens.count

    def add(self, ids: Ids, offsets: Counts, characters: Counts | Sequence[int]) -> None:
        """Count a batch of articles whose tokens lie end to end, without <s> and </s>.

        Article i is `ids[offsets[i] : offsets[i + 1]]` and has `characters[i]` characters: ids
        (tokens,), offsets (articles + 1,), characters (articles,).
        """
        assert len(offsets) == len(characters) + 1, "one length for each article"
        assert offsets[0] == 0, "the first article is the first of the batch"
        assert offsets[-1] == len(ids), "the articles are all of the batch"
        counts = np.bincount(ids, minlength=len(self.token_counts))
        assert len(counts) == len(self.token_counts), "ids are below the vocabulary's size"
        self.token_counts += counts
        self.tokens.add(np.diff(offsets))
        self.characters.add(np.asarray(characters, np.int64))

    def merge(self, other: "TokenStatistics") -> None:
        """Count what `other`, of the same vocabulary, counted, too."""
        assert len(other.token_counts) == len(self.token_counts), "they have one vocabulary"
        self.token_counts += other.token_counts
        self.characters.merge(other.characters)
        self.tokens.merge(other.tokens)

    def save(self, path: Path) -> None:
        """Write the counts as JSON, atomically."""
        stored = _Statistics(
            characters=self.characters.to_record(),
            tokens=self.tokens.to_record(),
            token_counts=self.token_counts.tolist(),
        )
        with atomic_write(path) as file:
            file.write(stored.sealed().model_dump_json().encode() + b"\n")

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> Self:
        """Read saved counts.

        Raises DatasetError if they are missing, damaged or of another vocabulary.
        """
        try:
            stored = _Statistics.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing", _AGAIN) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise DatasetError(f"{path}: damaged: {where}: {first['msg']}", _AGAIN) from None
        if not stored.is_whole:
            raise DatasetError(f"{path}: damaged: its fingerprint is of other counts", _AGAIN)
        if len(stored.token_counts) != vocab_size:
            raise DatasetError(
                f"{path}: counts {len(stored.token_counts):,} different tokens, but the vocabulary"
                f" has {vocab_size:,}",
                _AGAIN,
            )
        statistics = cls(vocab_size)
        statistics.token_counts[:] = stored.token_counts
        statistics.characters = LengthHistogram.from_record(stored.characters)
        statistics.tokens = LengthHistogram.from_record(stored.tokens)
        return statistics
