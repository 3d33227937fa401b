"""Text generation on token ids: the one engine behind model.generate, Inference.py and sampling.

A prompt is read in one pass (prefill), then tokens follow one by one, each attending to a static
key/value cache. When a row has filled all positions of the model, the last half of its tokens is
read again and generation goes on from there. Strings and tokenizers never appear here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from utils.config import GenerationConfig
from utils.errors import UsageError

GREEDY_BELOW = 1e-5  # a temperature; dividing by less could overflow


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, as config.json's `generation` says; `seed` None draws a fresh one.

    Row i of a batch draws from its own stream, seeded `seed + i`: what a row says does not depend
    on its neighbours.
    """

    max_length: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None = None

    @classmethod
    def from_config(cls, config: GenerationConfig, **given: float | int | None) -> "Sampling":
        """The configured defaults, with the values of `given` that are not None instead."""
        chosen = {key: value for key, value in given.items() if value is not None}
        sampling = cls(**{**config.model_dump(), **chosen})
        sampling.check()
        return sampling

    def check(self) -> None:
        """Raise UsageError for a value that has no meaning."""
        for name, valid, rule in (
            ("max_length", self.max_length >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "0 or more, below 2**63"),
        ):
            if not valid:
                raise UsageError(f"{name} must be {rule}, not {getattr(self, name)}")


@dataclass
class KeyValueCache:
    """Keys and values of every layer: two tensors (layers, rows, heads, capacity, head_size)."""

    keys: Tensor
    values: Tensor


