"""Text generation on token ids: the one engine behind model.generate, Inference.py and the server.

A prompt is read in one pass (prefill), then tokens follow one by one, each attending to a static
key/value cache; on a GPU that step is a CUDA graph. When a row has filled all positions of the
model, the last half of its tokens is read again and generation goes on from there; a prompt longer
than the window begins so. Strings and tokenizers never appear here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import CheckpointError, UsageError
from utils.inference_model import InferenceModel, KeyValueCache
from utils.sampling import Sampling, draw, random_keys, seeds_of_rows

NEVER = -1  # as an `eos_id`: no token has it, so only their length ends texts
WARM_UP_STEPS = 3  # before a capture: kernels compile, libraries take their workspaces


class Step(NamedTuple):
    """One token of every row."""

    token_ids: list[int]  # the padding id behind a row's </s>
    log_probabilities: list[float]  # of each by the model alone, at temperature 1; 0 for padding
    restarted: list[int]  # rows whose window was full: this token saw its last half alone


class Engine:
    """Continues prompts with one model, one caller at a time.

    What it prepared for a number of rows is kept until another number comes.
    """

    def __init__(
        self, model: InferenceModel, eos_id: int, pad_id: int, uses_graphs: bool = True
    ) -> None:
        self.model, self.eos_id, self.pad_id = model, eos_id, pad_id
        self._uses_graphs = uses_graphs and model.device.type == "cuda"
        self.looks_ahead = model.device.type == "cuda"  # computes a step while one is looked at
        self._idle: _CachedReader | None = None  # with its graph, of the last number of rows

    def readable(self, tokens: int) -> int:
        """How many of the last of so many tokens the model reads at once."""
        return _readable(tokens, self.model.max_positions)

    def warm_up(self, rows: int = 1) -> None:
        """Prepare for prompts of so many rows, so that the first answer is as fast as the next.

        On a GPU with a prompt of half a window: its libraries load what they need for one.
        """
        tokens = max(1, self.model.max_positions // 2) if self._uses_graphs else 1
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
        context = _Context(self.model, prompts)
        reader = self._take_reader(context, sampling.max_length)
        try:
            yield from self._steps(context, reader, sampling)
        finally:
            if isinstance(reader, _CachedReader) and reader.graph is not None:
                self._idle = reader

    def _steps(self, context: "_Context", reader: "_Reader", sampling: Sampling) -> Iterator[Step]:
        device = self.model.device
        keys = random_keys(seeds_of_rows(sampling.seed, context.rows), device)
        is_ended = torch.zeros(context.rows, dtype=torch.bool, device=device)
        ended: set[int] = set()
        logits, restarted = reader.read(context, range(context.rows)), list[int]()
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
        context: "_Context", reader: "_Reader", token_ids: Tensor, ended: set[int]
    ) -> tuple[Tensor, list[int]]:
        """The logits behind one more token of every row, and the rows that were read afresh."""
        full = context.append(token_ids)
        restarted = [row for row in full if row not in ended]
        return reader.append(context, token_ids, bool(full), restarted), restarted

    def _take_reader(self, context: "_Context", max_length: int) -> "_Reader":
        if not self.model.config.model.use_cache:
            return _RecomputingReader(self.model)
        idle, self._idle = self._idle, None
        if idle is not None and len(idle.token_ids) == context.rows:
            return idle
        del idle  # its memory may be needed
        capacity = context.limit
        if not self._uses_graphs:
            capacity = min(context.limit, max(context.seen) + max_length)
        return _CachedReader(self.model, context.rows, capacity, self._uses_graphs)


def _readable(tokens: int, limit: int) -> int:
    return tokens if tokens <= limit else max(1, limit // 2)


class _Context:
    """What the model sees of each row: `seen[i]` tokens, at positions 0 to seen[i] - 1.

    When a row sees all that the model can, its last half moves to the front. Lengths are counted
    on the host, which so need not ask the device.
    """

    def __init__(self, model: InferenceModel, prompts: Sequence[Sequence[int]]) -> None:
        self.limit, self.rows = model.max_positions, len(prompts)
        self.seen = [_readable(len(prompt), self.limit) for prompt in prompts]
        tokens = torch.zeros(self.rows, self.limit, dtype=torch.long)
        for row, prompt, seen in zip(tokens, prompts, self.seen, strict=True):
            row[:seen] = torch.as_tensor(prompt[-seen:])
        self.tokens = tokens.to(model.device)
        self._ends = self.ends()

    def append(self, token_ids: Tensor) -> list[int]:
        """Append one token to every row; return the rows whose window was full."""
        full = [row for row, seen in enumerate(self.seen) if seen == self.limit]
        for row in full:
            self.seen[row] = _readable(self.limit + 1, self.limit) - 1
            if moved := self.seen[row]:
                self.tokens[row, :moved] = self.tokens[row, -moved:].clone()
        if full:
            self._ends = self.ends()
        self.tokens.scatter_(1, self._ends[:, None], token_ids[:, None])
        self._ends += 1
        self.seen = [seen + 1 for seen in self.seen]
        return full

    def ends(self) -> Tensor:
        """Where the next token of each row goes, (rows,)."""
        return torch.tensor(self.seen, device=self.tokens.device)

    def visible(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What `rows` see, (rows, longest), filled up on the right; and each row's last index.

        Causal attention keeps the filling from the tokens before it. There are at least two
        tokens, where the window allows: int8 layers compute one alone in another way.
        """
        longest = min(max(2, *(self.seen[row] for row in rows)), self.limit)
        last = torch.tensor([self.seen[row] - 1 for row in rows], device=self.tokens.device)
        return self.tokens[list(rows), :longest], last


class _RecomputingReader:
    """Reads the whole context for every token: slow, simple, the reference for the cache."""

    def __init__(self, model: InferenceModel) -> None:
        self.model = model

    def read(self, context: _Context, rows: Sequence[int]) -> Tensor:
        input_ids, last = context.visible(rows)
        return self.model.logits(_at(self.model.hidden_states(input_ids), last))

    def append(self, context: _Context, *_: object) -> Tensor:
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
        self.positions.copy_(context.ends())
        return logits

    def append(
        self, context: _Context, token_ids: Tensor, has_moved: bool, restarted: Sequence[int]
    ) -> Tensor:
        """The logits behind one more token. Where rows moved to the front of the window, those
        in `restarted` are read again; of the others nobody wants to know.
        """
        self.token_ids.copy_(token_ids)
        if has_moved:
            self.positions.copy_(context.ends() - 1)
            if len(restarted) == context.rows:  # the step would be for nothing
                return self.read(context, restarted)
        if self.graph is None:
            logits = self._decode()
        else:
            self.graph.replay()
            logits = self.logits
        for row in restarted:
            own = self.model.new_cache(1, self.cache.keys.size(3))
            logits[row] = self._prefill(context, [row], own)[0]
            self.cache.keys[:, row], self.cache.values[:, row] = own.keys[:, 0], own.values[:, 0]
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
