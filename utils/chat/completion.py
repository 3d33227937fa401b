"""Text in, text out: the generation engine with a tokenizer around it."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from utils.device import memory_errors
from utils.errors import UsageError
from utils.generation import CausalModel, Sampling, generate

STANDARD_INPUT = Path("-")
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
    `seconds` is the time of the whole batch, from reading the prompt to the last token.
    """

    text: str
    tokens: int
    seconds: float
    finish: Literal["end", "length", "stopped"]
    seed: int


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
        self.has_ended = False

    def push(self, token_id: int) -> str:
        """Take the next id; returns the text it adds. What follows </s> is padding."""
        if self.has_ended:
            return ""
        self.tokens += 1
        self.has_ended = token_id == self.eos_id
        self.pieces.append(self.stream.finish() if self.has_ended else self.stream.push(token_id))
        return self.pieces[-1]

    def finish(self) -> str:
        """The text held back; every piece is then complete."""
        self.pieces.append(self.stream.finish())
        return self.pieces[-1]


def read_prompt(path: Path) -> str:
    """The prompt in a file, or on standard input for "-", less the newline at its end."""
    if path == STANDARD_INPUT:
        name, content = "standard input", sys.stdin.buffer.read()
        if not content:
            raise UsageError("there is no prompt: standard input is empty", "Give --prompt TEXT.")
    else:
        name, content = str(path), path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: the prompt is not UTF-8 text (byte {error.start})") from None
    return text.removesuffix("\n").removesuffix("\r")


def encode_prompt(codec: TextCodec, prompt: str) -> list[int]:
    """A prompt's ids, behind <s>, as every document of the training data begins."""
    return [codec.bos_id, *codec.encode(prompt)]


def complete(
    model: CausalModel,
    codec: TextCodec,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    samples: int,
    use_cache: bool,
    on_step: Callable[[str], None],
) -> list[Completion]:
    """Continue one prompt `samples` times in one batch; sample i draws from `sampling.seed` + i.

    `on_step` is called after each token, with the text that it adds to the first sample. Ctrl-C
    ends the generation and what there is is returned, with `finish` "stopped". Raises DeviceError
    when memory runs out.
    """
    assert sampling.seed is not None, "a seed that can be shown"
    rows = [_Row(codec, at_start=len(prompt_ids) == 1) for _ in range(samples)]
    reason: Literal["length", "stopped"] = "length"
    began = time.perf_counter()
    try:
        with memory_errors("generating", "Generate fewer tokens or samples at once."):
            prompts = [torch.tensor(prompt_ids, device=model.device)] * samples
            steps = generate(model, prompts, sampling, codec.eos_id, codec.pad_id, use_cache)
            for step in steps:
                added = [row.push(i) for row, i in zip(rows, step.tolist(), strict=True)]
                on_step(added[0])
    except KeyboardInterrupt:
        reason = "stopped"
    seconds = time.perf_counter() - began
    rest = [row.finish() for row in rows]
    if rest[0]:
        on_step(rest[0])
    return [
        Completion(
            "".join(row.pieces),
            row.tokens,
            seconds,
            "end" if row.has_ended else reason,
            sampling.seed + number,
        )
        for number, row in enumerate(rows)
    ]
