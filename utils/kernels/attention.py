"""Causal self-attention on packed projections, forward and backward.

Flash attention (Dao 2023): scores never reach memory. Queries, keys and values are read where the
projection wrote them and their gradients are written where its backward pass reads them, so that
nothing is split or transposed on the way. Every program owns what it writes: two runs agree to the
bit.

Names: H heads of D features, T tokens; `packed` is (B, T, 3 * H * D), queries first. Weights are
computed as powers of 2 (exp2 is one instruction), so scales and log-sums are in that base.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from utils.dropout import keep_threshold
from utils.kernels.hashing import keeps, row_keys

# Rows of a program, tokens of a step of its loop, warps, stages of the pipeline: the fastest of
# some twenty on an H100 for heads of 32 (docs/RESULTS.md). Larger blocks spill registers.
FORWARD_BLOCK, FORWARD_STEP = 64, 64
BACKWARD_BLOCK, BACKWARD_STEP = 64, 32
LAUNCH = {"num_warps": 4, "num_stages": 3}
HEAD_SIZES = (16, 32, 64)


@triton.jit
def _head_start(tensor, head, tokens, width: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    return tensor + (head // H).to(tl.int64) * tokens * width + (head % H) * D


@triton.jit
def _load(start, rows, stride, tokens, D: tl.constexpr, MASKED: tl.constexpr):
    """(rows, D) of a head; zeros beyond the last token."""
    places = start + rows[:, None] * stride + tl.arange(0, D)[None, :]
    if MASKED:
        return tl.load(places, rows[:, None] < tokens, 0.0)
    return tl.load(places)


@triton.jit
def _store(start, rows, stride, tokens, values, D: tl.constexpr):
    places = start + rows[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(places, values.to(start.dtype.element_ty), rows[:, None] < tokens)


@triton.jit
def _store_sum(sums, head, part, values, H: tl.constexpr, D: tl.constexpr):
    """The sum over tokens of (tokens, D), as this block's share of a bias's gradient."""
    block = head // H * tl.num_programs(0) + tl.program_id(0)
    places = block * 3 * H * D + part * H * D + (head % H) * D + tl.arange(0, D)
    tl.store(sums + places, tl.sum(values, 0))


@triton.jit
def _read_columns(
    q,  # (rows, D)
    state,  # the weighted sum of values so far, (rows, D); the highest score, the sum of weights
    rows,
    keys_of_rows,
    first,
    last,
    start,
    tokens,
    scale,
    threshold,
    H: tl.constexpr,
    D: tl.constexpr,
    STEP: tl.constexpr,
    MASKED: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """Let `rows` attend to the tokens from `first` to before `last`."""
    total, highest, weight_sum = state
    for column in range(first, last, STEP):
        columns = column + tl.arange(0, STEP)
        k = _load(start + H * D, columns, 3 * H * D, tokens, D, MASKED)
        v = _load(start + 2 * H * D, columns, 3 * H * D, tokens, D, MASKED)
        scores = tl.dot(q, tl.trans(k))
        if MASKED:
            scores = tl.where(rows[:, None] >= columns[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        correction = tl.exp2(highest - higher)
        weight_sum = weight_sum * correction + tl.sum(weights, 1)
        if DROPOUT:
            kept = keeps(keys_of_rows[:, None], columns[None, :], threshold)
            weights = tl.where(kept, weights, 0.0)
        total = tl.dot(weights.to(v.dtype), v, total * correction[:, None])
        highest = higher
    return total, highest, weight_sum


@triton.jit
def _forward(
    packed,
    key,
    mixed,  # (B, T, H * D): the result
    log_sums,  # (B * H, T): log2 of each row's sum of weights
    tokens,
    scale,
    threshold,
    upscale,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    head = tl.program_id(1)
    start = _head_start(packed, head, tokens, 3 * H * D, H, D)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    q = _load(start, rows, 3 * H * D, tokens, D, True)
    keys_of_rows = row_keys(key, head, rows) if DROPOUT else rows
    total = tl.zeros([BLOCK, D], tl.float32)
    state = (total, tl.full([BLOCK], -float("inf"), tl.float32), tl.zeros([BLOCK], tl.float32))
    border = block * BLOCK
    end = tl.minimum(border + BLOCK, tokens)
    state = _read_columns(
        q, state, rows, keys_of_rows, 0, border, start, tokens, scale, threshold,
        H, D, STEP, False, DROPOUT,
    )  # fmt: skip
    total, highest, weight_sum = _read_columns(
        q, state, rows, keys_of_rows, border, end, start, tokens, scale, threshold,
        H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    result = _head_start(mixed, head, tokens, H * D, H, D)
    _store(result, rows, H * D, tokens, total * (upscale / weight_sum)[:, None], D)
    tl.store(log_sums + head * tokens + rows, highest + tl.log2(weight_sum), rows < tokens)


@triton.jit
def _row_means(
    mixed,
    gradient,
    means,
    tokens,
    keep_share,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of each row, the mean gradient of its weights, times `keep_share`: means (B * H, T)."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1)
    o = _load(_head_start(mixed, head, tokens, H * D, H, D), rows, H * D, tokens, D, True)
    g = _load(_head_start(gradient, head, tokens, H * D, H, D), rows, H * D, tokens, D, True)
    mean = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1) * keep_share
    tl.store(means + head * tokens + rows, mean, rows < tokens)


@triton.jit
def _read_rows(
    k, v,  # (columns, D)
    of_k, of_v,  # their gradients so far, fp32
    columns, first, last,
    start, gradient, log_sums, means,
    key, head, tokens, scale, threshold,
    H: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
    MASKED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Add what the rows from `first` to before `last` give to the gradients of k and v."""
    for row in range(first, last, STEP):
        rows = row + tl.arange(0, STEP)
        q = _load(start, rows, 3 * H * D, tokens, D, MASKED)
        g = _load(gradient, rows, H * D, tokens, D, MASKED)
        if MASKED:
            log_sum = tl.load(log_sums + rows, rows < tokens, 0.0)
            mean = tl.load(means + rows, rows < tokens, 0.0)
        else:
            log_sum, mean = tl.load(log_sums + rows), tl.load(means + rows)
        # Transposed (columns, rows), the weights are already laid out for the next product.
        weights = tl.exp2(tl.dot(k, tl.trans(q)) * scale - log_sum[None, :])
        if MASKED:
            seen = (rows[None, :] >= columns[:, None]) & (rows[None, :] < tokens)
            weights = tl.where(seen, weights, 0.0)
        of_weights = tl.dot(v, tl.trans(g))
        kept_weights = weights
        if DROPOUT:
            kept = keeps(row_keys(key, head, rows)[None, :], columns[:, None], threshold)
            of_weights = tl.where(kept, of_weights, 0.0)
            kept_weights = tl.where(kept, weights, 0.0)
        of_scores = weights * (of_weights - mean[None, :])
        of_v = tl.dot(kept_weights.to(g.dtype), g, of_v)
        of_k = tl.dot(of_scores.to(q.dtype), q, of_k)
    return of_k, of_v


