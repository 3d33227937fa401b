"""A tokenizer and a dataset made of nothing, for benches that have no prepared text at hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers.models import BPE

from demo.train_tokenizer import FIXED_PIECES, SPACE, codellama_layout
from utils.config import Config
from utils.config_file import override
from utils.errors import UsageError
from utils.preparing.token_writer import TokenBatch, write_token_file
from utils.terminal import say
from utils.token_files import METADATA_NAME, DatasetMetadata, Recipe, write_metadata
from utils.tokenizer_files import TOKENIZER_FILE, sha256_of_bytes, write_tokenizer_files

NAME = "random_tokens"
ARTICLES_OF_A_BATCH = 1_000
MEAN_ARTICLE_TOKENS = 400
FIRST_CHARACTER = 0x10000  # single characters from here on fill the vocabulary


def config_with_data(config: Config, folder: Path, tokens: int) -> Config:
    """`config` itself where its dataset is prepared, else with one of random tokens in `folder`."""
    if (config.paths.dataset_dir / METADATA_NAME).is_file():
        return config
    say(f"no dataset in {config.paths.dataset_dir}: taking {tokens:,} random tokens", "yellow")
    return random_workspace(config, folder, tokens)


def random_workspace(config: Config, folder: Path, tokens: int) -> Config:
    """`config` with a tokenizer and at least `tokens` tokens of data in `folder`.

    Both are valid and fit `config.model`. Low ids are common and high ones rare, so that there is
    something to learn. The same config gives the same data.
    """
    paths = {f"paths.{key}_dir": str(folder / key) for key in ("tokenizer", "dataset", "cleaned")}
    made = override(config, paths)
    digest = _write_tokenizer(made)
    window = config.model.max_position_embeddings
    recipe = Recipe(
        window=window,
        stride=window,
        tokenizer_name=NAME,
        tokenizer_sha256=digest,
        vocab_size=config.model.vocab_size,
        bos_token_id=config.tokenizer.bos_token_id,
        eos_token_id=config.tokenizer.eos_token_id,
        unk_token_id=config.tokenizer.unk_token_id,
    )
    articles = _articles(config.model.vocab_size, tokens)
    file = write_token_file(made.paths.dataset_dir, NAME, "0" * 64, recipe, articles)
    write_metadata(made.paths.dataset_dir, DatasetMetadata.of(recipe, [file]))
    return made


def _write_tokenizer(config: Config) -> str:
    """Save a tokenizer of `model.vocab_size` characters, without merges; returns its SHA-256."""
    pieces = [*FIXED_PIECES, SPACE]
    missing = config.model.vocab_size - len(pieces)
    if missing < 0:
        raise UsageError(
            f"a tokenizer has at least {len(pieces)} tokens, but model.vocab_size is"
            f" {config.model.vocab_size}"
        )
    pieces += [chr(FIRST_CHARACTER + number) for number in range(missing)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = BPE(vocabulary, [], unk_token=FIXED_PIECES[0], byte_fallback=True, fuse_unk=True)
    content = codellama_layout(model).to_str().encode()
    write_tokenizer_files(config.paths.tokenizer_dir, NAME, None, {TOKENIZER_FILE: content})
    return sha256_of_bytes(content)


def _articles(vocabulary: int, tokens: int) -> Iterator[TokenBatch]:
    chance = np.random.default_rng(0)
    while tokens > 0:
        lengths = chance.integers(1, 2 * MEAN_ARTICLE_TOKENS, ARTICLES_OF_A_BATCH)
        lengths = lengths[: int(np.searchsorted(lengths.cumsum(), tokens)) + 1]
        size = int(lengths.sum())
        ids = 2 + np.exp(chance.random(size) * np.log(vocabulary - 2))  # from 3 on
        yield TokenBatch(
            ids=ids.astype(np.uint16),
            offsets=np.concatenate([[0], lengths.cumsum()]),
            characters=lengths.tolist(),
            utf8_bytes=size,
        )
        tokens -= size
