"""Made-up articles as tokens, and small datasets of them."""

from pathlib import Path

import numpy as np

from utils.preparing.token_writer import TokenBatch, write_token_file
from utils.token_files import DatasetMetadata, Recipe, write_metadata
from utils.windows import Ids

BOS, EOS, UNK, VOCABULARY = 1, 2, 0, 300
RECIPE = Recipe(
    window=8,
    stride=4,
    tokenizer_name="test",
    tokenizer_sha256="0" * 64,
    vocab_size=VOCABULARY,
    bos_token_id=BOS,
    eos_token_id=EOS,
    unk_token_id=UNK,
)

Article = tuple[str, Ids]


def documents(count: int, seed: int = 0, longest: int = 40) -> list[Article]:
    """Made-up articles: the text only counts characters."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(0, longest, count)
    return [
        ("é" * int(length), chance.integers(3, VOCABULARY, length).astype(np.uint16))
        for length in lengths
    ]


def batch_of(articles: list[Article]) -> TokenBatch:
    return TokenBatch(
        ids=np.concatenate([np.empty(0, np.uint16), *(ids for _, ids in articles)]),
        offsets=np.cumsum([0, *(len(ids) for _, ids in articles)], dtype=np.int64),
        characters=[len(text) for text, _ in articles],
        utf8_bytes=sum(len(text.encode()) for text, _ in articles),
    )


def stream_of(articles: list[Article]) -> list[int]:
    return [token for _, ids in articles for token in (BOS, *ids.tolist(), EOS)]


def make_dataset(folder: Path, *sizes: int, recipe: Recipe = RECIPE) -> DatasetMetadata:
    """A complete dataset with so many articles in each file."""
    files = []
    for number, size in enumerate(sizes):
        batches = [batch_of(documents(size, number))]
        sha256 = f"{number:064}"
        files.append(write_token_file(folder, f"part_{number}", sha256, recipe, batches))
    metadata = DatasetMetadata.of(recipe, files)
    write_metadata(folder, metadata)
    return metadata
