"""Text generation on token ids: the one engine behind model.generate, Inference.py and the server.

A prompt is read in one pass (prefill), then tokens follow one by one, each attending to a static
key/value cache; on a GPU that step is a CUDA graph. When a row has filled all positions of the
model, the last half of its tokens is read again and generation goes on from there; a prompt longer
than the window begins so. Strings and tokenizers never appear here.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import UsageError
from utils.inference_model import InferenceModel, KeyValueCache
from utils.sampling import Sampling, draw, random_keys, seeds_of_rows

WARM_UP_STEPS = 3  # before a capture: kernels compile, libraries take their workspaces


class Step(NamedTuple):
    """One token of every row."""

    token_ids: list[int]  # the padding id behind a row's </s>
    log_probabilities: list[float]  # of each, by the model alone: temperature 1, all tokens
    restarted: list[int]  # rows whose window was full: this token saw its last half alone


class Engine:
    """Continues prompts with one model. What it prepared for a batch size is kept for the next."""

    def __init__(
        self, model: InferenceModel, eos_id: int, pad_id: int, uses_graphs: bool = True
    ) -> None:
        self.model, self.eos_id, self.pad_id = model, eos_id, pad_id
        self._uses_graphs = uses_graphs and model.device.type == "cuda"
        self._idle: dict[int, _CachedReader] = {}  # by rows; the last one

    def readable(self, tokens: int) -> int:
        """How many of the last of so many tokens the model reads at once."""
        return _readable(tokens, self.model.max_positions)

    def warm_up(self, rows: int = 1) -> None:
        """Prepare for prompts of so many rows, so that the first answer is as fast as the next."""
        list(self.generate([[0]] * rows, Sampling(2, 1.0, 1, 1.0, seed=0)))

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Step]:
        """Continue each prompt; yield the next token of every row, step by step.

        Ends when all rows have said </s> or after `max_length` steps. On a GPU the next step is
        computed while the caller looks at this one.
        """
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise UsageError("a prompt has no tokens", "Begin it with <s>, as every document does.")
        if sampling.max_length == 0:
            return
        context = _Context(self.model, prompts, sampling.max_length)
        reader = self._take_reader(context, sampling.max_length)
        try:
            yield from self._steps(context, reader, sampling)
        finally:
            if isinstance(reader, _CachedReader) and reader.graph is not None:
                self._idle = {len(prompts): reader}

    def _steps(self, context: "_Context", reader: "_Reader", sampling: Sampling) -> Iterator[Step]:
        device = self.model.device
        keys = random_keys(seeds_of_rows(sampling.seed, context.rows), device)
        is_ended = torch.zeros(context.rows, dtype=torch.bool, device=device)
        ended: set[int] = set()
        logits, restarted = reader.read(context, range(context.rows)), list[int]()
        for number in range(sampling.max_length):
            token_ids, log_probabilities = draw(logits, sampling, keys, number)
            token_ids = token_ids.masked_fill(is_ended, self.pad_id)
            is_ended = is_ended | (token_ids == self.eos_id)
            arriving = _Arriving(token_ids, log_probabilities)
            is_last = number + 1 == sampling.max_length
            restarts: list[int] = []
            if device.type == "cuda" and not is_last:  # starts before the host waits
                logits, restarts = self._append(context, reader, token_ids)
            step = Step(*arriving.wait(), restarted)
            yield step
            ended |= {row for row, ident in enumerate(step.token_ids) if ident == self.eos_id}
            if is_last or len(ended) == context.rows:
                return
            if device.type != "cuda":
                logits, restarts = self._append(context, reader, token_ids)
            restarted = restarts

    @staticmethod
    def _append(
        context: "_Context", reader: "_Reader", token_ids: Tensor
    ) -> tuple[Tensor, list[int]]:
        """The logits behind one more token of every row, and the rows that were read afresh."""
        restarted = context.append(token_ids)
        return reader.append(context, token_ids, restarted), restarted

    def _take_reader(self, context: "_Context", max_length: int) -> "_Reader":
        if not self.model.config.model.use_cache:
            return _RecomputingReader(self.model)
        if idle := self._idle.pop(context.rows, None):
            return idle
        self._idle.clear()  # its memory may be needed
        capacity = context.limit
        if not self._uses_graphs:
            capacity = min(context.limit, max(context.seen) + max_length)
        return _CachedReader(self.model, context.rows, capacity, self._uses_graphs)


def _readable(tokens: int, limit: int) -> int:
    return tokens if tokens <= limit else max(1, limit // 2)


class _Context:
    """The tokens of each row, and how many of its last ones the model now sees.

    A row's `seen[i]` tokens stand at positions 0 to seen[i] - 1. Lengths are counted on the host,
    which so need not ask the device.
    """

    def __init__(
        self, model: InferenceModel, prompts: Sequence[Sequence[int]], max_length: int
    ) -> None:
        self.limit, self.rows = model.max_positions, len(prompts)
        self.lengths = [len(prompt) for prompt in prompts]
        self.seen = [_readable(length, self.limit) for length in self.lengths]
        tokens = torch.zeros(self.rows, max(self.lengths) + max_length, dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
        self.tokens = tokens.to(model.device)
        self._ends = torch.tensor(self.lengths, device=model.device)[:, None]  # (rows, 1)

    def append(self, token_ids: Tensor) -> list[int]:
        """Append one token to every row; return the rows whose window was full."""
        self.tokens.scatter_(1, self._ends, token_ids[:, None])
        self._ends += 1
        self.lengths = [length + 1 for length in self.lengths]
        full = [row for row, seen in enumerate(self.seen) if seen == self.limit]
        kept = max(1, self.limit // 2)
        self.seen = [kept if seen == self.limit else seen + 1 for seen in self.seen]
        return full

    def visible(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What `rows` see, (rows, longest), filled up on the right; and each row's last index.

        Causal attention keeps the filling from the tokens before it.
        """
        parts = [
            self.tokens[row, self.lengths[row] - self.seen[row] : self.lengths[row]] for row in rows
        ]
        last = torch.tensor([self.seen[row] - 1 for row in rows], device=self.tokens.device)
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), last


