"""Text in, text out: the generation engine with a tokenizer around it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from utils.device import memory_errors
from utils.generation import Engine, Step
from utils.sampling import Sampling, seeds_of_rows

_UNFINISHED = "\ufffd"  # how a tokenizer shows bytes that are no whole character
_CHARACTER_BYTES = 4  # at most, in UTF-8


class TextCodec(Protocol):
    """What is needed of a tokenizer; tokenizer.py has it."""

    bos_id: int
    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


@dataclass(frozen=True)
class Completion:
    """What one row of a generation said, without its prompt.

    `tokens` counts what was drawn, a closing </s> included; `finish` says why it is no longer.
    Times are of the whole batch, from before the prompt was read. `log_probability` is the sum
    over the tokens, natural, under the model's own distribution: neither temperature nor top-k
    and top-p have a part in it. `restarts` counts how often the window was full.
    """

    text: str
    tokens: int
    seconds: float
    first_token_seconds: float | None
    log_probability: float
    restarts: int
    finish: Literal["end", "length", "stopped"]
    seed: int

    @property
    def mean_log_probability(self) -> float | None:
        """Of a token; None where there is none."""
        return self.log_probability / self.tokens if self.tokens else None


class TextStream:
    """Turns ids into text as they come; a character of several byte tokens comes when complete.

    Each piece is decoded behind the same ordinary token: a decoder drops the space before the
    first token it sees, which is right only at the start of a document, and one bad byte would
    spoil the good ones beside it.
    """

    def __init__(self, codec: TextCodec, at_start: bool) -> None:
        self._codec = codec
        self._at_start = at_start
        self._anchor = codec.encode("a")
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is certain now: often one piece, sometimes nothing yet."""
        self._pending.append(token_id)
        text = self._decoded()
        if text.endswith(_UNFINISHED) and len(self._pending) < _CHARACTER_BYTES:
            return ""
        self._pending.clear()
        self._at_start = self._at_start and not text
        return text

    def finish(self) -> str:
        """What was held back and will not be completed."""
        text = self._decoded()
        self._pending.clear()
        return text

    def _decoded(self) -> str:
        anchor = [] if self._at_start else self._anchor
        text = self._codec.decode([*anchor, *self._pending])
        return text[len(self._codec.decode(anchor)) :]


class _Row:
    """One row of a batch while it grows."""

    def __init__(self, codec: TextCodec, at_start: bool) -> None:
        self.eos_id = codec.eos_id
        self.stream = TextStream(codec, at_start)
        self.pieces: list[str] = []
        self.tokens = 0
        self.log_probability = 0.0
        self.restarts = 0
        self.has_ended = False

    def push(self, token_id: int, log_probability: float, has_restarted: bool) -> str:
        """Take the next id; returns the text it adds. What follows </s> is padding."""
        if self.has_ended:
            return ""
        self.tokens += 1
        self.log_probability += log_probability
        self.restarts += has_restarted
        self.has_ended = token_id == self.eos_id
        self.pieces.append(self.stream.finish() if self.has_ended else self.stream.push(token_id))
        return self.pieces[-1]

    def finish(self) -> str:
        """The text held back; every piece is then complete."""
        self.pieces.append(self.stream.finish())
        return self.pieces[-1]


class TextGeneration:
    """One prompt being continued `samples` times in one batch; sample i draws from seed + i.

    `step` is called until it returns None, or `stop`; then `completions` has the results. Only
    the time inside `clock` counts as the model's, so that several can take turns.
    """

    def __init__(
        self,
        engine: Engine,
        codec: TextCodec,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        samples: int,
    ) -> None:
        assert sampling.seed is not None, "a seed that can be shown"
        self.is_over = False
        self._device = engine.model.device
        self._seeds = seeds_of_rows(sampling.seed, samples)
        self._rows = [_Row(codec, at_start=len(prompt_ids) == 1) for _ in range(samples)]
        self._steps: Iterator[Step] = engine.generate([prompt_ids] * samples, sampling)
        self._reason: Literal["length", "stopped"] = "length"
        self._seconds = self._turn_began = 0.0
        self._first_token_seconds: float | None = None

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Count the time of this block; memory that runs out in it is a DeviceError.

        A GPU has begun the next step by then: it is waited for, for it is this model's time.
        """
        self._turn_began = time.perf_counter()
        try:
            with memory_errors("generating", "Generate fewer tokens or samples at once."):
                yield
                if self._device.type == "cuda" and not self.is_over:
                    torch.cuda.synchronize(self._device)
        finally:
            self._seconds += time.perf_counter() - self._turn_began

    def step(self) -> str | None:
        """A token more of each sample: the text that it adds to the first, None after the last."""
        if self.is_over:
            return None
        step = next(self._steps, None)
        if step is None:
            return self._finish() or None
        if self._first_token_seconds is None:
            self._first_token_seconds = self._seconds + time.perf_counter() - self._turn_began
        added = [
            row.push(token_id, log_probability, number in step.restarted)
            for number, (row, token_id, log_probability) in enumerate(
                zip(self._rows, step.token_ids, step.log_probabilities, strict=True)
            )
        ]
        return added[0]

    def stop(self) -> str:
        """End it here; returns what was held back of the first sample's text."""
        if not self.is_over:
            self._reason = "stopped"
            return self._finish()
        return ""

    def completions(self) -> list[Completion]:
        """What was said, sample by sample."""
        assert self.is_over, "completions before the end"
        return [
            Completion(
                "".join(row.pieces),
                row.tokens,
                self._seconds,
                self._first_token_seconds,
                row.log_probability,
                row.restarts,
                "end" if row.has_ended else self._reason,
                seed,
            )
            for row, seed in zip(self._rows, self._seeds, strict=True)
        ]

    def _finish(self) -> str:
        self.is_over = True
        self._steps = iter(())  # lets go of what the engine holds for it
        rest = [row.finish() for row in self._rows]
        return rest[0]


def complete(
    engine: Engine,
    codec: TextCodec,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    samples: int,
    on_step: Callable[[str], None],
) -> list[Completion]:
    """Continue one prompt `samples` times in one batch; sample i draws from `sampling.seed` + i.

    `on_step` is called after each token, with the text that it adds to the first sample, and once
    at the end if text was held back. Ctrl-C ends the generation and what there is is returned,
    with `finish` "stopped". Raises DeviceError when memory runs out.
    """
    generation = TextGeneration(engine, codec, prompt_ids, sampling, samples)
    try:
        with generation.clock():
            while (text := generation.step()) is not None:
                on_step(text)
    except KeyboardInterrupt:
        if rest := generation.stop():
            on_step(rest)
    return generation.completions()
