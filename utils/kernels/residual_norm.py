"""Adding a branch to the residual stream and normalising the sum, as one operator of torch.

Bias, dropout, addition and LayerNorm read and write the stream once; so do their gradients, which
also come with the sums over all tokens that the bias and the LayerNorm's own parameters need. A
program's share of those sums has a row of its own: two runs agree to the bit.

Shapes: R rows (tokens), C width.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from utils.dropout import keep_threshold
from utils.kernels.hashing import keeps_positions

PROGRAMS = 512  # of the backward pass: four for each of the 132 processors of an H100, at once
TILE = 2_048  # features that a program works on at a time, in whole rows
_FEATURES_A_WARP = 512


class Branch(NamedTuple):
    """What shall be added to the stream: `dropout(values + bias)`."""

    values: Tensor  # as the stream
    bias: Tensor  # (C,)


@triton.jit
def _tile(first, rows, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Of ROWS rows from `first` on: where they lie in memory, and what of it is inside."""
    row, column = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    places = row.to(tl.int64)[:, None] * width + column[None, :]
    return places, (row < rows)[:, None] & (column < width)[None, :]


@triton.jit
def _forward(
    x, values, bias, weight, shift, key,  # bias and key are read only where there are such
    added, normed,  # (R, C)
    means, scales,  # (R,): the mean of each row of `added`, and one over its deviation
    rows, eps, threshold, upscale,
    width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    DROPOUT: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ROWS
    places, inside = _tile(first, rows, width, ROWS, WIDTH)
    row, column = first + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    branch = tl.load(values + places, inside, 0.0).to(tl.float32)
    if BIAS:
        branch += tl.load(bias + column, column < width, 0.0).to(tl.float32)[None, :]
    if DROPOUT:
        branch = tl.where(keeps_positions(key, places, threshold), branch * upscale, 0.0)
    total = (tl.load(x + places, inside, 0.0).to(tl.float32) + branch).to(added.dtype.element_ty)
    tl.store(added + places, total, inside)
    total = total.to(tl.float32)  # what is stored is what is normalised
    mean = tl.sum(tl.where(inside, total, 0.0), 1) / width
    centred = tl.where(inside, total - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    result = centred * scale[:, None] * tl.load(weight + column, column < width, 0.0)[None, :]
    result += tl.load(shift + column, column < width, 0.0)[None, :]
    tl.store(normed + places, result.to(normed.dtype.element_ty), inside)
    tl.store(means + row, mean, row < rows)
    tl.store(scales + row, scale, row < rows)


@triton.jit
def _backward(
    of_added, of_normed, added, means, scales, weight, key,
    of_x, of_values,  # (R, C); the same tensor without dropout
    sums,  # (programs, 3 * C): a share of the gradients of weight, shift and bias
    rows, threshold, upscale,
    width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, WIDTH)
    factor = tl.load(weight + column, column < width, 0.0)[None, :]
    of_weight = tl.zeros([ROWS, WIDTH], tl.float32)
    of_shift = tl.zeros([ROWS, WIDTH], tl.float32)
    of_bias = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        places, inside = _tile(first, rows, width, ROWS, WIDTH)
        row = first + tl.arange(0, ROWS)
        gradient = tl.load(of_normed + places, inside, 0.0).to(tl.float32)
        total = tl.load(added + places, inside, 0.0).to(tl.float32)
        mean, scale = tl.load(means + row, row < rows, 0.0), tl.load(scales + row, row < rows, 0.0)
        unit = tl.where(inside, (total - mean[:, None]) * scale[:, None], 0.0)
        of_weight += gradient * unit
        of_shift += gradient
        of_unit = gradient * factor
        along = tl.sum(of_unit * unit, 1) / width
        middle = tl.sum(of_unit, 1) / width
        result = (of_unit - middle[:, None] - unit * along[:, None]) * scale[:, None]
        result += tl.load(of_added + places, inside, 0.0).to(tl.float32)
        tl.store(of_x + places, result.to(of_x.dtype.element_ty), inside)
        if DROPOUT:
            result = tl.where(keeps_positions(key, places, threshold), result * upscale, 0.0)
            tl.store(of_values + places, result.to(of_values.dtype.element_ty), inside)
        of_bias += tl.where(inside, result, 0.0)
    share = sums + tl.program_id(0) * 3 * width + column
    tl.store(share, tl.sum(of_weight, 0), column < width)
    tl.store(share + width, tl.sum(of_shift, 0), column < width)
    tl.store(share + 2 * width, tl.sum(of_bias, 0), column < width)


def _launch(width: int) -> dict[str, int]:
    padded = triton.next_power_of_2(width)
    rows = max(1, TILE // padded)
    warps = min(max(rows * padded // _FEATURES_A_WARP, 1), 16)
    return {"width": width, "ROWS": rows, "WIDTH": padded, "num_warps": warps}


@torch.library.custom_op("pretraining::residual_norm", mutates_args=())
def _residual_norm(
    x: Tensor, values: Tensor, bias: Tensor, weight: Tensor, shift: Tensor, key: Tensor,
    eps: float, dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The sum and what it is normalised to (..., C); means and scales of its rows (R,), fp32."""
    assert x.is_contiguous()
    assert values.is_contiguous()
    rows, width = x.numel() // x.size(-1), x.size(-1)
    added, normed = torch.empty_like(x), torch.empty_like(x)
    means = x.new_empty(rows, dtype=torch.float32)
    scales = torch.empty_like(means)
    launch = _launch(width)
    _forward[(triton.cdiv(rows, launch["ROWS"]),)](
        x, values, bias, weight, shift, key, added, normed, means, scales,
        rows, eps, keep_threshold(dropout), 1 / (1 - dropout),
        DROPOUT=dropout > 0, BIAS=True, **launch,
    )  # fmt: skip
    return added, normed, means, scales


@_residual_norm.register_fake
def _(
    x: Tensor, values: Tensor, bias: Tensor, weight: Tensor, shift: Tensor, key: Tensor,
    eps: float, dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    means = x.new_empty(x.numel() // x.size(-1), dtype=torch.float32)
    return torch.empty_like(x), torch.empty_like(x), means, torch.empty_like(means)


@torch.library.custom_op("pretraining::residual_norm_backward", mutates_args=())
def _residual_norm_backward(
    of_added: Tensor, of_normed: Tensor, added: Tensor, means: Tensor, scales: Tensor,
    weight: Tensor, key: Tensor, dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, and of values where dropout makes it another (else nothing); shares
    (PROGRAMS, 3 * C) of those of weight, shift and bias, fp32.
    """
    of_added, of_normed = of_added.contiguous(), of_normed.contiguous()
    width = added.size(-1)
    of_x = torch.empty_like(added)
    of_values = torch.empty_like(added) if dropout else added.new_empty(0)
    sums = added.new_empty(PROGRAMS, 3 * width, dtype=torch.float32)
    _backward[(PROGRAMS,)](
        of_added, of_normed, added, means, scales, weight, key, of_x, of_values, sums,
        len(means), keep_threshold(dropout), 1 / (1 - dropout), DROPOUT=dropout > 0,
        **_launch(width),
    )  # fmt: skip
    return of_x, of_values, sums


@_residual_norm_backward.register_fake
def _(
    of_added: Tensor, of_normed: Tensor, added: Tensor, means: Tensor, scales: Tensor,
    weight: Tensor, key: Tensor, dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    of_values = torch.empty_like(added) if dropout else added.new_empty(0)
    sums = added.new_empty(PROGRAMS, 3 * added.size(-1), dtype=torch.float32)
    return torch.empty_like(added), of_values, sums


def _keep_for_backward(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
    weight, key, ctx.dropout = inputs[3], inputs[5], inputs[7]
    added, _, means, scales = output
    ctx.save_for_backward(added, means, scales, weight, key)


def _differentiate(
    ctx: Any, of_added: Tensor, of_normed: Tensor, _means: Tensor, _scales: Tensor
) -> tuple[Tensor | None, ...]:
    of_x, of_values, sums = _residual_norm_backward(
        of_added, of_normed, *ctx.saved_tensors, ctx.dropout
    )
    of_weight, of_shift, of_bias = sums.sum(0).chunk(3)
    return of_x, of_values if ctx.dropout else of_x, of_bias, of_weight, of_shift, None, None, None


_residual_norm.register_autograd(_differentiate, setup_context=_keep_for_backward)


def residual_norm(
    x: Tensor, branch: Branch, norm: nn.LayerNorm, dropout: float, key: Tensor
) -> tuple[Tensor, Tensor]:
    """The stream `x` (..., C) with the branch added, and that sum normalised, both as `x`.

    `key`, one int32, decides what dropout drops, as in utils.dropout.hash_dropout. Parameters are
    of fp32, whatever `x` is.
    """
    added, normed, _, _ = _residual_norm(
        x, branch.values, branch.bias, norm.weight, norm.bias, key, norm.eps, dropout
    )
    return added, normed


def add_and_normalise(x: Tensor, values: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`x + values` (R, C) and that sum normalised, without gradients; parameters of any type."""
    rows, width = x.shape
    added, normed = torch.empty_like(x), torch.empty_like(x)
    statistics = x.new_empty(2, rows, dtype=torch.float32)
    launch = _launch(width)
    _forward[(triton.cdiv(rows, launch["ROWS"]),)](
        x, values, None, norm.weight, norm.bias, None, added, normed, *statistics,
        rows, norm.eps, 0, 1.0, DROPOUT=False, BIAS=False, **launch,
    )  # fmt: skip
    return added, normed
