"""What a dataset's report says of its tokens: lengths of articles, frequencies, vocabulary."""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from utils.reports.markup import (
    Html,
    bar_table,
    facts,
    format_share,
    join,
    section,
    spelled_out,
    tag,
    visible,
)
from utils.reports.svg_plots import Axis, Plot, percent
from utils.token_files import DatasetMetadata
from utils.token_statistics import (
    BIN_STARTS,
    Counts,
    LengthHistogram,
    TokenStatistics,
    bins_of,
)

FREQUENT_TOKENS = 40
RARE_COUNT = 100  # a token seen less often hardly learns its embedding
BARS_PER_DECADE = 20
PERCENTILES = {5: "5% under", 50: "median", 95: "95% under"}
CURVE_POINTS = 200
LONGEST_LABEL = 12  # characters of a piece in a plot
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_LINE_BREAK_PIECE = "<0x0A>"

PieceOf = Callable[[int], str]


def lengths_section(metadata: DatasetMetadata, statistics: TokenStatistics) -> Html:
    return section(
        "Lengths of articles",
        tag(
            "div",
            _lengths_figure(statistics.characters, "characters"),
            _lengths_figure(statistics.tokens, "tokens", metadata.window),
            class_="columns plots",
        ),
    )


def tokens_section(
    metadata: DatasetMetadata, statistics: TokenStatistics, piece_of: PieceOf
) -> Html:
    counts = statistics.token_counts
    pieces = [piece_of(token_id) for token_id in range(metadata.vocab_size)]
    order = np.argsort(-counts, kind="stable")  # of equals, the lower id first
    order = order[: np.count_nonzero(counts)]
    frequent = order[:FREQUENT_TOKENS].tolist()
    half = -(-len(frequent) // 2)
    total = max(int(counts.sum()), 1)
    rows = [(_piece(pieces[i]), int(counts[i]), int(counts[i]) / total) for i in frequent]
    longest = rows[0][2] if rows else None
    return section(
        "Tokens",
        tag("p", "Of the text alone: the <s> and </s> around each article are not counted here."),
        tag(
            "div",
            _frequency_figure(counts[order], [pieces[i] for i in order.tolist()]),
            _vocabulary(metadata, counts, pieces),
            class_="columns",
        ),
        tag("h3", "Most frequent tokens"),
        tag("p", "▁ is the space before a word; <0x0A> is a byte, spelled out where it can be."),
        tag(
            "div",
            bar_table(rows[:half], longest),
            bar_table(rows[half:], longest),
            class_="columns",
        ),
    )


def _lengths_figure(lengths: LengthHistogram, unit: str, window: int | None = None) -> Html:
    low, high = max(lengths.smallest, 1) / 1.1, max(lengths.largest, 10) * 1.1
    edges, shares, counts = plotted_histogram(lengths)
    plot = Plot(
        f"Histogram of the lengths of articles in {unit}",
        Axis(f"length of an article in {unit}", low, high, is_log=True),
        Axis("share of the articles", 0, 1.05 * max(shares), format_tick=percent),
    )
    hints = [
        f"{left:,} to {right - 1:,} {unit}: {count:,} articles"
        for (left, right), count in zip(pairwise(edges), counts, strict=True)
    ]
    plot.bars(edges, shares, hints)
    for percentile, name in PERCENTILES.items():
        length = lengths.percentile(percentile)
        plot.mark(length, f"{name} {_about(length):,}")
    if window is not None and low < window < high:
        plot.mark(window, f"window {window:,}")
    summary = (
        f"Shortest {lengths.smallest:,}, mean {lengths.mean:,.0f}, longest {lengths.largest:,}"
        f" {unit}."
    )
    return tag("figure", plot.render(), tag("figcaption", summary))


def plotted_histogram(lengths: LengthHistogram) -> tuple[list[int], list[float], list[int]]:
    """Bars about 1 / BARS_PER_DECADE of a decade wide: edges (bars + 1,), shares and counts.

    Lengths are whole, so bars cannot all have that width; a share is what a bar of just that
    width would hold. Empty articles are in the first bar.
    """
    first = math.floor(math.log10(max(lengths.smallest, 1)) * BARS_PER_DECADE)
    last = math.ceil(math.log10(lengths.largest + 1) * BARS_PER_DECADE)
    ideal = 10 ** (np.arange(first - 1, max(last, 1) + 1) / BARS_PER_DECADE)
    bins = np.unique(bins_of(np.ceil(ideal).astype(np.int64) - 1) + 1)  # that start there or above
    edges = BIN_STARTS[bins]
    before = np.concatenate([[0], np.cumsum(lengths.counts)])[bins]
    before[0] = 0
    counts = np.diff(before)
    widths = np.diff(np.log10(edges)) * BARS_PER_DECADE
    shares = counts / widths / max(lengths.count, 1)
    return edges.tolist(), shares.tolist(), counts.tolist()


def _about(length: int) -> int:
    """Three digits: a percentile is not known better."""
    return round(length, 3 - len(str(length)))


def _frequency_figure(counts: Counts, pieces: Sequence[str]) -> Html:
    """`counts` of the tokens that occur, descending, and their pieces."""
    tokens, total = len(counts), int(counts.sum())
    plot = Plot(
        "How often each token occurs, by rank",
        Axis("rank of the token", 1, _power_above(tokens), is_log=True),
        Axis("times in the text", 1, _power_above(counts.max(initial=1)), is_log=True),
    )
    spread = np.geomspace(1, max(tokens, 1), CURVE_POINTS).round().astype(int)
    ranks = np.unique(spread)[:tokens].tolist()
    plot.line([(rank, int(counts[rank - 1])) for rank in ranks], "the tokens of this dataset")
    zipf = total / (1 / np.arange(1, tokens + 1)).sum() if tokens else 1.0
    law = [(rank, zipf / rank) for rank in ranks if zipf / rank >= 1]
    plot.line(law, "Zipf's law: 1 / rank, as many in all")
    for rank in (10**power for power in range(6)):
        if rank <= tokens:
            label = spelled_out(pieces[rank - 1])
            cut = label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
            plot.point(rank, int(counts[rank - 1]), cut)
    return tag("figure", plot.render())


def _power_above(value: float) -> float:
    return 10.0 ** max(math.ceil(math.log10(max(value, 1))), 1)


def _vocabulary(metadata: DatasetMetadata, counts: Counts, pieces: Sequence[str]) -> Html:
    total = max(int(counts.sum()), 1)
    is_byte = np.array([bool(_BYTE_PIECE.fullmatch(piece)) for piece in pieces])
    is_line_break = np.array([piece == _LINE_BREAK_PIECE for piece in pieces])
    is_text = np.ones(len(counts), bool)
    is_text[[metadata.bos_token_id, metadata.eos_token_id, metadata.unk_token_id]] = False
    cumulated = np.cumsum(np.sort(counts)[::-1])

    def occurring(count: int) -> str:
        return f"{count:,} ({format_share(count / total)})"

    def of_vocabulary(chosen: NDArray[np.bool_]) -> str:
        count = int((chosen & is_text).sum())
        return f"{count:,} ({format_share(count / max(int(is_text.sum()), 1))})"

    def cover(percentage: int) -> str:
        needed = int(np.searchsorted(cumulated, total * percentage / 100)) + 1
        return f"the {min(needed, len(counts)):,} most frequent tokens"

    return facts(
        [
            ("tokens of text", f"{int(counts.sum()):,}"),
            ("unknown tokens", occurring(metadata.unknown_tokens)),
            ("line breaks", occurring(int(counts[is_line_break].sum()))),
            ("other byte tokens", occurring(int(counts[is_byte & ~is_line_break].sum()))),
            ("half of the text", cover(50)),
            ("99% of the text", cover(99)),
            ("vocabulary", f"{metadata.vocab_size:,}"),
            ("never used", of_vocabulary(counts == 0)),
            (f"used less than {RARE_COUNT} times", of_vocabulary(counts < RARE_COUNT)),
        ]
    )


def _piece(piece: str) -> Html:
    """A piece for reading; a byte that is a character of ASCII with the character."""
    shown = tag("code", visible(piece))
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte and int(byte[1], 16) < 0x80:
        return join([shown, " ", tag("code", visible(chr(int(byte[1], 16))))])
    return shown
