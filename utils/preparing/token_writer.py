"""Tokens on their way to the disk: all files of one cleaned text, and nothing half of them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.array_files import ArrayWriter
from utils.errors import DatasetError
from utils.files import atomic_write, write_json
from utils.token_files import (
    POSITION_TYPE,
    SPECIAL_TOKENS,
    DatasetMetadata,
    Recipe,
    TokenFile,
    documents_path_of,
    entry_path_of,
    statistics_path_of,
    tokens_path_of,
)
from utils.token_statistics import TokenStatistics
from utils.windows import ID_TYPE, Ids, Positions, WindowWriter


@dataclass(frozen=True)
class TokenBatch:
    """Some articles of a text: article i is ids[offsets[i] : offsets[i + 1]], no <s>, no </s>."""

    ids: Ids
    offsets: Positions  # (articles + 1,)
    characters: Sequence[int]  # of each article
    utf8_bytes: int  # of them all


def write_token_file(
    dataset_dir: Path,
    stem: str,
    source_sha256: str,
    recipe: Recipe,
    batches: Iterable[TokenBatch],
) -> TokenFile:
    """Write all files of one cleaned text, given its articles in order; the entry comes last.

    <s> and </s> are added here. Nothing that was there changes before `batches` end, or if they
    raise. Memory does not grow with the number of articles. Raises DatasetError naming what cannot
    be written.
    """
    tokens_path = tokens_path_of(dataset_dir, stem)
    documents_path = documents_path_of(dataset_dir, stem)
    statistics = TokenStatistics(recipe.vocab_size)
    utf8_bytes = 0
    with disk_errors_named(tokens_path):
        with (
            atomic_write(tokens_path) as tokens_output,
            atomic_write(documents_path) as documents_output,
        ):
            windows = WindowWriter(tokens_output, recipe.window, recipe.stride)
            documents = ArrayWriter(documents_output, POSITION_TYPE)
            for batch in batches:
                earlier_articles = np.arange(len(batch.characters)) * SPECIAL_TOKENS
                documents.write(windows.tokens + batch.offsets[:-1] + earlier_articles)
                windows.add(_with_specials(batch, recipe))
                statistics.add(batch.ids, batch.offsets, batch.characters)
                utf8_bytes += batch.utf8_bytes
            tokens_array, documents_array = windows.finish(), documents.finish()
            entry_path_of(dataset_dir, stem).unlink(missing_ok=True)  # of the arrays before
        statistics.save(statistics_path_of(dataset_dir, stem))
        file = TokenFile(
            stem=stem,
            source_sha256=source_sha256,
            articles=statistics.articles,
            tokens=windows.tokens,
            windows=windows.windows,
            characters=statistics.characters.total,
            utf8_bytes=utf8_bytes,
            unknown_tokens=int(statistics.token_counts[recipe.unk_token_id]),
            tokens_array=tokens_array,
            documents_array=documents_array,
        )
        entry = DatasetMetadata.of(recipe, [file])
        write_json(entry_path_of(dataset_dir, stem), entry.model_dump())
    return file


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Raise DatasetError for an OSError of writing `path`, such as a full disk."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written: {error.strerror}",
            "Make room on the disk, or mend its permissions, and run the same command again: it"
            " keeps the finished files.",
        ) from error


def _with_specials(batch: TokenBatch, recipe: Recipe) -> Ids:
    """`<s> article </s>`, article after article."""
    borders = np.repeat(batch.offsets, SPECIAL_TOKENS)[1:-1]  # each article's begin and end
    specials = np.array([recipe.bos_token_id, recipe.eos_token_id], ID_TYPE)
    return np.insert(batch.ids, borders, np.tile(specials, len(batch.characters)))
