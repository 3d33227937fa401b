"""How fast text becomes ids: `encode_flat` against the stock tokenizer and others.

`python -m bench.tokenizer [--data FOLDER]`: every contender turns the same articles into one uint16
array, and the arrays must be equal. On one core CPU time counts, that of the best round; on all
cores the clock, in the median of the rounds, and the median of their ratios. Memory is what a
process of its own takes to encode everything at once, above the loaded tokenizer.

Peers are imported where they are loaded, so that no process waits for another's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bench.measure import (
    Timing,
    bench_parser,
    environment_of,
    in_child,
    peak_memory_bytes,
    publish,
    side_by_side,
    table,
    times_as_fast,
)
from tokenizer import CodeLlamaTokenizer, load_or_fetch
from utils.articles import cleaned_files, read_articles
from utils.cli import config_from, run_script
from utils.config import Config
from utils.errors import TokenizerError
from utils.files import format_bytes
from utils.terminal import say
from utils.tokenizer_files import SENTENCEPIECE_FILE, TOKENIZER_FILE

GOAL = 8.0  # times the stock tokenizer
PACKAGES = ("fastokens", "tokenizers", "transformers", "sentencepiece", "numpy")

Ids = NDArray[np.uint16]
Encode = Callable[[Sequence[str]], Ids]


def load_ours(config: Config) -> Encode:
    tokenizer = CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)
    return lambda texts: tokenizer.encode_flat(texts).ids


def load_stock(config: Config) -> Encode:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        config.paths.tokenizer_dir, split_special_tokens=True
    )
    return lambda texts: _flat(tokenizer(texts, add_special_tokens=False)["input_ids"])


def load_tokenizers(config: Config) -> Encode:
    tokenizer = Tokenizer.from_file(str(config.paths.tokenizer_dir / TOKENIZER_FILE))
    tokenizer.encode_special_tokens = True
    return lambda texts: _flat(
        [part.ids for part in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    )


def load_sentencepiece(config: Config) -> Encode:
    from sentencepiece import SentencePieceProcessor

    path = config.paths.tokenizer_dir / SENTENCEPIECE_FILE
    processor = SentencePieceProcessor(model_file=str(path))
    return lambda texts: _flat(processor.encode(texts))


OURS, STOCK, SENTENCEPIECE = "encode_flat (ours)", "transformers tokenizer(list)", "sentencepiece"
CONTENDERS: dict[str, Callable[[Config], Encode]] = {
    OURS: load_ours,
    STOCK: load_stock,
    "tokenizers encode_batch_fast": load_tokenizers,
    SENTENCEPIECE: load_sentencepiece,
}


class Figures(NamedTuple):
    """What was measured of one contender, on all cores in the same rounds as the others."""

    one_core: Timing
    all_cores: Timing
    memory_bytes: int

    def ratios_to(self, stock: Self) -> tuple[float, float]:
        """How many times as fast as `stock`: on one core, and on all."""
        return (
            stock.one_core.cpu_min / self.one_core.cpu_min,
            times_as_fast(self.all_cores.wall, stock.all_cores.wall),
        )


def main(arguments: Sequence[str]) -> None:
    parser = bench_parser("tokenizer", "Compare tokenizers: speed, memory, ids.", repeats=5)
    parser.add_argument(
        "--data", type=Path, help="folder of cleaned text (default: paths.cleaned_dir)"
    )
    parser.add_argument(
        "--megabytes", type=float, default=16.0, help="text to encode (default: 16)"
    )
    args = parser.parse_args(arguments)
    config = config_from(args)
    environment = environment_of(PACKAGES, args.commit)
    load_or_fetch(config)
    texts = list(read_texts(args.data or config.paths.cleaned_dir, args.megabytes * 1e6))
    size_bytes = sum(len(text.encode()) for text in texts)
    say(f"encoding {len(texts):,} articles, {format_bytes(size_bytes)}")
    tokens, figures = measure(config, texts, args.repeats)
    values = {
        "articles": len(texts),
        "bytes": size_bytes,
        "tokens": tokens,
        "goal": GOAL,
        "ratios": figures[OURS].ratios_to(figures[STOCK]),
        "contenders": {
            name: {
                "one_core": measured.one_core.values(),
                "all_cores": measured.all_cores.values(),
                "memory_bytes": measured.memory_bytes,
            }
            for name, measured in figures.items()
        },
    }
    body = (
        f"{len(texts):,} articles, {format_bytes(size_bytes)}, {tokens:,} tokens: the same ids from"
        f" all contenders.\n\n{_table(figures, size_bytes)}"
    )
    publish(args, "tokenizer", "Tokenizing, with exact ids", body, values, environment)


def measure(config: Config, texts: Sequence[str], repeats: int) -> tuple[int, dict[str, Figures]]:
    """The number of tokens, and the figures of every contender that the tokenizer has files for."""
    has_model = (config.paths.tokenizer_dir / SENTENCEPIECE_FILE).is_file()
    names = [name for name in CONTENDERS if has_model or name != SENTENCEPIECE]
    tokens, one_core = in_child(1, compare, config, texts, names, repeats)
    _, all_cores = in_child(None, compare, config, texts, names, repeats)
    memory = {name: in_child(None, memory_bytes, config, texts, name) for name in names}
    return tokens, {name: Figures(one_core[name], all_cores[name], memory[name]) for name in names}


def _table(figures: Mapping[str, Figures], size_bytes: int) -> str:
    rows = []
    for name, measured in figures.items():
        ratio, ratio_all = measured.ratios_to(figures[STOCK])
        rows.append(
            [
                name,
                f"{size_bytes / 1e6 / measured.one_core.cpu_min:.1f}",
                f"{ratio:.2f} x",
                f"{size_bytes / 1e6 / measured.all_cores.wall_median:.1f}",
                f"{ratio_all:.2f} x",
                f"{measured.memory_bytes / 1e6:,.0f}",
            ]
        )
    header = ["", "1 core, MB/s", "to stock", "all cores, MB/s", "to stock", "memory, MB"]
    ours, ours_all = figures[OURS].ratios_to(figures[STOCK])
    return (
        f"{table(header, rows)}\n\nGoal: {GOAL:g} x stock, the tokenizer of transformers."
        f" Reached: {ours:.1f} x on one core, {ours_all:.1f} x on all."
    )


def read_texts(folder: Path, size_bytes: float) -> Iterator[str]:
    """Articles of a folder of cleaned text, in order, until they have so many bytes."""
    for article in chain.from_iterable(map(read_articles, cleaned_files(folder))):
        yield article
        size_bytes -= len(article.encode())
        if size_bytes <= 0:
            return


def compare(
    config: Config, texts: Sequence[str], names: Sequence[str], repeats: int
) -> tuple[int, dict[str, Timing]]:
    """The number of tokens, and the time of each contender once all have given the same ids."""
    encoders = {name: CONTENDERS[name](config) for name in names}
    ours = encoders[OURS](texts)
    for name in names:
        if not np.array_equal(encoders[name](texts), ours):
            raise TokenizerError(f"{name} gives other ids than {OURS}")
    calls = {name: lambda encode=encode: encode(texts) for name, encode in encoders.items()}
    return len(ours), side_by_side(calls, repeats)


def memory_bytes(config: Config, texts: Sequence[str], name: str) -> int:
    encode = CONTENDERS[name](config)
    encode(["It is ready."])
    return peak_memory_bytes(lambda: encode(texts))


def _flat(ids: Sequence[Sequence[int]]) -> Ids:
    return np.fromiter(chain.from_iterable(ids), np.uint16, sum(map(len, ids)))


if __name__ == "__main__":
    run_script(main)
