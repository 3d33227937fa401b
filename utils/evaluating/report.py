"""What is said of evaluated checkpoints: a table for people, JSON lines for programs."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.chat.menus import aligned
from utils.evaluation import Evaluation
from utils.terminal import emit, format_seconds, say, style, warn


@dataclass(frozen=True)
class Result:
    """What one checkpoint makes of the text, and what exactly was measured."""

    label: str
    path: Path
    step: int | None
    evaluation: Evaluation
    documents: int
    tokens: int  # scored, each once
    text_bytes: int  # that they stand for
    text: Path
    choice: str  # which of its documents
    window: int
    stride: int
    tokenizer_sha256: str
    quantize: str | None
    device: str
    seconds: float


def say_result(result: Result) -> None:
    """One line as soon as a checkpoint is done."""
    found = result.evaluation
    say(
        f"{result.label}: loss {found.loss:.4f}, perplexity {found.perplexity:,.2f},"
        f" {found.bits_per_byte:.4f} bits a byte; {result.tokens:,} tokens in"
        f" {format_seconds(result.seconds)}",
        "dim",
    )


def emit_json(result: Result) -> None:
    """One line of JSON; what is not finite is null."""
    found = result.evaluation
    values = {
        "checkpoint": str(result.path),
        "step": result.step,
        "loss": _finite(found.loss),
        "perplexity": _finite(found.perplexity),
        "bits_per_byte": _finite(found.bits_per_byte),
        "tokens": result.tokens,
        "bytes": result.text_bytes,
        "documents": result.documents,
        "text": str(result.text),
        "choice": result.choice,
        "window": result.window,
        "stride": result.stride,
        "quantize": result.quantize,
        "tokenizer_sha256": result.tokenizer_sha256,
        "device": result.device,
        "seconds": round(result.seconds, 3),
    }
    emit(json.dumps(values, ensure_ascii=False))


def emit_table(results: Sequence[Result]) -> None:
    """All checkpoints under each other; among several the best are marked."""
    rows = [["checkpoint", "step", "tokens", "bytes", "loss", "perplexity", "bits/byte", ""]]
    best = best_of(results)
    for result in results:
        found = result.evaluation
        rows.append(
            [
                result.label,
                "-" if result.step is None else f"{result.step:,}",
                f"{result.tokens:,}",
                f"{result.text_bytes:,}",
                f"{found.loss:.4f}",
                f"{found.perplexity:,.2f}",
                f"{found.bits_per_byte:.4f}",
                "best" if result in best else "",
            ]
        )
    header, *lines = aligned(rows, right=range(1, 7))
    emit(style(header, "dim", stream=sys.stdout))
    for result, line in zip(results, lines, strict=True):
        emit(style(line, *["green"] * (result in best), stream=sys.stdout))


def best_of(results: Sequence[Result]) -> list[Result]:
    """Those with the fewest bits a byte, which rank models of any tokenizers; none if alone.

    Several if they are equal, as a file under two names is.
    """
    fewest = min((_bits(r) for r in results), default=math.inf)
    return [r for r in results if _bits(r) == fewest < math.inf] if len(results) > 1 else []


def _bits(result: Result) -> float:
    """Bits a byte; infinitely many where there is no such number."""
    bits = result.evaluation.bits_per_byte
    return bits if math.isfinite(bits) else math.inf


def warn_of_differences(results: Sequence[Result]) -> None:
    """Say what in the table cannot be compared."""
    if len({result.tokenizer_sha256 for result in results}) > 1:
        warn(
            "these models have different tokenizers: their losses and perplexities are of different"
            " tokens and cannot be compared; bits per byte can"
        )
    choices = list(dict.fromkeys(result.choice for result in results))
    amounts = {(result.documents, result.text_bytes) for result in results}
    if len(choices) > 1:
        warn(f"these models were not evaluated on the same text: {'; '.join(choices)}")
    elif len(amounts) > 1:
        warn("these models were not evaluated on the same text: --max-tokens cut it differently")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
