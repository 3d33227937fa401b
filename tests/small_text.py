"""A page of English, a tokenizer's configuration for it, and cleaned text without a cleaner run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.articles import (
    ArticleWriter,
    CleanedMarker,
    CleanerSettings,
    text_path_of,
    write_marker,
)
from utils.config import Config
from utils.config_file import parse_config
from utils.files import atomic_write

VOCABULARY = 600
ENGLISH = """The river rises in the northern hills and flows south through three counties before it
reaches the sea. In 1834 engineers built the first iron bridge across its lower valley; the bridge
carried the mail road until 1921, when a wider one of concrete took its place. Fishing and ferries
were the main trades of the villages along the banks, and boat builders still work in two of them.
Above the weir, water meadows flood every winter and feed large flocks of geese and wading birds.

Mathematics began with counting, measuring and the study of shapes. Greek geometers asked for
proof: a statement is true when it follows from simpler ones by rules that everybody accepts. Later
writers in Baghdad gave algebra its name, and European scholars turned curves into equations. Today
a theorem may be checked by a computer program, line by line, yet finding it remains human work.

A library keeps books, newspapers, maps and recordings, and lends most of them without charge. Its
catalogue lists each item by author, title and subject, so that readers can find what they need.
Many libraries now offer electronic collections, reading rooms, lectures and help with research.
def count(words): return {word: words.count(word) for word in set(words)} # 25% of "quoted" text
"""


def tokenizer_config(base: Path, **sections: dict[str, Any]) -> Config:
    """The configuration of a small pipeline whose every path is under `base`."""
    paths = {
        f"{name}_dir": f"{base}/{name}"
        for name in ("cleaned", "tokenizer", "dataset", "test_dataset")
    }
    values: dict[str, dict[str, Any]] = {
        "model": {"vocab_size": VOCABULARY, "max_position_embeddings": 32},
        "paths": paths,
        "dataset_prep": {"window": 16},
    }
    merged = {key: {**values.get(key, {}), **keys} for key, keys in {**values, **sections}.items()}
    return parse_config(merged, "small", base)


def write_cleaned(cleaned_dir: Path, stem: str, articles: Iterable[str], promised: int = 0) -> Path:
    """Cleaned text and marker of `articles`; `promised` puts another number into the marker."""
    path = text_path_of(cleaned_dir, stem)
    with atomic_write(path) as file:
        writer = ArticleWriter(file)
        for article in articles:
            writer.write_all([article.split("\n")])
    settings = CleanerSettings(
        min_characters=0, max_bad_share=0.0, limit_articles=None, drop_duplicate_texts=False
    )
    marker = CleanedMarker(
        cleaner_version=1,
        settings=settings,
        input_name=f"{stem}.jsonl",
        input_bytes=0,
        input_modified_ns=0,
        input_xxh128="",
        output_bytes=writer.size_bytes,
        output_sha256=writer.sha256,
        records=writer.articles,
        articles=promised or writer.articles,
        characters=writer.characters,
        dropped={},
        bad_lines={},
        rules={},
        truncated=False,
        duplicate_texts=0,
        cleaned_sha256=writer.sha256,
        pages_sha256="",
        duplicates_sha256=None,
        compared="",
    )
    write_marker(path, marker)
    return path
