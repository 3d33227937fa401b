"""What is said about generated text: statistics, the comparison of models, and JSON."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.chat.completion import Completion
from utils.chat.menus import aligned
from utils.generation import Sampling
from utils.terminal import Progress, emit, printable, say, style

# Generates, calling its argument after each token with the text that it adds to the first sample.
Generation = Callable[[Callable[[str], None]], list[Completion]]

_ENDINGS = {
    "end": "ended with </s>",
    "length": "reached the maximum length",
    "stopped": "stopped",
}


@dataclass(frozen=True)
class Result:
    """What one model made of one prompt."""

    label: str
    path: Path
    step: int | None
    prompt: str
    sampling: Sampling
    completions: Sequence[Completion]

    @property
    def tokens(self) -> int:
        """Generated tokens of all samples, neither prompt nor padding."""
        return sum(completion.tokens for completion in self.completions)

    @property
    def seconds(self) -> float:
        """Samples are generated together."""
        return self.completions[0].seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.tokens else 0.0

    @property
    def is_stopped(self) -> bool:
        return any(completion.finish == "stopped" for completion in self.completions)


def emit_text(text: str, *styles: str, end: str = "\n") -> None:
    """Text on stdout: as it is for programs, without control characters for a terminal."""
    if sys.stdout.isatty():
        text = style(printable(text), *styles, stream=sys.stdout)
    emit(text, end)


def run_shown(run: Generation, prompt: str, max_length: int, samples: int) -> list[Completion]:
    """Generate and emit texts with their prompt: one as it grows, several when they are done."""
    if samples == 1:
        emit_text(prompt, "bold", end="")
        completions = run(lambda text: emit_text(text, end=""))
        emit()
        return completions
    completions = run_quietly(run, max_length)
    for number, completion in enumerate(completions, start=1):
        if number > 1:
            emit()
        say(f"sample {number}, seed {completion.seed}", "dim")
        emit_text(prompt, "bold", end="")
        emit_text(completion.text)
    return completions


def run_quietly(run: Generation, max_length: int) -> list[Completion]:
    """Generate, showing only progress."""
    with Progress("Generating", max_length, "tokens") as progress:
        return run(lambda _: progress.advance())


def emit_json(result: Result) -> None:
    """One line of JSON per sample: what it takes to use it, and to generate it again."""
    for completion in result.completions:
        values = {
            "checkpoint": str(result.path),
            "step": result.step,
            "prompt": result.prompt,
            "text": completion.text,
            "finish": completion.finish,
            "tokens": completion.tokens,
            "seconds": round(completion.seconds, 6),
            "tokens_per_second": round(completion.tokens / max(completion.seconds, 1e-9), 3),
            "max_length": result.sampling.max_length,
            "temperature": result.sampling.temperature,
            "top_k": result.sampling.top_k,
            "top_p": result.sampling.top_p,
            "seed": completion.seed,
        }
        emit(json.dumps(values, ensure_ascii=False))


def say_statistics(result: Result) -> None:
    """Tokens, time and speed, how it ended, and the seed to generate it again."""
    completions = result.completions
    ending = _ENDINGS[completions[0].finish]
    if len(completions) > 1:
        ended = sum(completion.finish == "end" for completion in completions)
        ending = (
            "stopped" if result.is_stopped else f"{ended} of {len(completions)} ended with </s>"
        )
    say(
        f"{result.tokens:,} tokens in {result.seconds:.2f} s,"
        f" {result.tokens_per_second:,.1f} tokens/s; {ending}; seed {result.sampling.seed}",
        "dim",
    )


def say_summary(results: Sequence[Result]) -> None:
    """All models under each other, and which was fastest, said most, and had the highest speed."""
    rows = [["model", "tokens", "seconds", "tokens/s"]]
    rows += [
        [r.label, f"{r.tokens:,}", f"{r.seconds:.2f}", f"{r.tokens_per_second:,.1f}"]
        for r in results
    ]
    header, *lines = aligned(rows, right=[1, 2, 3])
    say("\nComparison", "bold")
    say(f"  {header}", "dim")
    for line in lines:
        say(f"  {line}")
    fastest = min(results, key=lambda r: r.seconds)
    longest = max(results, key=lambda r: r.tokens)
    quickest = max(results, key=lambda r: r.tokens_per_second)
    all_alike = len({r.tokens for r in results}) == 1
    winners = [
        ["fastest", fastest.label, f"{fastest.seconds:.2f} s"],
        ["most tokens", "all alike" if all_alike else longest.label, f"{longest.tokens:,}"],
        ["highest speed", quickest.label, f"{quickest.tokens_per_second:,.1f} tokens/s"],
    ]
    for line in aligned(winners, right=[]):
        say(f"  {line}", "green")
