"""What is said about generated text: statistics, the comparison of models, and JSON."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from utils.chat.columns import fits
from utils.chat.completion import Completion
from utils.chat.menus import aligned
from utils.chat.models import LoadedModel
from utils.sampling import Sampling
from utils.terminal import emit, printable, say

_ENDINGS = {
    "end": "ended with </s>",
    "length": "reached the maximum length",
    "stopped": "stopped",
}
_NEEDED_COLUMNS = 4  # of the summary, however narrow the terminal


@dataclass(frozen=True)
class Result:
    """What one model made of one prompt."""

    model: LoadedModel
    prompt: str
    sampling: Sampling
    completions: Sequence[Completion]

    @property
    def label(self) -> str:
        return self.model.label

    @property
    def tokens(self) -> int:
        """Generated tokens of all samples, neither prompt nor padding."""
        return sum(completion.tokens for completion in self.completions)

    @property
    def seconds(self) -> float:
        """Samples are generated together."""
        return self.completions[0].seconds

    @property
    def first_token_seconds(self) -> float | None:
        return self.completions[0].first_token_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.tokens else 0.0

    @property
    def mean_log_probability(self) -> float | None:
        """Of a token, over all samples; None where there is none."""
        total = sum(completion.log_probability for completion in self.completions)
        return total / self.tokens if self.tokens else None

    @property
    def is_stopped(self) -> bool:
        return any(completion.finish == "stopped" for completion in self.completions)

    @property
    def ending(self) -> str:
        """Why there is no more of it."""
        if len(self.completions) == 1:
            return _ENDINGS[self.completions[0].finish]
        ended = sum(completion.finish == "end" for completion in self.completions)
        return (
            "stopped" if self.is_stopped else f"{ended} of {len(self.completions)} ended with </s>"
        )


def emit_json(result: Result) -> None:
    """One line of JSON per sample: what it takes to use it, and to generate it again."""
    for completion in result.completions:
        values = {
            "checkpoint": str(result.model.path),
            "step": result.model.step,
            "quantize": result.model.quantize,
            "prompt": result.prompt,
            "text": completion.text,
            "finish": completion.finish,
            "tokens": completion.tokens,
            "seconds": round(completion.seconds, 6),
            "time_to_first_token_seconds": _rounded(completion.first_token_seconds),
            "tokens_per_second": round(completion.tokens / max(completion.seconds, 1e-9), 3),
            "mean_log_probability": _rounded(completion.mean_log_probability),
            "window_restarts": completion.restarts,
            "max_length": result.sampling.max_length,
            "temperature": result.sampling.temperature,
            "top_k": result.sampling.top_k,
            "top_p": result.sampling.top_p,
            "seed": completion.seed,
        }
        emit(json.dumps(values, ensure_ascii=False))


def say_statistics(result: Result) -> None:
    """Tokens, time and speed, how likely it was, how it ended, and the seed to repeat it."""
    speed = f"{result.tokens:,} tokens in {result.seconds:.2f} s"
    facts = []
    if result.first_token_seconds is not None and result.mean_log_probability is not None:
        speed += f", {result.tokens_per_second:,.1f} tokens/s"
        speed += f", first token after {_short_time(result.first_token_seconds)}"
        likely = f"mean log-probability {result.mean_log_probability:.3f}"
        facts.append(f"{likely} (perplexity {_perplexity(result.mean_log_probability)})")
    facts += [result.ending, f"seed {result.sampling.seed}"]
    say(f"{speed}\n{'; '.join(facts)}", "dim")
    say_restarts([result])


def say_restarts(results: Sequence[Result]) -> None:
    """A line for each model whose window was filled, by however many samples."""
    for result in results:
        full = [completion.restarts for completion in result.completions if completion.restarts]
        if full:
            whose = f"{printable(result.label)}: " if len(results) > 1 else ""
            often = f" {full[0]:,} times" if full[0] > 1 else ""
            if (samples := len(result.completions)) > 1:
                often = f" in {len(full)} of {samples} samples"
            say(
                f"{whose}the window of {result.model.window:,} tokens was full{often}: generation"
                " went on from its last half",
                "yellow",
            )


def say_summary(results: Sequence[Result]) -> None:
    """All models under each other, and the best of them in each respect."""
    say(f"\nComparison, seed {results[0].sampling.seed}", "bold")
    header, *lines = _summary_lines(results)
    say(header, "dim")
    for line in lines:
        say(line)
    if any(result.tokens for result in results):
        for line in aligned(_winners([r for r in results if r.tokens]), right=[]):
            say(f"  {line}", "green")


def _summary_lines(results: Sequence[Result]) -> list[str]:
    """The table's header and rows; the last columns are left out where the terminal is narrow."""
    names = ("tokens", "tokens/s", "log-prob", "seconds", "first token", "perplexity", "end")
    rows: list[Sequence[str]] = [("model", *names)]
    for result in results:
        first, likely = result.first_token_seconds, result.mean_log_probability
        rows.append(
            (
                result.label,
                f"{result.tokens:,}",
                f"{result.tokens_per_second:,.1f}",
                "-" if likely is None else f"{likely:.3f}",
                f"{result.seconds:.2f}",
                "-" if first is None else _short_time(first),
                "-" if likely is None else _perplexity(likely),
                result.ending,
            )
        )
    numbers = range(1, len(names))
    for shown in range(len(rows[0]), _NEEDED_COLUMNS - 1, -1):
        lines = [f"  {line}" for line in aligned([row[:shown] for row in rows], right=numbers)]
        if all(map(fits, lines)):
            break
    return lines


def _winners(results: Sequence[Result]) -> list[list[str]]:
    """The best in each respect; who was first or said most is not known of stopped texts."""

    def best(of: Callable[[Result], float]) -> Result:
        return max(results, key=of)

    fastest = best(lambda r: -r.seconds)
    longest = best(lambda r: r.tokens)
    quickest = best(lambda r: r.tokens_per_second)
    likeliest = best(_likelihood)
    all_alike = len({result.tokens for result in results}) == 1
    lengths = [
        ["fastest", fastest.label, f"{fastest.seconds:.2f} s"],
        ["most tokens", "all alike" if all_alike else longest.label, f"{longest.tokens:,}"],
    ]
    return [
        *([] if any(result.is_stopped for result in results) else lengths),
        ["highest speed", quickest.label, f"{quickest.tokens_per_second:,.1f} tokens/s"],
        ["best log-prob", likeliest.label, f"{_likelihood(likeliest):.3f}"],
    ]


def _likelihood(result: Result) -> float:
    mean = result.mean_log_probability
    return -math.inf if mean is None or math.isnan(mean) else mean


def _perplexity(mean_log_probability: float) -> str:
    """exp of the negative mean, for people."""
    try:
        perplexity = math.exp(-mean_log_probability)
    except OverflowError:
        return "over 1e308"
    return f"{perplexity:,.1f}" if perplexity < 1e6 else f"{perplexity:.1e}"


def _short_time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def _rounded(value: float | None) -> float | None:
    """For JSON, which has no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, 6)
