"""Cleaned text to token windows: one tokens_*.npy per cleaned file, and metadata.json over all.

Files that are finished and unchanged since an earlier run are kept; what was made with other
text, another tokenizer or other settings is made again.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

import shlex
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tokenizer import CodeLlamaTokenizer, load_or_fetch
from utils.cli import config_from, run_script, script_parser, shared_options
from utils.config import Config
from utils.errors import DatasetError
from utils.files import format_bytes, sole_writer
from utils.interrupts import InterruptGuard
from utils.preparing.article_batches import check_content, read_batches
from utils.preparing.checked_articles import CheckedArticles
from utils.preparing.pool import Tally, for_each_file
from utils.preparing.read_ahead import read_ahead
from utils.preparing.sources import Source, find_sources
from utils.preparing.token_writer import TokenBatch, disk_errors_named, write_token_file
from utils.reports.dataset_report import write_report
from utils.reports.markup import REPORT_NAME
from utils.terminal import format_seconds, say, warn
from utils.token_files import (
    DatasetMetadata,
    Recipe,
    TokenFile,
    read_statistics,
    remove_metadata,
    remove_token_file,
    stored_stems,
    write_metadata,
)

MAX_UNKNOWN_SHARE = 0.01


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("Tokenize the cleaned articles into overlapping windows.")
    parser.add_argument(
        "--test", action="store_true", help="only the first articles, into the test dataset"
    )
    parser.add_argument("--window", type=int, metavar="N", help="tokens in a window")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens between window starts")
    parser.add_argument("--batch", type=int, metavar="N", help="most articles tokenized at once")
    parser.add_argument("--workers", type=int, metavar="N", help="files in work at the same time")
    parser.add_argument("--force", action="store_true", help="make finished files again")
    args = parser.parse_args(arguments)
    flags = {
        "window": args.window,
        "stride": args.stride,
        "batch_articles": args.batch,
        "workers": args.workers,
    }
    config = config_from(args, {f"dataset_prep.{key}": value for key, value in flags.items()})
    start_seconds = time.monotonic()
    metadata = prepare_dataset(config, test=args.test, force=args.force)
    seconds = time.monotonic() - start_seconds
    _summarise(metadata, dataset_dir_of(config, args.test), seconds)
    positions = config.model.max_position_embeddings
    if metadata.window > positions:
        warn(f"the model takes {positions:,} tokens: raise model.max_position_embeddings to train")
    command = ["python", "train.py", *["--test"] * args.test, *shared_options(args)]
    say(f"Next: {shlex.join(command)}", "bold")


def prepare_dataset(config: Config, test: bool = False, force: bool = False) -> DatasetMetadata:
    """Bring the dataset up to date with the cleaned text, the tokenizer and the settings.

    `test` takes the first `dataset_prep.test_articles` articles into `paths.test_dataset_dir`;
    `force` makes finished files again. Ctrl-C and SIGTERM raise Interrupted; a rerun goes on.
    """
    dataset_dir = dataset_dir_of(config, test)
    tokenizer = load_or_fetch(config)
    recipe = recipe_of(config, tokenizer)
    notice = "stopping after this batch; finished files are kept"
    with InterruptGuard(notice) as guard, sole_writer(dataset_dir, "preparing a dataset in"):
        limit = config.dataset_prep.test_articles if test else None
        sources = find_sources(config.paths.cleaned_dir, dataset_dir, recipe, limit, force)
        files = _bring_up_to_date(config, tokenizer, recipe, dataset_dir, sources, guard)
        metadata = DatasetMetadata.of(recipe, files)
        if not metadata.windows:
            raise DatasetError(
                f"{dataset_dir}: all {metadata.tokens:,} tokens do not fill one window of"
                f" {recipe.window:,}",
                "Clean more text, or choose a smaller --window.",
            )
        with disk_errors_named(dataset_dir):
            _write_report(dataset_dir, metadata, sources, tokenizer)
            write_metadata(dataset_dir, metadata)
    return metadata


def dataset_dir_of(config: Config, test: bool) -> Path:
    return config.paths.test_dataset_dir if test else config.paths.dataset_dir


def recipe_of(config: Config, tokenizer: CodeLlamaTokenizer) -> Recipe:
    """What decides the dataset beside the text."""
    return Recipe(
        window=config.dataset_prep.window,
        stride=config.dataset_prep.stride_tokens,
        tokenizer_name=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        unk_token_id=tokenizer.unk_id,
    )


def _bring_up_to_date(
    config: Config,
    tokenizer: CodeLlamaTokenizer,
    recipe: Recipe,
    dataset_dir: Path,
    sources: Sequence[Source],
    guard: InterruptGuard,
) -> list[TokenFile]:
    """One entry for each source, in order: the finished one, if its text is sound, or a new one."""
    settings = config.dataset_prep
    kept = [source for source in sources if source.finished]
    todo = [source for source in sources if not source.finished]
    for_each_file("Checking", kept, _check_text, settings.workers, guard)
    _remove_others(dataset_dir, sources)
    if todo:
        tokenizer.encode_flat([])  # makes the engine, or fails, before any thread asks for it
    tokenize = partial(_tokenize_file, tokenizer, recipe, dataset_dir, settings.batch_articles)
    start_seconds = time.monotonic()
    made = for_each_file("Tokenizing", todo, tokenize, settings.workers, guard)
    if made:
        seconds, size_bytes = time.monotonic() - start_seconds, sum(s.size_bytes for s in todo)
        say(f"{format_bytes(size_bytes)} of text tokenized, {size_bytes / 1e6 / seconds:.1f} MB/s")
    if kept:
        say(f"{len(kept)} of {len(sources)} files were finished already")
    made_now = {file.stem: file for file in made}
    files = [source.finished or made_now[source.stem] for source in sources]
    for file in files:
        if not file.windows:
            warn(
                f"{file.stem}: no windows, its {file.tokens:,} tokens do not fill one of"
                f" {recipe.window:,}"
            )
    return files


def _check_text(source: Source, tally: Tally) -> None:
    check_content(source.text_path, source.marker)
    tally.add(source.size_bytes)


def _remove_others(dataset_dir: Path, sources: Sequence[Source]) -> None:
    """Delete what belongs to no source; the dataset is incomplete from the first change on."""
    stems = {source.stem for source in sources}
    others = [stem for stem in stored_stems(dataset_dir) if stem not in stems]
    if others or not all(source.finished for source in sources):
        remove_metadata(dataset_dir)
        (dataset_dir / REPORT_NAME).unlink(missing_ok=True)
    for stem in others:
        say(f"{stem}: removed, its cleaned text is gone or beyond the articles wanted", "yellow")
        remove_token_file(dataset_dir, stem)


def _tokenize_file(
    tokenizer: CodeLlamaTokenizer,
    recipe: Recipe,
    dataset_dir: Path,
    most_articles: int,
    source: Source,
    tally: Tally,
) -> TokenFile:
    """Write the token files of one source: reading, encoding and writing go on side by side."""
    encoded = _token_batches(tokenizer, most_articles, source, tally)
    with read_ahead(encoded) as batches:
        digest = source.marker.output_sha256
        file = write_token_file(dataset_dir, source.stem, digest, recipe, batches)
    say(
        f"{source.stem}: {file.articles:,} articles, {file.tokens:,} tokens,"
        f" {file.windows:,} windows ({source.reason})"
    )
    return file


def _token_batches(
    tokenizer: CodeLlamaTokenizer, most_articles: int, source: Source, tally: Tally
) -> Generator[TokenBatch, None, None]:
    """The source's articles with their ids.

    Raises if the text is not the one that was cleaned, or the tokenizer does not fit it.
    """
    checked = CheckedArticles()
    articles = read_batches(source.text_path, source.marker, source.articles, most_articles)
    with read_ahead(articles) as batches:
        for batch in batches:
            ids, offsets = flat = tokenizer.encode_flat(batch.texts)
            unknown = int(np.count_nonzero(ids == tokenizer.unk_id))
            if unknown > MAX_UNKNOWN_SHARE * len(ids):
                raise DatasetError(
                    f"{source.text_path}: {unknown / len(ids):.1%} of the tokens are unknown",
                    f"The tokenizer {tokenizer.name} does not suit this text; choose another.",
                )
            tokenizer.check_against_stock(batch.texts, flat, checked.choose(batch.texts))
            characters = [len(text) for text in batch.texts]
            tally.add(batch.size_bytes, len(batch.texts), sum(characters), len(ids))
            yield TokenBatch(ids, offsets, characters, batch.utf8_bytes)


def _write_report(
    dataset_dir: Path,
    metadata: DatasetMetadata,
    sources: Sequence[Source],
    tokenizer: CodeLlamaTokenizer,
) -> None:
    write_report(
        dataset_dir,
        metadata,
        read_statistics(dataset_dir, metadata),
        {source.text_path: source.marker for source in sources},
        tokenizer.decode,
        lambda token_id: tokenizer.pieces([token_id])[0],
    )


def _summarise(metadata: DatasetMetadata, dataset_dir: Path, seconds: float) -> None:
    rows = {
        "dataset": str(dataset_dir),
        "articles": f"{metadata.articles:,} in {len(metadata.files)} file(s)",
        "text": f"{format_bytes(metadata.utf8_bytes)}, {metadata.characters:,} characters",
        "tokens": f"{metadata.tokens:,}, {metadata.unknown_share:.2%} unknown",
        "compression": f"{metadata.characters_per_token:.2f} characters per token,"
        f" {metadata.bytes_per_token:.2f} bytes per token",
        "windows": f"{metadata.windows:,} of {metadata.window:,} tokens, one every"
        f" {metadata.stride:,}",
        "tokenizer": f"{metadata.tokenizer_name}, {metadata.vocab_size:,} tokens",
        "disk": format_bytes(metadata.disk_bytes),
        "time": format_seconds(seconds),
    }
    for name, value in rows.items():
        say(f"  {name:12} {value}")


if __name__ == "__main__":
    run_script(main)
