"""Causal self-attention on packed projections as an operator of torch, with its gradient."""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from utils.dropout import keep_threshold
from utils.kernels import attention_kernels as kernels

# Rows of a program, tokens of a step of its loop, warps, stages of the pipeline: the fastest of
# some twenty on an H100 for heads of 32 (docs/RESULTS.md). Larger blocks spill registers.
FORWARD_BLOCK, FORWARD_STEP = 64, 64
BACKWARD_BLOCK, BACKWARD_STEP = 64, 32
LAUNCH = {"num_warps": 4, "num_stages": 3}
HEAD_SIZES = (16, 32, 64)


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
    kernels.forward[(rows * heads * triton.cdiv(tokens, FORWARD_BLOCK),)](
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
    kernels.row_means[(rows * heads * blocks,)](
        mixed, gradient, means, tokens, 1 - dropout, **shape
    )
    scale, upscale = 1 / math.sqrt(head_size), 1 / (1 - dropout)
    kernels.backward[(rows * heads * blocks,)](
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
