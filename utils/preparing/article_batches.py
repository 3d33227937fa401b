"""A cleaned text in batches of articles, and proof that it is still the text that was cleaned."""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from utils.articles import PARAGRAPH_BREAK, CleanedMarker, article_of
from utils.errors import DataError

BATCH_BYTES = 2_000_000  # ends a batch early, so that long articles take no more memory
_READ_BYTES = 1 << 20
_AGAIN = "Delete it, then run `python cleaner.py` and this command again."


@dataclass(frozen=True)
class ArticleBatch:
    """Some articles of a text, in order, their paragraphs divided by newlines."""

    texts: list[str]
    size_bytes: int  # in the file

    @property
    def utf8_bytes(self) -> int:
        """The size of the texts: a paragraph break is shorter here, and no line end is counted."""
        breaks = sum(text.count("\n") for text in self.texts)
        shorter_bytes = len(PARAGRAPH_BREAK.encode()) - len("\n")
        return self.size_bytes - len(self.texts) - shorter_bytes * breaks


def read_batches(
    text_path: Path, marker: CleanedMarker, articles: int, most_articles: int
) -> Generator[ArticleBatch, None, None]:
    """The first `articles` of a cleaned text, at most `most_articles` or about BATCH_BYTES at once.

    The whole file is read and hashed on the way: DataError is raised, after the last batch at the
    latest, if it is not the text that `marker` describes, or cannot be read.
    """
    digest, read_articles = hashlib.sha256(), 0
    try:
        with text_path.open("rb", _READ_BYTES) as file:
            for lines in _batches(islice(file, articles), most_articles):
                digest.update(b"".join(lines))
                numbered = enumerate(lines, start=read_articles + 1)
                texts = [article_of(line, text_path, number) for number, line in numbered]
                read_articles += len(texts)
                yield ArticleBatch(texts, sum(map(len, lines)))
            rest_bytes = 0
            while block := file.read(_READ_BYTES):
                digest.update(block)
                rest_bytes += len(block)
    except OSError as error:
        raise _unreadable(text_path, error) from None
    if digest.hexdigest() != marker.output_sha256:
        raise _changed(text_path, "wrong SHA-256")
    if read_articles != articles or (rest_bytes and articles == marker.articles):
        than = "fewer" if read_articles != articles else "more"
        raise DataError(
            f"{text_path}: has {than} articles than the {marker.articles:,} its marker promises",
            _AGAIN,
        )


def check_size(text_path: Path, marker: CleanedMarker) -> None:
    """Raises DataError if a text cannot be the one that `marker` describes, without reading it."""
    size_bytes = text_path.stat().st_size
    if size_bytes != marker.output_bytes:
        raise _changed(text_path, f"{size_bytes:,} bytes, once {marker.output_bytes:,}")


def check_content(text_path: Path, marker: CleanedMarker) -> None:
    """Raises DataError if a text is not the one that `marker` describes, or cannot be read."""
    try:
        with text_path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(text_path, error) from None
    if digest != marker.output_sha256:
        raise _changed(text_path, "wrong SHA-256")


def _batches(lines: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    """Lists of at most `most` lines, shorter where they pass BATCH_BYTES."""
    batch: list[bytes] = []
    size_bytes = 0
    for line in lines:
        batch.append(line)
        size_bytes += len(line)
        if len(batch) == most or size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _changed(text_path: Path, sign: str) -> DataError:
    return DataError(
        f"{text_path}: was changed or damaged after it was cleaned ({sign})",
        _AGAIN,
    )


def _unreadable(text_path: Path, error: OSError) -> DataError:
    return DataError(
        f"{text_path}: cannot be read: {error.strerror}",
        "Mend its permissions or its disk, or run `python cleaner.py` again.",
    )
