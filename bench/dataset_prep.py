"""How fast cleaned text becomes windows on the disk: dataset_prep against its own tokenizer.

`python -m bench.dataset_prep [--data FOLDER]`: prepare_dataset, from the cleaned files to
metadata.json and report.html, in turns with `encode_flat` over the same text, which is in memory
already. Memory is what preparing takes above the loaded program, for a file and for one four times
as long. The articles of the folder are repeated until there is text enough.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path

from bench.measure import (
    Timing,
    bench_parser,
    environment_of,
    in_child,
    peak_memory_bytes,
    positive,
    publish,
    side_by_side,
    table,
    times_as_fast,
)
from dataset_prep import prepare_dataset
from tokenizer import load_or_fetch
from utils.articles import (
    CleanedMarker,
    cleaned_files,
    read_marker,
    text_path_of,
    write_marker,
)
from utils.cli import config_from, run_script
from utils.config import Config
from utils.config_file import override
from utils.errors import DataError, DatasetError
from utils.files import atomic_write, format_bytes
from utils.preparing.article_batches import read_batches
from utils.terminal import say
from utils.token_files import DatasetMetadata, read_metadata

GOAL = 0.8  # of the tokenizer's own rate
MEMORY_FACTOR = 4
PACKAGES = ("fastokens", "tokenizers", "numpy")
PREPARE, TOKENIZE, START = "dataset_prep", "encode_flat", "start"


def main(arguments: Sequence[str]) -> None:
    parser = bench_parser("dataset_prep", "Compare dataset_prep with its own tokenizer.", repeats=3)
    parser.add_argument(
        "--data", type=Path, help="folder of cleaned text (default: paths.cleaned_dir)"
    )
    parser.add_argument(
        "--megabytes", type=float, default=400.0, help="text to prepare (default: 400)"
    )
    parser.add_argument(
        "--files", type=positive, default=4, metavar="N", help="cleaned files it is in (default: 4)"
    )
    args = parser.parse_args(arguments)
    config = config_from(args)
    environment = environment_of(PACKAGES, args.commit)
    load_or_fetch(config)
    source = args.data or config.paths.cleaned_dir
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = corpus_config(config, folder / "corpus")
        say(f"writing {args.megabytes:g} MB of text into {args.files} files")
        size_bytes = write_corpus(source, corpus, args.files, args.megabytes * 1e6 / args.files)
        short, long = (corpus_config(config, folder / length) for length in ("short", "long"))
        long_bytes = write_corpus(source, long, 1, args.megabytes * 1e6 / args.files)
        short_bytes = write_corpus(source, short, 1, long_bytes / MEMORY_FACTOR)
        say("preparing and encoding it in turns")
        timings = in_child(None, compare, corpus, args.repeats)
        memory = {
            f"one file, {format_bytes(short_bytes)}": in_child(None, memory_bytes, short),
            f"one file, {format_bytes(long_bytes)}": in_child(None, memory_bytes, long),
            f"{args.files} files, {format_bytes(size_bytes)}": in_child(None, memory_bytes, corpus),
        }
        metadata = read_metadata(corpus.paths.dataset_dir)
    ratio = ratio_to_tokenizer(timings, PREPARE)
    values = {
        "bytes": size_bytes,
        "tokens": metadata.tokens,
        "goal": GOAL,
        "ratio": ratio,
        "timings": {name: timing.values() for name, timing in timings.items()},
        "memory_bytes": memory,
    }
    body = _body(metadata, size_bytes, timings, memory)
    publish(args, "dataset_prep", "Preparing a dataset", body, values, environment)


def ratio_to_tokenizer(timings: Mapping[str, Timing], name: str) -> float:
    """How many times as fast as `encode_flat`, on the clock."""
    return times_as_fast(timings[name].wall, timings[TOKENIZE].wall)


def corpus_config(config: Config, folder: Path) -> Config:
    """The same, but for the folders of the cleaned text and of the dataset."""
    paths = {"cleaned_dir": folder / "cleaned", "dataset_dir": folder / "dataset"}
    return override(config, {f"paths.{key}": str(path) for key, path in paths.items()})


def write_corpus(source: Path, config: Config, files: int, file_bytes: float) -> int:
    """Fill `paths.cleaned_dir` with articles of `source`, over and over; returns their bytes."""
    paths = cleaned_files(source)
    if not any(path.stat().st_size for path in paths):
        raise DataError(f"{source}: all texts are empty", "Clean some text first.")
    lines = _lines(paths)
    return sum(
        _write_text(config, f"bench_{number}", lines, file_bytes, read_marker(paths[0]))
        for number in range(files)
    )


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    while True:
        for path in paths:
            with path.open("rb") as file:
                yield from file


def _write_text(
    config: Config, stem: str, lines: Iterator[bytes], file_bytes: float, like: CleanedMarker
) -> int:
    path = text_path_of(config.paths.cleaned_dir, stem)
    digest = hashlib.sha256()
    size_bytes = articles = characters = 0
    with atomic_write(path) as file:
        while size_bytes < file_bytes:
            line = next(lines)
            file.write(line)
            digest.update(line)
            size_bytes += len(line)
            articles += 1
            characters += len(line.decode()) - 1
    counts = {
        "output_bytes": size_bytes,
        "output_sha256": digest.hexdigest(),
        "articles": articles,
        "characters": characters,
    }
    write_marker(path, like.model_copy(update=counts))
    return size_bytes


def compare(config: Config, repeats: int) -> dict[str, Timing]:
    """The time of both, once the dataset holds exactly the tokens that the tokenizer makes."""
    tokenizer = load_or_fetch(config)
    batches = list(read_text(config))

    def encode() -> int:
        return sum(len(tokenizer.encode_flat(texts).ids) for texts in batches)

    expected, metadata = encode(), prepare(config)
    if metadata.text_tokens != expected:
        raise DatasetError(f"{metadata.text_tokens:,} tokens prepared of {expected:,}")
    contenders: dict[str, Callable[[], object]] = {
        TOKENIZE: encode,
        PREPARE: lambda: prepare(config),
        START: lambda: load_or_fetch(config).encode_flat([]),
    }
    return side_by_side(contenders, repeats)


def read_text(config: Config) -> Iterator[list[str]]:
    """All articles, in the batches in which dataset_prep tokenizes them."""
    most_articles = config.dataset_prep.batch_articles
    for path in cleaned_files(config.paths.cleaned_dir):
        marker = read_marker(path)
        for batch in read_batches(path, marker, marker.articles, most_articles):
            yield batch.texts


def prepare(config: Config) -> DatasetMetadata:
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        return prepare_dataset(config, force=True)


def memory_bytes(config: Config) -> int:
    return peak_memory_bytes(lambda: prepare(config))


def _body(
    metadata: DatasetMetadata,
    size_bytes: int,
    timings: Mapping[str, Timing],
    memory: Mapping[str, int],
) -> str:
    rows = [
        [
            name,
            f"{size_bytes / 1e6 / timing.wall_median:.1f}",
            f"{size_bytes / 1e6 / timing.cpu_min:.1f}",
            f"{ratio_to_tokenizer(timings, name):.2f} x",
        ]
        for name, timing in timings.items()
        if name != START
    ]
    header = ["", "all cores, MB/s", "MB per CPU second", "to the tokenizer"]
    memory_rows = [[name, f"{size / 1e6:,.0f}"] for name, size in memory.items()]
    return (
        f"{metadata.articles:,} articles, {format_bytes(size_bytes)}, {metadata.tokens:,} tokens,"
        f" {metadata.windows:,} windows of {metadata.window:,}.\n\n"
        f"{table(header, rows)}\n\n"
        f"{table(['', 'memory, MB'], memory_rows)}\n\n"
        f"Goal: {GOAL:g} x the tokenizer's own rate. Reached:"
        f" {ratio_to_tokenizer(timings, PREPARE):.2f} x, in the median of the rounds, with the"
        f" {timings[START].wall_min:.1f} s in which every\nrun loads and checks the tokenizer."
        " Memory is above the loaded program."
    )


if __name__ == "__main__":
    run_script(main)
