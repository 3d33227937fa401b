"""Cleaned text to token windows: one tokens_*.npy per cleaned file, and metadata.json over all.

Files that are finished and unchanged since an earlier run are kept; what was made with other
text, another tokenizer or other settings is made again.
"""

import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tokenizer import CodeLlamaTokenizer, load_or_fetch
from utils.articles import PARAGRAPH_BREAK, read_articles, read_markers, stem_of
from utils.cli import config_from, run_script, script_parser, shared_options
from utils.config import Config
from utils.errors import DataError, DatasetError, Interrupted
from utils.files import format_bytes, sha256_of, sole_writer
from utils.interrupts import SAME_SIGNAL_SECONDS, InterruptGuard
from utils.terminal import Progress, format_seconds, say, warn
from utils.token_files import (
    DatasetMetadata,
    Recipe,
    TokenFile,
    read_entry,
    remove_metadata,
    remove_token_file,
    stored_stems,
    write_metadata,
    write_token_file,
)
from utils.windows import Ids

BATCH_CHARACTERS = 4_000_000  # ends a batch early: tokenizing takes about 20 times this memory
MAX_UNKNOWN_SHARE = 0.01


@dataclass(frozen=True)
class Source:
    """One cleaned text, or as much of it as is wanted, and what is finished of it."""

    text_path: Path
    sha256: str
    articles: int
    size_bytes: int  # of these articles; an estimate if they are not all
    finished: TokenFile | None
    reason: str  # why it is tokenized (again), if it is

    @property
    def stem(self) -> str:
        return stem_of(self.text_path)


def main(arguments: Sequence[str]) -> None:
    parser = script_parser("Tokenize the cleaned articles into overlapping windows.")
    parser.add_argument(
        "--test", action="store_true", help="only the first articles, into the test dataset"
    )
    parser.add_argument("--window", type=int, metavar="N", help="tokens in a window")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens between window starts")
    parser.add_argument("--batch", type=int, metavar="N", help="most articles tokenized at once")
    parser.add_argument("--force", action="store_true", help="make finished files again")
    args = parser.parse_args(arguments)
    flags = {"window": args.window, "stride": args.stride, "batch_articles": args.batch}
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
        sources = find_sources(config.paths.cleaned_dir, dataset_dir, recipe, limit, force, guard)
        _remove_others(dataset_dir, sources)
        files = _tokenize(config, tokenizer, recipe, dataset_dir, sources, guard)
        metadata = DatasetMetadata.of(recipe, files)
        if not metadata.windows:
            raise DatasetError(
                f"{dataset_dir}: all {metadata.tokens:,} tokens do not fill one window of"
                f" {recipe.window:,}",
                "Clean more text, or choose a smaller --window.",
            )
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


def _check_interrupted(guard: InterruptGuard) -> None:
    if guard.received is not None:
        time.sleep(SAME_SIGNAL_SECONDS)  # the guard must still be here when it comes twice
        raise Interrupted(
            f"{signal.Signals(guard.received).name}: stopped; the finished files are kept",
            "Run the same command again to go on.",
            guard.received,
        )


def find_sources(
    cleaned_dir: Path,
    dataset_dir: Path,
    recipe: Recipe,
    limit: int | None,
    force: bool,
    guard: InterruptGuard,
) -> list[Source]:
    """The cleaned texts that make up the dataset, in order, up to `limit` articles in all.

    Raises DataError if a text is not the one its marker describes, and as `read_markers` does.
    """
    sources: list[Source] = []
    markers = read_markers(cleaned_dir, allow_truncated=limit is not None)
    with Progress("Checking", sum(path.stat().st_size for path in markers), "B") as progress:
        for text_path, marker in markers.items():
            if limit == 0:
                break
            _check_interrupted(guard)
            digest = sha256_of(text_path)
            if digest != marker.output_sha256:
                raise DataError(
                    f"{text_path}: was changed or damaged after it was cleaned (wrong SHA-256)",
                    "Delete it and run cleaner.py again.",
                )
            articles = marker.articles if limit is None else min(marker.articles, limit)
            limit = None if limit is None else limit - articles
            finished, reason = _finished(dataset_dir, stem_of(text_path), recipe, digest, articles)
            sources.append(
                Source(
                    text_path=text_path,
                    sha256=digest,
                    articles=articles,
                    size_bytes=marker.output_bytes * articles // max(marker.articles, 1),
                    finished=None if force else finished,
                    reason=reason or "--force",
                )
            )
            progress.advance(marker.output_bytes, text_path.name)
    return sources


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


def _remove_others(dataset_dir: Path, sources: Sequence[Source]) -> None:
    """Delete what belongs to no source; the dataset is incomplete from the first change on."""
    stems = {source.stem for source in sources}
    others = [stem for stem in stored_stems(dataset_dir) if stem not in stems]
    if others or not all(source.finished for source in sources):
        remove_metadata(dataset_dir)
    for stem in others:
        say(f"{stem}: removed, its cleaned text is gone or beyond the articles wanted", "yellow")
        remove_token_file(dataset_dir, stem)


