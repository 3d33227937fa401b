"""report.html of a dataset: what is in it, what it was made of, and how it reads."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from utils.articles import CleanedMarker, stem_of
from utils.cleaning.duplicates.comparison import DUPLICATE_TEXT, OLDER_COPY
from utils.files import atomic_write, format_bytes
from utils.reports.markup import (
    REPORT_NAME,
    Html,
    bar_table,
    facts,
    format_share,
    page,
    section,
    spelled_out,
    table,
    tag,
    tiles,
    visible,
)
from utils.reports.token_sections import lengths_section, tokens_section
from utils.reports.window_samples import windows_section
from utils.token_files import DatasetMetadata, TokenFile
from utils.token_statistics import TokenStatistics

_BLANK = "blank"  # the kind of a bad line that was none


def write_report(
    dataset_dir: Path,
    metadata: DatasetMetadata,
    statistics: TokenStatistics,
    markers: Mapping[Path, CleanedMarker],
    decode: Callable[[Sequence[int]], str],
    piece_of: Callable[[int], str],
) -> Path:
    """Write report.html into the dataset's folder and return its path.

    `statistics` are of all files together; `markers` are those of the cleaned texts, by path, and
    may hold more. `decode` makes text of ids, and `piece_of` names one: "▁the", "<0x0A>". The same
    dataset makes the same bytes. Raises DatasetError if a file of tokens is not the one it was.
    """
    counted = (statistics.articles, statistics.characters.total, statistics.tokens.total)
    assert counted == (metadata.articles, metadata.characters, metadata.text_tokens)
    stems = {file.stem for file in metadata.files}
    used = [marker for path, marker in markers.items() if stem_of(path) in stems]
    name = dataset_dir.absolute().name
    text = page(
        f"{spelled_out(name)}: dataset report",
        tag("header", tag("p", "Dataset report"), tag("h1", visible(name))),
        _totals(metadata),
        lengths_section(metadata, statistics),
        tokens_section(metadata, statistics, piece_of),
        _making(metadata, used),
        _cleaning(metadata, used),
        _files(metadata),
        windows_section(dataset_dir, metadata, decode),
    )
    path = dataset_dir / REPORT_NAME
    with atomic_write(path) as file:
        file.write(text.encode())
    return path


def _totals(metadata: DatasetMetadata) -> Html:
    return tiles(
        {
            "files": f"{len(metadata.files):,}",
            "articles": f"{metadata.articles:,}",
            "tokens": f"{metadata.tokens:,}",
            "windows": f"{metadata.windows:,}",
            "characters per token": f"{metadata.characters_per_token:.2f}",
            "bytes per token": f"{metadata.bytes_per_token:.2f}",
            "text": format_bytes(metadata.utf8_bytes),
            "on disk": format_bytes(metadata.disk_bytes),
        }
    )


def _making(metadata: DatasetMetadata, markers: Sequence[CleanedMarker]) -> Html:
    rows: list[tuple[str, str]] = [
        ("window", f"{metadata.window:,} tokens"),
        ("stride", f"{metadata.stride:,} tokens from one window to the next"),
        ("stream", "<s> article </s>, article after article"),
        ("tokenizer", visible(metadata.tokenizer_name)),
        ("vocabulary", f"{metadata.vocab_size:,} tokens"),
        ("SHA-256 of tokenizer.json", metadata.tokenizer_sha256),
    ]
    for version, settings in sorted({(m.cleaner_version, m.settings) for m in markers}, key=repr):
        rows.append(("cleaner", f"version {version}"))
        for key, value in settings.model_dump().items():
            rows.append((f"cleaner.{key}", _setting(value)))
    rows.append(("fingerprint", metadata.fingerprint))
    return section("How it was made", facts(rows))


def _setting(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cleaning(metadata: DatasetMetadata, markers: Sequence[CleanedMarker]) -> Html:
    articles = sum(marker.articles for marker in markers)
    lines = Counter({"kept": articles})
    rules: Counter[str] = Counter()
    cleaned = articles  # before duplicates were dropped
    for marker in markers:
        lines.update(marker.dropped)
        lines.update(_unreadable(marker))
        rules.update(marker.rules)
        cleaned += sum(marker.dropped.get(reason, 0) for reason in (OLDER_COPY, DUPLICATE_TEXT))
    parts = [
        tag("div", tag("h3", heading), tag("p", note), bar_table(_ranked(counts, total)))
        for heading, note, counts, total in (
            ("Records", "What became of the lines of the raw files.", lines, lines.total()),
            (
                "Rules that fired",
                f"Articles that a rule changed, of all {cleaned:,} that were cleaned, dropped"
                " duplicates too.",
                rules,
                cleaned,
            ),
        )
    ]
    notes = []
    blank = sum(marker.bad_lines.get(_BLANK, 0) for marker in markers)
    if blank:
        notes.append(f"{blank:,} blank lines of the raw files are not counted.")
    repeated = sum(m.duplicate_texts for m in markers if not m.settings.drop_duplicate_texts)
    if repeated:
        notes.append(f"{repeated:,} of the kept articles have the text of an earlier one.")
    if articles != metadata.articles:
        notes.append(
            f"These are the cleaned files as a whole, {articles:,} articles; the dataset holds the"
            f" first {metadata.articles:,}."
        )
    return section(
        "Cleaning", *(tag("p", note) for note in notes), tag("div", *parts, class_="columns")
    )


def _unreadable(marker: CleanedMarker) -> dict[str, int]:
    """Lines that may have been articles; a blank one was none."""
    return {
        f"{kind} (unreadable)": count for kind, count in marker.bad_lines.items() if kind != _BLANK
    }


def _ranked(counts: Counter[str], total: int) -> list[tuple[str, int, float]]:
    """Most frequent first; of equals, in the order of the alphabet."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        (visible(name.replace("_", " ")), count, count / max(total, 1)) for name, count in ranked
    ]


def _files(metadata: DatasetMetadata) -> Html:
    header = ["file", "articles", "tokens", "characters per token", "unknown", "windows", "on disk"]

    def row(name: str, counted: DatasetMetadata | TokenFile) -> list[str]:
        text_tokens = max(counted.text_tokens, 1)
        return [
            name,
            f"{counted.articles:,}",
            f"{counted.tokens:,}",
            f"{counted.characters / text_tokens:.2f}",
            format_share(counted.unknown_tokens / text_tokens),
            f"{counted.windows:,}",
            format_bytes(counted.disk_bytes),
        ]

    rows = [row(visible(file.stem), file) for file in metadata.files]
    rows.append(row("all", metadata))
    return section("Files", table(header, rows, last_is_total=True))