class _RecomputingReader:
    """Reads the whole context for every token: slow, simple, the reference for the cache."""

    def __init__(self, model: InferenceModel) -> None:
        self.model = model

    def read(self, context: _Context, rows: Sequence[int]) -> Tensor:
        input_ids, last = context.visible(rows)
        return self.model.logits(_at(self.model.hidden_states(input_ids), last))

    def append(self, context: _Context, token_ids: Tensor, restarted: Sequence[int]) -> Tensor:  # noqa: ARG002
        return self.read(context, range(context.rows))


class _CachedReader:
    """Keeps keys and values, so that a new token costs one position.

    Every row writes at its own position, so rows of different lengths need no padding between
    them; what filling left behind a row's end is overwritten before any token may attend to it.
    """

    def __init__(self, model: InferenceModel, rows: int, capacity: int, uses_graph: bool) -> None:
        self.model = model
        self.cache = model.new_cache(rows, capacity)
        self.token_ids = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.positions = torch.zeros_like(self.token_ids)  # where the next tokens go
        self.graph: torch.cuda.CUDAGraph | None = None
        if uses_graph:
            self._capture()

    def _capture(self) -> None:
        stream = torch.cuda.Stream(self.model.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._decode()
                self.positions.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._decode()

    def _decode(self) -> Tensor:
        hidden = self.model.decode_one(self.token_ids, self.positions, self.cache)
        self.positions += 1
        return self.model.logits(hidden)

    def read(self, context: _Context, rows: Sequence[int]) -> Tensor:
        """The logits behind what `rows`, all of them, see."""
        logits = self._prefill(context, rows, self.cache)
        self.positions.copy_(torch.tensor(context.seen))
        return logits

    def append(self, context: _Context, token_ids: Tensor, restarted: Sequence[int]) -> Tensor:
        self.token_ids.copy_(token_ids)
        if restarted:  # the step below must not leave the window; what it reads there is replaced
            self.positions.copy_(torch.tensor(context.seen) - 1)
        if self.graph is None:
            logits = self._decode()
        else:
            self.graph.replay()
            logits = self.logits
        if restarted:
            own = self.model.new_cache(len(restarted), self.cache.keys.size(3))
            rows = torch.tensor(restarted, device=self.model.device)
            logits[rows] = self._prefill(context, restarted, own)
            self.cache.keys[:, rows], self.cache.values[:, rows] = own.keys, own.values
        return logits

    def _prefill(self, context: _Context, rows: Sequence[int], cache: KeyValueCache) -> Tensor:
        input_ids, last = context.visible(rows)
        positions = torch.arange(input_ids.size(1), device=input_ids.device).expand_as(input_ids)
        return self.model.logits(_at(self.model.decode(input_ids, positions, cache), last))


_Reader = _RecomputingReader | _CachedReader


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


def _at(hidden: Tensor, index: Tensor) -> Tensor:
    """Row i of (rows, length, width) at index[i]: (rows, width)."""
    return hidden[torch.arange(len(index), device=hidden.device), index]
