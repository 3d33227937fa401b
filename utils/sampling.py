"""Choosing the next token from logits: pure functions, equal on every row whatever its neighbours.

Randomness is a hash of seed, step and token id, so it has no state: a row draws the same alone and
in a batch, and nothing has to be carried from step to step.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from utils.config import GenerationConfig
from utils.dropout import scrambled
from utils.errors import UsageError
from utils.kernels import AVAILABLE as KERNELS_AVAILABLE

if KERNELS_AVAILABLE:
    from utils.kernels import drawing

GREEDY_BELOW = 1e-5  # a temperature; dividing by less could overflow
SEEDS = 2**63


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, as config.json's `generation` says; `seed` None draws a fresh one.

    Row i of a batch draws with `seed + i`. Raises UsageError for a value that has no meaning.
    """

    max_length: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None = None

    @classmethod
    def from_config(cls, config: GenerationConfig, **given: float | int | None) -> Self:
        """The configured defaults, with the values of `given` that are not None instead."""
        chosen = {key: value for key, value in given.items() if value is not None}
        return cls(**{**config.model_dump(), **chosen})

    def __post_init__(self) -> None:
        for name, valid, rule in (
            ("max_length", self.max_length >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed is None or 0 <= self.seed < SEEDS, "0 or more, below 2**63"),
        ):
            if not valid:
                raise UsageError(f"{name} must be {rule}, not {getattr(self, name)}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


def seeds_of_rows(seed: int | None, rows: int) -> list[int]:
    """The seed of each row; fresh ones if `seed` is None."""
    first = secrets.randbelow(SEEDS) if seed is None else seed
    return [(first + row) % SEEDS for row in range(rows)]


def random_keys(seeds: Sequence[int], device: torch.device) -> Tensor:
    """What `draw` takes for these seeds: (rows,) int32, well mixed."""
    halves = torch.tensor([[seed & 0xFFFFFFFF, seed >> 32] for seed in seeds])  # int64
    low, high = torch.where(halves >= 2**31, halves - 2**32, halves).int().unbind(1)
    return scrambled(scrambled(low) + high).to(device)


def filter_logits(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Divide (rows, vocabulary) logits by temperature and set what must not be drawn to -inf.

    Temperature first, then top-k, then top-p, as Hugging Face does: the token that crosses p
    stays. All tokens as likely as the last one that stays do so, too.
    """
    logits = logits / temperature
    is_limited = 0 < top_k < logits.size(-1)
    if not is_limited and top_p >= 1:
        return logits
    likeliest = logits.topk(top_k if is_limited else logits.size(-1), dim=-1).values  # descending
    lowest = likeliest[:, -1:]
    if top_p < 1:
        weights = (likeliest - likeliest[:, :1]).exp()
        ties = (logits == lowest).sum(-1, keepdim=True) - (likeliest == lowest).sum(
            -1, keepdim=True
        )
        total = weights.sum(-1, keepdim=True) + ties * weights[:, -1:]
        before = weights.cumsum(-1) - weights
        kept = (before < top_p * total).sum(-1, keepdim=True)
        lowest = likeliest.gather(-1, (kept - 1).clamp(min=0))
    return logits.masked_fill(logits < lowest, -torch.inf)


def draw(logits: Tensor, sampling: Sampling, keys: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """One token id per row of (rows, vocabulary) logits, and its log-probability, both (rows,).

    The log-probability is the model's own: of all tokens, at temperature 1. On a GPU it is one
    kernel; what is drawn may then differ by rounding.
    """
    if KERNELS_AVAILABLE and drawing.kernel_fits(logits):
        temperature = None if sampling.is_greedy else sampling.temperature
        return drawing.draw_in_one(logits, keys, step, temperature, sampling.top_k, sampling.top_p)
    return draw_plainly(logits, sampling, keys, step)


def draw_plainly(
    logits: Tensor, sampling: Sampling, keys: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """`draw` by torch's operators, some 50 of them: the referee of the kernel."""
    logits = logits.float()
    if sampling.is_greedy:
        token_ids = logits.argmax(-1)
    else:
        allowed = filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p)
        # The first of independent exponential clocks with these rates to ring is a draw from them.
        token_ids = (allowed - _exponential(keys, step, logits.size(-1)).log()).argmax(-1)
    chosen = logits.gather(-1, token_ids[:, None])[:, 0]
    return token_ids, chosen - logits.logsumexp(-1)


def _exponential(keys: Tensor, step: int, vocabulary: int) -> Tensor:
    """(rows, vocabulary) independent draws from the exponential distribution, mean 1."""
    ids = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    # 0x9E3779B1 is odd: distinct ids stay distinct.
    bits = scrambled(scrambled(keys + step)[:, None] ^ (ids * -1640531535))
    share = (((bits >> 8) & 0xFFFFFF).float() + 0.5) * 2**-24
    # log1p keeps the small ones apart, which decide; 1 itself would ring never.
    return -torch.log1p(-share.clamp(max=1 - 2**-24))