@triton.jit
def _read_columns_again(
    q, g, log_sum, mean, of_q,
    rows, keys_of_rows, first, last,
    start, tokens, scale, threshold,
    H: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
    MASKED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Add what the tokens from `first` to before `last` give to the gradient of q."""
    for column in range(first, last, STEP):
        columns = column + tl.arange(0, STEP)
        k = _load(start + H * D, columns, 3 * H * D, tokens, D, MASKED)
        v = _load(start + 2 * H * D, columns, 3 * H * D, tokens, D, MASKED)
        weights = tl.exp2(tl.dot(q, tl.trans(k)) * scale - log_sum[:, None])
        if MASKED:
            weights = tl.where(rows[:, None] >= columns[None, :], weights, 0.0)
        of_weights = tl.dot(g, tl.trans(v))
        if DROPOUT:
            kept = keeps(keys_of_rows[:, None], columns[None, :], threshold)
            of_weights = tl.where(kept, of_weights, 0.0)
        of_q = tl.dot((weights * (of_weights - mean[:, None])).to(k.dtype), k, of_q)
    return of_q


@triton.jit
def _backward(
    packed, key, gradient, log_sums, means, of_packed, bias_sums,
    tokens, scale, threshold, upscale, factor,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of tokens: as keys and values, read by the rows from here on, then as
    queries, which read the columns up to here. Together that is the same work for every block.
    """
    head = tl.program_id(1)
    start = _head_start(packed, head, tokens, 3 * H * D, H, D)
    result = _head_start(of_packed, head, tokens, 3 * H * D, H, D)
    gradient = _head_start(gradient, head, tokens, H * D, H, D)
    log_sums += head * tokens
    means += head * tokens
    border = tl.program_id(0) * BLOCK
    own = border + tl.arange(0, BLOCK)
    end = tl.minimum(border + BLOCK, tokens)

    k = _load(start + H * D, own, 3 * H * D, tokens, D, True)
    v = _load(start + 2 * H * D, own, 3 * H * D, tokens, D, True)
    of_k, of_v = tl.zeros([BLOCK, D], tl.float32), tl.zeros([BLOCK, D], tl.float32)
    whole = tokens // STEP * STEP
    of_k, of_v = _read_rows(
        k, v, of_k, of_v, own, border, end, start, gradient, log_sums, means,
        key, head, tokens, scale, threshold, H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    of_k, of_v = _read_rows(
        k, v, of_k, of_v, own, border + BLOCK, whole, start, gradient, log_sums, means,
        key, head, tokens, scale, threshold, H, D, STEP, False, DROPOUT,
    )  # fmt: skip
    of_k, of_v = _read_rows(
        k, v, of_k, of_v, own, tl.maximum(border + BLOCK, whole), tokens, start, gradient, log_sums,
        means, key, head, tokens, scale, threshold, H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    _store(result + H * D, own, 3 * H * D, tokens, of_k * factor, D)
    _store(result + 2 * H * D, own, 3 * H * D, tokens, of_v * upscale, D)
    _store_sum(bias_sums, head, 1, of_k * factor, H, D)
    _store_sum(bias_sums, head, 2, of_v * upscale, H, D)

    q = _load(start, own, 3 * H * D, tokens, D, True)
    g = _load(gradient, own, H * D, tokens, D, True)
    log_sum = tl.load(log_sums + own, own < tokens, 0.0)
    mean = tl.load(means + own, own < tokens, 0.0)
    keys_of_rows = row_keys(key, head, own) if DROPOUT else own
    of_q = tl.zeros([BLOCK, D], tl.float32)
    of_q = _read_columns_again(
        q, g, log_sum, mean, of_q, own, keys_of_rows, 0, border,
        start, tokens, scale, threshold, H, D, STEP, False, DROPOUT,
    )  # fmt: skip
    of_q = _read_columns_again(
        q, g, log_sum, mean, of_q, own, keys_of_rows, border, end,
        start, tokens, scale, threshold, H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    _store(result, own, 3 * H * D, tokens, of_q * factor, D)
    _store_sum(bias_sums, head, 0, of_q * factor, H, D)


@torch.library.custom_op("pretraining::causal_attention", mutates_args=())
def _causal_attention(
    packed: Tensor, bias: Tensor, key: Tensor, heads: int, dropout: float
) -> tuple[Tensor, Tensor]:
    """The result (B, T, C), and the log2 of each row's sum of weights (B * H, T)."""
    rows, tokens, width = packed.shape
    assert packed.is_contiguous()
    mixed = packed.new_empty(rows, tokens, width // 3)
    log_sums = packed.new_empty(rows * heads, tokens, dtype=torch.float32)
    head_size = width // 3 // heads
    _forward[(triton.cdiv(tokens, FORWARD_BLOCK), rows * heads)](
        packed, key, mixed, log_sums, tokens,
        math.log2(math.e) / math.sqrt(head_size), keep_threshold(dropout), 1 / (1 - dropout),
        H=heads, D=head_size, BLOCK=FORWARD_BLOCK, STEP=FORWARD_STEP, DROPOUT=dropout > 0,
        **LAUNCH,
    )  # fmt: skip
    return mixed, log_sums


@_causal_attention.register_fake
def _(
    packed: Tensor, bias: Tensor, key: Tensor, heads: int, dropout: float
) -> tuple[Tensor, Tensor]:
    rows, tokens, width = packed.shape
    return (
        packed.new_empty(rows, tokens, width // 3),
        packed.new_empty(rows * heads, tokens, dtype=torch.float32),
    )


@torch.library.custom_op("pretraining::causal_attention_backward", mutates_args=())
def _causal_attention_backward(
    gradient: Tensor,
    packed: Tensor,
    key: Tensor,
    mixed: Tensor,
    log_sums: Tensor,
    heads: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of `packed`, and its sum over each block of tokens (blocks, 3 * C), fp32."""
    rows, tokens, width = packed.shape
    head_size = width // 3 // heads
    gradient = gradient.contiguous()
    means, of_packed = torch.empty_like(log_sums), torch.empty_like(packed)
    blocks = triton.cdiv(tokens, BACKWARD_BLOCK)
    bias_sums = packed.new_empty(rows * blocks, width, dtype=torch.float32)
    shape = {"H": heads, "D": head_size, "BLOCK": BACKWARD_BLOCK}
    _row_means[(blocks, rows * heads)](mixed, gradient, means, tokens, 1 - dropout, **shape)
    scale, upscale = 1 / math.sqrt(head_size), 1 / (1 - dropout)
    _backward[(blocks, rows * heads)](
        packed, key, gradient, log_sums, means, of_packed, bias_sums, tokens,
        math.log2(math.e) * scale, keep_threshold(dropout), upscale, scale * upscale,
        STEP=BACKWARD_STEP, DROPOUT=dropout > 0, **shape, **LAUNCH,
    )  # fmt: skip
    return of_packed, bias_sums


@_causal_attention_backward.register_fake
def _(
    gradient: Tensor,
    packed: Tensor,
    key: Tensor,
    mixed: Tensor,
    log_sums: Tensor,
    heads: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    rows, tokens, width = packed.shape
    blocks = triton.cdiv(tokens, BACKWARD_BLOCK)
    return torch.empty_like(packed), packed.new_empty(rows * blocks, width, dtype=torch.float32)


def _keep_for_backward(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    packed, _, key, ctx.heads, ctx.dropout = inputs
    ctx.save_for_backward(packed, key, *output)


def _differentiate(
    ctx: Any, gradient: Tensor, _: Tensor
) -> tuple[Tensor, Tensor, None, None, None]:
    of_packed, bias_sums = _causal_attention_backward(
        gradient, *ctx.saved_tensors, ctx.heads, ctx.dropout
    )
    return of_packed, bias_sums.sum(0), None, None, None


_causal_attention.register_autograd(_differentiate, setup_context=_keep_for_backward)


def causal_attention(
    packed: Tensor, bias: Tensor, heads: int, dropout: float, key: Tensor
) -> Tensor:
    """Each token's mean of the values up to its own, (B, T, C), of `packed` (B, T, 3 * C).

    `packed` holds queries, keys and values side by side, contiguous, with heads of HEAD_SIZES.
    It was made with `bias` (3 * C,), detached there: the bias has its gradient from here, where the
    sums cost nothing. `dropout` drops weights as `key` decides: utils.dropout.score_mask.
    """
    mixed: Tensor = _causal_attention(packed, bias, key, heads, dropout)[0]
    return mixed