def _tokenize(
    config: Config,
    tokenizer: CodeLlamaTokenizer,
    recipe: Recipe,
    dataset_dir: Path,
    sources: Sequence[Source],
    guard: InterruptGuard,
) -> list[TokenFile]:
    """One entry for each source, in order: the finished one, or a new one."""
    files = []
    todo_bytes = sum(source.size_bytes for source in sources if not source.finished)
    with Progress("Tokenizing", todo_bytes, "B") as progress:
        meter = _Meter(progress)
        for source in sources:
            file = source.finished
            if file is None:
                most_articles = config.dataset_prep.batch_articles
                documents = _documents(source, tokenizer, most_articles, meter, guard)
                file = write_token_file(dataset_dir, source.stem, source.sha256, recipe, documents)
                say(
                    f"{source.stem}: {file.articles:,} articles, {file.tokens:,} tokens,"
                    f" {file.windows:,} windows ({source.reason})"
                )
            if not file.windows:
                warn(
                    f"{source.stem}: no windows, its {file.tokens:,} tokens do not fill one of"
                    f" {recipe.window:,}"
                )
            files.append(file)
    kept = sum(source.finished is not None for source in sources)
    if kept:
        say(f"{kept} of {len(sources)} files were finished already")
    return files


def _documents(
    source: Source,
    tokenizer: CodeLlamaTokenizer,
    batch_articles: int,
    meter: "_Meter",
    guard: InterruptGuard,
) -> Iterator[tuple[str, Ids]]:
    """The articles with their ids. Raises if the marker or the tokenizer does not fit them."""
    articles = 0
    for texts in batches(islice(read_articles(source.text_path), source.articles), batch_articles):
        _check_interrupted(guard)
        batch_ids = tokenizer.encode_batch(texts)
        tokens = sum(map(len, batch_ids))
        unknown = sum(int(np.count_nonzero(ids == tokenizer.unk_id)) for ids in batch_ids)
        if unknown > MAX_UNKNOWN_SHARE * tokens:
            raise DatasetError(
                f"{source.text_path}: {unknown / tokens:.1%} of the tokens are unknown",
                f"The tokenizer {tokenizer.name} does not suit this text; choose another.",
            )
        yield from zip(texts, batch_ids, strict=True)
        articles += len(texts)
        meter.advance(texts, tokens)
    if articles != source.articles:
        raise DataError(
            f"{source.text_path}: has {articles:,} articles, but its marker promises"
            f" {source.articles:,}",
            "Delete it and run cleaner.py again.",
        )


def batches(articles: Iterable[str], most_articles: int) -> Iterator[list[str]]:
    """Lists of at most `most_articles`, shorter where their text passes BATCH_CHARACTERS."""
    batch: list[str] = []
    characters = 0
    for article in articles:
        batch.append(article)
        characters += len(article)
        if len(batch) == most_articles or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Meter:
    """Counts what was tokenized and shows it on a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.articles = self.characters = self.tokens = 0
        self.start_seconds = time.monotonic()

    def advance(self, texts: Sequence[str], tokens: int) -> None:
        self.articles += len(texts)
        self.characters += sum(map(len, texts))
        self.tokens += tokens
        seconds = time.monotonic() - self.start_seconds
        lines = (text.replace("\n", PARAGRAPH_BREAK) for text in texts)
        self.progress.advance(
            sum(len(line.encode()) + 1 for line in lines),
            f"{self.articles:,} articles, {self.tokens / seconds / 1000:,.0f}k tokens/s,"
            f" {self.characters / max(self.tokens, 1):.2f} chars/token",
        )


def _summarise(metadata: DatasetMetadata, dataset_dir: Path, seconds: float) -> None:
    disk_bytes = sum(
        file.tokens_array.size_bytes + file.documents_array.size_bytes for file in metadata.files
    )
    rows = {
        "dataset": str(dataset_dir),
        "articles": f"{metadata.articles:,} in {len(metadata.files)} file(s)",
        "text": f"{format_bytes(metadata.utf8_bytes)}, {metadata.characters:,} characters",
        "tokens": f"{metadata.tokens:,}, {metadata.unknown_share:.2%} unknown",
        "compression": f"{metadata.characters_per_token:.2f} characters per token,"
        f" {metadata.utf8_bytes / metadata.tokens:.2f} bytes per token",
        "windows": f"{metadata.windows:,} of {metadata.window:,} tokens, one every"
        f" {metadata.stride:,}",
        "tokenizer": f"{metadata.tokenizer_name}, {metadata.vocab_size:,} tokens",
        "disk": format_bytes(disk_bytes),
        "time": format_seconds(seconds),
    }
    for name, value in rows.items():
        say(f"  {name:12} {value}")


if __name__ == "__main__":
    run_script(main)
