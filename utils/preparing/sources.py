"""What is to do: the cleaned texts of a dataset, and what earlier runs have finished of them."""

from dataclasses import dataclass
from pathlib import Path

from utils.articles import CleanedMarker, read_markers, stem_of
from utils.errors import DataError, DatasetError
from utils.preparing.article_batches import check_size
from utils.token_files import Recipe, TokenFile, read_entry


@dataclass(frozen=True)
class Source:
    """One cleaned text, or as much of it as is wanted, and what is finished of it."""

    text_path: Path
    marker: CleanedMarker
    articles: int  # wanted
    finished: TokenFile | None
    reason: str  # why it is tokenized (again), if it is

    @property
    def stem(self) -> str:
        return stem_of(self.text_path)

    @property
    def size_bytes(self) -> int:
        """Of the articles that are wanted; an estimate if they are not all."""
        return self.marker.output_bytes * self.articles // max(self.marker.articles, 1)


def find_sources(
    cleaned_dir: Path, dataset_dir: Path, recipe: Recipe, limit: int | None, force: bool
) -> list[Source]:
    """The cleaned texts that make up the dataset, in order, up to `limit` articles in all.

    Raises DataError as `read_markers` does, and for all texts of another size than their marker's.
    """
    sources: list[Source] = []
    errors: list[DataError] = []
    for text_path, marker in read_markers(cleaned_dir, allow_truncated=limit is not None).items():
        if limit == 0:
            break
        try:
            check_size(text_path, marker)
        except DataError as error:
            errors.append(error)
        articles = marker.articles if limit is None else min(marker.articles, limit)
        limit = None if limit is None else limit - articles
        finished, reason = None, "--force"
        if not force:
            digest = marker.output_sha256
            finished, reason = _finished(dataset_dir, stem_of(text_path), recipe, digest, articles)
        sources.append(Source(text_path, marker, articles, finished, reason))
    raise_together(errors)
    return sources


def raise_together(errors: list[DataError], hint: str = "") -> None:
    """Raise one error that names all, if there are any; `hint` is for several."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError("\n".join(map(str, errors)), hint)


def _finished(
    dataset_dir: Path, stem: str, recipe: Recipe, source_sha256: str, articles: int
) -> tuple[TokenFile | None, str]:
    """What an earlier run made of this text, or None and why it cannot be kept."""
    try:
        entry = read_entry(dataset_dir, stem)
    except DatasetError as error:
        return None, error.what
    if entry is None:
        return None, "new"
    file = entry.files[0]
    if file.source_sha256 != source_sha256:
        return None, "its text was changed"
    for key, now in recipe:
        before = getattr(entry, key)
        if before != now and key != "tokenizer_name":  # its digest is what counts
            return None, f"{key} was {before} and is now {now}"
    if file.articles != articles:
        return None, f"it has {file.articles:,} of the {articles:,} articles wanted"
    return file, ""