class CausalModel(Protocol):
    """What the engine needs of a model; model.py has it."""

    @property
    def max_positions(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def new_cache(self, rows: int, capacity: int) -> KeyValueCache: ...

    def decode(self, input_ids: Tensor, positions: Tensor, cache: KeyValueCache) -> Tensor: ...

    def hidden_states(self, input_ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


def filter_logits(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Divide (rows, vocabulary) logits by temperature and set what must not be drawn to -inf.

    Temperature first, then top-k, then top-p, in Hugging Face's order and with its borders: ties
    with the k-th token stay, and the token that crosses p stays.
    """
    logits = logits / temperature
    if 0 < top_k < logits.size(-1):
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ascending, order = logits.sort(dim=-1)
        too_unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        too_unlikely[:, -1] = False
        logits = logits.masked_fill(
            torch.zeros_like(too_unlikely).scatter(1, order, too_unlikely), -torch.inf
        )
    return logits


def choose(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one token id per row of (rows, vocabulary) logits, each row from its own generator."""
    if sampling.temperature < GREEDY_BELOW:
        return logits.argmax(dim=-1)
    probabilities = filter_logits(
        logits.float(), sampling.temperature, sampling.top_k, sampling.top_p
    ).softmax(dim=-1)
    # The first of independent exponential clocks with these rates to ring is a draw from them.
    clocks = torch.stack(
        [
            torch.empty_like(row).exponential_(generator=generator)
            for row, generator in zip(probabilities, generators, strict=True)
        ]
    )
    return (probabilities / clocks).argmax(dim=-1)


@torch.inference_mode()
def generate(
    model: CausalModel,
    prompts: Sequence[Tensor],
    sampling: Sampling,
    eos_id: int,
    pad_id: int,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Continue each prompt (a 1-D tensor of ids); yield the next id of every row, step by step.

    Each item has shape (rows,), int64, on the model's device. A row that has said `eos_id` gives
    `pad_id` from then on; the iterator ends when all rows have ended or after `max_length` steps.
    The model must be in eval mode.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise UsageError("a prompt has no tokens", "Begin it with <s>, as every document does.")
    if sampling.max_length == 0:
        return
    generators = _generators(len(prompts), sampling.seed, model.device)
    contexts: _CachedContexts | _RecomputedContexts
    contexts = (_CachedContexts if use_cache else _RecomputedContexts)(
        model, prompts, sampling.max_length
    )
    logits = contexts.read_prompts()
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    for step in range(sampling.max_length):
        token_ids = choose(logits, sampling, generators).masked_fill(ended, pad_id)
        yield token_ids
        ended |= token_ids == eos_id
        if step + 1 == sampling.max_length or bool(ended.all()):
            return
        logits = contexts.append(token_ids)


def _generators(rows: int, seed: int | None, device: torch.device) -> list[torch.Generator]:
    generators = [torch.Generator(device) for _ in range(rows)]
    for row, generator in enumerate(generators):
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed + row)
    return generators


class _Contexts:
    """The tokens of each row, and how many of its last ones the model now sees.

    A row's `seen[i]` tokens stand at positions 0 to seen[i] - 1. Lengths are counted
    on the host.
    """

    def __init__(self, model: CausalModel, prompts: Sequence[Tensor], max_length: int) -> None:
        self.model = model
        self.limit = model.max_positions
        self.reread = max(1, self.limit // 2)  # tokens that a row keeps when it slides
        self.lengths = [len(prompt) for prompt in prompts]
        self.seen = [self._readable(length) for length in self.lengths]
        self.tokens = torch.zeros(  # (rows, longest prompt + max_length)
            len(prompts), max(self.lengths) + max_length, dtype=torch.long, device=model.device
        )
        for row, prompt in enumerate(prompts):
            self.tokens[row, : len(prompt)] = prompt

    def _readable(self, length: int) -> int:
        """How many of a row's last tokens to read when it is read afresh."""
        return length if length <= self.limit else self.reread

    def _store(self, token_ids: Tensor) -> list[int]:
        """Append one token to every row; return the rows that slid, to be read afresh."""
        rows = torch.arange(len(self.lengths), device=self.model.device)
        self.tokens[rows, torch.tensor(self.lengths, device=self.model.device)] = token_ids
        self.lengths = [length + 1 for length in self.lengths]
        slid = [row for row, seen in enumerate(self.seen) if seen == self.limit]
        self.seen = [self.reread if s == self.limit else s + 1 for s in self.seen]
        return slid

    def _visible(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What `rows` see, (rows, longest), filled up on the right; and each row's last index.

        Causal attention keeps the filling from the tokens before it.
        """
        parts = [
            self.tokens[row, self.lengths[row] - self.seen[row] : self.lengths[row]] for row in rows
        ]
        last = torch.tensor([self.seen[row] - 1 for row in rows], device=self.model.device)
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), last


class _RecomputedContexts(_Contexts):
    """Reads the whole context for every token: slow, simple, the reference for the cache."""

    def read_prompts(self) -> Tensor:
        input_ids, last = self._visible(range(len(self.lengths)))
        hidden = self.model.hidden_states(input_ids)
        return self.model.logits(_at(hidden, last))

    def append(self, token_ids: Tensor) -> Tensor:
        self._store(token_ids)
        return self.read_prompts()


class _CachedContexts(_Contexts):
    """Keeps keys and values, so that a new token costs one position.

    Every row writes at its own position, so rows of different lengths need no padding between
    them; what filling left behind a row's end is overwritten before any token may attend to it.
    """

    def __init__(self, model: CausalModel, prompts: Sequence[Tensor], max_length: int) -> None:
        super().__init__(model, prompts, max_length)
        capacity = min(self.limit, max(self.seen) + max_length)
        self.cache = model.new_cache(len(prompts), max(capacity, max(self.seen)))

    def read_prompts(self) -> Tensor:
        return self._read(range(len(self.lengths)), self.cache)

    def append(self, token_ids: Tensor) -> Tensor:
        slid = self._store(token_ids)
        positions = torch.tensor(self.seen, device=self.model.device)[:, None] - 1  # (rows, 1)
        hidden = self.model.decode(token_ids[:, None], positions, self.cache)
        logits = self.model.logits(hidden[:, -1])
        if slid:
            reread = self.model.new_cache(len(slid), self.cache.keys.size(3))
            logits[slid] = self._read(slid, reread)
            self.cache.keys[:, slid] = reread.keys
            self.cache.values[:, slid] = reread.values
        return logits

    def _read(self, rows: Sequence[int], cache: KeyValueCache) -> Tensor:
        input_ids, last = self._visible(rows)
        positions = torch.arange(input_ids.size(1), device=self.model.device).expand_as(input_ids)
        return self.model.logits(_at(self.model.decode(input_ids, positions, cache), last))


def _at(hidden: Tensor, index: Tensor) -> Tensor:
    """Row i of (rows, length, width) at index[i]: (rows, width)."""
    return hidden[torch.arange(len(index), device=hidden.device), index]
