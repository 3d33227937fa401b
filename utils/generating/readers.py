"""How a model reads what it continues: with a key/value cache, or all of it for every token.

A reader gives the logits behind what each row sees, (rows, vocabulary). Rows are filled up on the
right: causal attention keeps that from the tokens before it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.generating.context import Context
from utils.inference_model import InferenceModel, KeyValueCache

ROWS_AT_A_TIME = 8  # to read again: they need a cache of their own for a moment
SHORTEST_RECORDED = 16  # tokens of a prompt; longer ones are filled up to the next power of 2


class RecomputingReader:
    """Reads the whole context for every token: slow, simple, the reference for the cache."""

    def __init__(self, model: InferenceModel) -> None:
        self.model = model

    def read(self, context: Context) -> Tensor:
        """The logits behind what the rows see."""
        input_ids = context.tokens[:, : context.longest(range(context.rows))]
        hidden = self.model.hidden_states(input_ids)
        return self.model.logits(_at(hidden, context.ends - 1))

    def append(self, context: Context, *_: object) -> Tensor:
        return self.read(context)


class CachedReader:
    """Keeps keys and values, so that a new token costs one position.

    Every row writes at its own position, so rows of different lengths need no padding between
    them; what filling left behind a row's end is overwritten before any token may attend to it.
    """

    def __init__(self, model: InferenceModel, rows: int, capacity: int) -> None:
        self.model = model
        self.cache = model.new_cache(rows, capacity)
        self.token_ids = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.positions = torch.zeros_like(self.token_ids)  # where the next tokens go

    def read(self, context: Context) -> Tensor:
        """The logits behind what the rows see."""
        self.positions.copy_(context.ends)
        return self._read_prompts(context)

    def append(
        self, context: Context, token_ids: Tensor, has_moved: bool, wanted: list[int]
    ) -> Tensor:
        """The logits behind one more token.

        If rows `has_moved` to the front of the window, those of them in `wanted` are read again; of
        the others nobody wants to know.
        """
        self.token_ids.copy_(token_ids)
        if has_moved:
            self.positions.copy_(context.ends - 1)
            if len(wanted) == context.rows:  # the step would be for nothing
                return self.read(context)
        logits = self._read_tokens()
        for first in range(0, len(wanted), ROWS_AT_A_TIME):
            self._read_again(context, wanted[first : first + ROWS_AT_A_TIME], logits)
        return logits

    def _read_prompts(self, context: Context) -> Tensor:
        input_ids = context.tokens[:, : context.longest(range(context.rows))]
        return self._prompt_logits(input_ids, context.ends - 1, self.cache)

    def _prompt_logits(self, input_ids: Tensor, last: Tensor, cache: KeyValueCache) -> Tensor:
        return self.model.logits(_at(self.model.hidden_states(input_ids, cache), last))

    def _read_tokens(self) -> Tensor:
        """The logits behind `token_ids`, which go to `positions`."""
        hidden = self.model.decode_one(self.token_ids, self.positions, self.cache)
        self.positions += 1
        return self.model.logits(hidden)

    def _read_again(self, context: Context, rows: list[int], logits: Tensor) -> None:
        """Put the logits and the cache of `rows` in the place of what is there."""
        length = context.longest(rows)
        own = self.model.new_cache(len(rows), length)
        input_ids = context.tokens[rows, :length]
        logits[rows] = self._prompt_logits(input_ids, context.ends[rows] - 1, own)
        self.cache.keys[:, rows, :, :length] = own.keys
        self.cache.values[:, rows, :, :length] = own.values


class RecordedReader(CachedReader):
    """The same on a GPU, each way to read recorded once as a CUDA graph.

    The host then launches a prompt or a step as one, however many kernels it has. A prompt is
    recorded for its length, rounded up, when one of that length first comes.
    """

    def __init__(self, model: InferenceModel, rows: int, capacity: int) -> None:
        super().__init__(model, rows, capacity)
        self._pool = torch.cuda.graph_pool_handle()
        self._input_ids = torch.zeros(rows, capacity, dtype=torch.long, device=model.device)
        self._last = torch.zeros_like(self.token_ids)
        self._prompts: dict[int, _Recording] = {}
        self._step = _Recording(super()._read_tokens, self._pool)

    def _read_prompts(self, context: Context) -> Tensor:
        length = recorded_length(context.longest(range(context.rows)), context.limit)
        self._input_ids.copy_(context.tokens)
        torch.sub(context.ends, 1, out=self._last)
        if length not in self._prompts:
            input_ids = self._input_ids[:, :length]

            def read() -> Tensor:
                return self._prompt_logits(input_ids, self._last, self.cache)

            self._prompts[length] = _Recording(read, self._pool)
        return self._prompts[length].replay()

    def _read_tokens(self) -> Tensor:
        return self._step.replay()


def recorded_length(tokens: int, limit: int) -> int:
    """The length that a prompt of so many tokens is filled up to, where the window has `limit`."""
    return min(max(SHORTEST_RECORDED, 1 << (tokens - 1).bit_length()), limit)


def recorded_lengths(limit: int) -> list[int]:
    """All such lengths."""
    return sorted({recorded_length(tokens, limit) for tokens in range(1, limit + 1)})


class _Recording:
    """A computation on the GPU, always on the same memory, as a CUDA graph.

    Recordings that never run at the same time share a memory pool.
    """

    def __init__(self, compute: Callable[[], Tensor], pool: "torch.cuda._POOL_HANDLE") -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()  # kernels are compiled, libraries take their workspaces
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._result = compute()

    def replay(self) -> Tensor:
        """The result, which the next replay overwrites."""
        self._graph.replay()
        return self._result


def _at(hidden: Tensor, index: Tensor) -> Tensor:
    """Row i of (rows, length, width) at index[i]: (rows, width)."""
    return hidden[torch.arange(len(index), device=hidden.device), index]
