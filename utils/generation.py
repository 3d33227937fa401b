"""Text generation on token ids: the one engine behind model.generate, Inference.py and the server.

A prompt is read in one pass (prefill), then tokens follow one by one, each attending to a static
key/value cache (utils/generating/readers.py); on a GPU both are recorded as CUDA graphs. When a row
has filled all positions of the model, the last half of its tokens is read again and generation goes
on from there; a prompt longer than the window begins so. Strings and tokenizers never appear here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import CheckpointError, UsageError
from utils.generating.context import Context, readable
from utils.generating.readers import (
    CachedReader,
    RecomputingReader,
    RecordedReader,
    recorded_lengths,
)
from utils.inference_model import InferenceModel
from utils.sampling import Sampling, draw, random_keys, seeds_of_rows

NEVER = -1  # as an `eos_id`: no token has it, so only their length ends texts

_Reader = RecomputingReader | CachedReader


class Step(NamedTuple):
    """One token of every row."""

    token_ids: list[int]  # the padding id behind a row's </s>
    log_probabilities: list[float]  # of each by the model alone, at temperature 1; 0 for padding
    restarted: list[int]  # rows whose window was full: this token saw its last half alone


class Engine:
    """Continues prompts with one model, one caller at a time.

    A row is continued as it would be alone, but for rounding: on a GPU, products of many rows and
    of few add up in another order, which in bf16 can tell between two tokens.
    What it prepared for a number of rows is kept until another number comes.
    """

    def __init__(
        self, model: InferenceModel, eos_id: int, pad_id: int, uses_graphs: bool = True
    ) -> None:
        self.model, self.eos_id, self.pad_id = model, eos_id, pad_id
        self._uses_graphs = uses_graphs and model.device.type == "cuda"
        self.looks_ahead = model.device.type == "cuda"  # computes a step while one is looked at
        self._idle: RecordedReader | None = None  # of the last number of rows

    def readable(self, tokens: int) -> int:
        """How many of the last of so many tokens the model reads at once."""
        return readable(tokens, self.model.max_positions)

    def warm_up(self, rows: int = 1) -> None:
        """Prepare for prompts of so many rows, so that the first answer is as fast as the next."""
        lengths = recorded_lengths(self.model.max_positions) if self._uses_graphs else [1]
        for tokens in lengths:
            list(self.generate([[0] * tokens] * rows, Sampling(2, 1.0, 50, 0.95, seed=0)))

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Step]:
        """Continue each prompt; yield the next token of every row, step by step.

        Ends when all rows have said </s> or after `max_length` steps. On a GPU the next step is
        computed while the caller looks at this one. Raises UsageError for a prompt without tokens
        or with unknown ones, and CheckpointError where scores are no numbers.
        """
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise UsageError("a prompt has no tokens", "Begin it with <s>, as every document does.")
        vocabulary = self.model.config.model.vocab_size
        if not all(min(prompt) >= 0 and max(prompt) < vocabulary for prompt in prompts):
            raise UsageError(f"a prompt has ids that are not from 0 to {vocabulary - 1}")
        if sampling.max_length == 0:
            return
        context = Context(self.model, prompts)
        reader = self._take_reader(context, sampling.max_length)
        try:
            yield from self._steps(context, reader, sampling)
        finally:
            if isinstance(reader, RecordedReader):
                self._idle = reader

    def _steps(self, context: Context, reader: _Reader, sampling: Sampling) -> Iterator[Step]:
        device = self.model.device
        keys = random_keys(seeds_of_rows(sampling.seed, context.rows), device)
        is_ended = torch.zeros(context.rows, dtype=torch.bool, device=device)
        ended: set[int] = set()
        logits, restarted = reader.read(context), list[int]()
        for number in range(sampling.max_length):
            token_ids, log_probabilities = draw(logits, sampling, keys, number)
            token_ids = token_ids.masked_fill(is_ended, self.pad_id)
            log_probabilities = log_probabilities.masked_fill(is_ended, 0.0)
            is_ended = is_ended | (token_ids == self.eos_id)
            arriving = _Arriving(token_ids, log_probabilities)
            is_last = number + 1 == sampling.max_length
            restarts: list[int] = []
            if self.looks_ahead and not is_last:  # starts before the host waits
                logits, restarts = self._append(context, reader, token_ids, ended)
            step = Step(*arriving.wait(), restarted)
            if not all(map(math.isfinite, step.log_probabilities)):
                raise CheckpointError(
                    "the model's scores of the next token are no finite numbers",
                    "Its weights are broken, or too large for the type they are computed in.",
                )
            yield step
            ended |= {row for row, ident in enumerate(step.token_ids) if ident == self.eos_id}
            if is_last or len(ended) == context.rows:
                return
            if not self.looks_ahead:
                logits, restarts = self._append(context, reader, token_ids, ended)
            restarted = restarts

    @staticmethod
    def _append(
        context: Context, reader: _Reader, token_ids: Tensor, ended: set[int]
    ) -> tuple[Tensor, list[int]]:
        """The logits behind one more token of every row, and the rows that were read afresh."""
        full = context.append(token_ids)
        restarted = [row for row in full if row not in ended]
        return reader.append(context, token_ids, bool(full), restarted), restarted

    def _take_reader(self, context: Context, max_length: int) -> _Reader:
        if not self.model.config.model.use_cache:
            return RecomputingReader(self.model)
        if not self._uses_graphs:
            capacity = min(context.limit, max(context.seen) + max_length)
            return CachedReader(self.model, context.rows, capacity)
        idle, self._idle = self._idle, None
        if idle is not None and len(idle.token_ids) == context.rows:
            return idle
        del idle  # its memory may be needed
        return RecordedReader(self.model, context.rows, context.limit)


class _Arriving:
    """Token ids and log-probabilities (rows,) on their way to the host."""

    def __init__(self, token_ids: Tensor, log_probabilities: Tensor) -> None:
        values = torch.stack([token_ids.double(), log_probabilities.double()])
        self._values = values
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> tuple[list[int], list[float]]:
        if self._event is not None:
            self._event.synchronize()
        token_ids, log_probabilities = self._values.tolist()
        return [int(ident) for ident in token_ids], log_probabilities
