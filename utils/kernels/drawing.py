"""Choosing the next token of a row in one kernel: utils.sampling.draw, with the same randomness.

A row's logits are read once and stay with one processor. The lowest one that may be drawn is found
by halving the range of their bits, whose order is that of the numbers: each halving counts, or sums
the weights of, the logits from the middle on. Nothing is sorted.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from utils.kernels.hashing import scrambled

MAX_VOCABULARY = 65_536  # of more, a program keeps too much outside its registers
_LOGITS_A_WARP = 1_024


@triton.jit
def _ordered(x, UNUSED_BITS: tl.constexpr):
    """The bits of fp32 numbers as int32 in the same order, without so many that are 0 in all."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> UNUSED_BITS


@triton.jit
def _highest_border(weights, order, least, low, high):
    """The highest border for which the weights of all from it on sum to `least`, or `low`.

    `low` and `high` are of int64, as their distance may need it.
    """
    while low < high:
        middle = low + (high - low + 1) // 2
        if tl.sum(tl.where(order >= middle.to(tl.int32), weights, 0.0), 0) >= least:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def _exponential(key, step, ids):
    """See utils.sampling._exponential."""
    bits = scrambled(scrambled(key + step) ^ (ids * -1640531535))
    share = (((bits >> 8) & 0xFFFFFF).to(tl.float32) + 0.5) * 5.9604644775390625e-08
    share = tl.minimum(share, 0.99999994)
    rest = 1 - share  # rounded: the quotient makes up for it (Kahan's log1p)
    return tl.where(rest == 1, share, -tl.log(rest) * (share / tl.where(rest == 1, 1.0, 1 - rest)))


@triton.jit(do_not_specialize=["step"])  # or it is compiled anew for some steps
def _draw(
    logits,  # (B, V)
    keys,  # (B,) int32
    token_ids, log_probabilities,  # (B,): the result
    step, temperature, top_k, top_p, is_greedy,
    V: tl.constexpr, BLOCK: tl.constexpr, UNUSED_BITS: tl.constexpr,
):  # fmt: skip
    row, ids = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    is_token = ids < V
    plain = tl.load(logits + row * V + ids, is_token, -float("inf")).to(tl.float32)
    highest = tl.max(plain, 0)
    log_sum = highest + tl.log(tl.sum(tl.exp(plain - highest), 0))
    if is_greedy > 0:
        chosen = tl.argmax(plain, 0)
    else:
        scaled = plain / temperature
        order = tl.where(is_token, _ordered(plain, UNUSED_BITS), -2147483648)
        low = tl.min(tl.where(is_token, order, 2147483647), 0).to(tl.int64)
        high = tl.max(order, 0).to(tl.int64)
        if (top_k > 0) & (top_k < V):
            low = _highest_border(is_token.to(tl.float32), order, top_k, low, high)
        if top_p < 1:
            weights = tl.exp(scaled - highest / temperature)
            weights = tl.where(order >= low.to(tl.int32), weights, 0.0)
            low = _highest_border(weights, order, top_p * tl.sum(weights, 0), low, high)
        allowed = tl.where(is_token & (order >= low.to(tl.int32)), scaled, -float("inf"))
        noise = tl.log(_exponential(tl.load(keys + row), step, ids))
        chosen = tl.argmax(allowed - noise, 0)
    chosen = tl.minimum(chosen, V - 1)  # where all are NaN, it is an id that no token has
    logit = tl.sum(tl.where(ids == chosen, plain, 0.0), 0)
    tl.store(token_ids + row, chosen.to(tl.int64))
    tl.store(log_probabilities + row, logit - log_sum)


def kernel_fits(logits: Tensor) -> bool:
    """Whether `draw_in_one` takes these logits (rows, vocabulary)."""
    return logits.is_cuda and logits.size(-1) <= MAX_VOCABULARY


def draw_in_one(
    logits: Tensor, keys: Tensor, step: int, temperature: float | None, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """See utils.sampling.draw; no `temperature` takes the likeliest."""
    rows, vocabulary = logits.shape
    logits = logits.contiguous()
    token_ids = torch.empty(rows, dtype=torch.long, device=logits.device)
    log_probabilities = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = triton.next_power_of_2(vocabulary)
    # All as floats: an int would be compiled anew.
    _draw[(rows,)](
        logits, keys, token_ids, log_probabilities,
        step, float(1 if temperature is None else temperature),
        float(min(top_k, vocabulary)), float(top_p), float(temperature is None),
        V=vocabulary, BLOCK=block,
        UNUSED_BITS=16 if logits.dtype == torch.bfloat16 else 0,
        num_warps=min(max(block // _LOGITS_A_WARP, 1), 32),
    )  # fmt: skip
    return token_ids, log_probabilities
