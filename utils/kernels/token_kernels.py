"""What one token of each row costs in a layer: products of a matrix with a row, and attention.

A step of one row is a chain of small kernels, each waiting for the one before. So a kernel starts
while the last one still runs, brings what does not depend on it (weights, the cache of earlier
steps) into registers, and only then waits: NVIDIA calls it programmatic dependent launch; it takes
a GPU of compute capability 9.0, and elsewhere the kernels start one after the other.
Bias, LayerNorm, GELU and the residual addition are part of the products. A row's result does not
depend on how many rows there are, up to FEW_ROWS.

Shapes: B rows, H heads of D features, C = H * D.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from utils.quantized_linear import Int8Linear

FEW_ROWS = 16  # up to which our products, which read weights for each, are faster than cuBLAS's
PROGRAMS = 128  # of a product, for each row: about one for each processor of an H100
MATRIX_TILE = 16_384  # weights that a program holds at most, in registers
CACHE_TILE = 8_192  # features of cached keys that a program of 8 warps reads at a time
_CHAINS_FROM = (9, 0)


@triton.jit
def _multiply(
    x,  # (B, K)
    norm_weight, norm_bias,  # (K,), read where NORM
    matrix, scales,  # (N, K), and a factor for each output (N,), read where SCALED
    bias,  # (N,)
    stream,  # (B, N), read where ADD
    out,  # (B, N)
    eps,
    K: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
    NORM: tl.constexpr, SCALED: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    CHAINED: tl.constexpr,
):  # fmt: skip
    """Some outputs of one row: stream + gelu(matrix @ norm(x) + bias), with the parts asked for."""
    if CHAINED:
        gdc_launch_dependents()
    output, feature = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    row = tl.program_id(1).to(tl.int64)
    is_output, is_feature = output < N, feature < K
    places = output.to(tl.int64)[:, None] * K + feature[None, :]
    weights = tl.load(matrix + places, is_output[:, None] & is_feature[None, :], 0)
    shift = tl.load(bias + output, is_output, 0.0).to(tl.float32)
    if SCALED:
        scale = tl.load(scales + output, is_output, 0.0).to(tl.float32)
    if NORM:
        gain = tl.load(norm_weight + feature, is_feature, 0.0).to(tl.float32)
        centre = tl.load(norm_bias + feature, is_feature, 0.0).to(tl.float32)
    if CHAINED:
        gdc_wait()

    values = tl.load(x + row * K + feature, is_feature, 0.0).to(tl.float32)
    if NORM:
        centred = tl.where(is_feature, values - tl.sum(values, 0) / K, 0.0)
        values = centred * tl.rsqrt(tl.sum(centred * centred, 0) / K + eps) * gain + centre
    result = tl.sum(weights.to(tl.float32) * values[None, :], 1)
    if SCALED:
        result *= scale
    result += shift
    if GELU:  # the tanh form: tanh(a) = 2 * sigmoid(2 a) - 1
        result *= tl.sigmoid(1.5957691216057308 * (result + 0.044715 * result * result * result))
    if ADD:
        result += tl.load(stream + row * N + output, is_output, 0.0).to(tl.float32)
    tl.store(out + row * N + output, result.to(out.dtype.element_ty), is_output)


def multiply(
    x: Tensor,
    linear: nn.Linear | Int8Linear,
    norm: nn.LayerNorm | None = None,
    uses_gelu: bool = False,
    stream: Tensor | None = None,
) -> Tensor:
    """`stream + gelu(linear(norm(x)))`, (B, N) of `x` (B, K), with the parts that are asked for.

    Sums are of fp32, and nothing between is rounded.
    """
    matrix, scales = stored_matrix(linear)
    outputs, inputs = matrix.shape
    out = x.new_empty(len(x), outputs)
    padded = triton.next_power_of_2(inputs)
    block = min(triton.next_power_of_2(triton.cdiv(outputs, PROGRAMS)), MATRIX_TILE // padded)
    # In the place of what is not there stands x: with arguments of one kind, one launcher serves.
    _multiply[(triton.cdiv(outputs, block), len(x))](
        x, norm.weight if norm else x, norm.bias if norm else x, matrix,
        x if scales is None else scales, linear.bias, x if stream is None else stream, out,
        norm.eps if norm else 0.0,
        K=inputs, N=outputs, BLOCK_K=padded, BLOCK_N=block,
        NORM=norm is not None, SCALED=scales is not None, GELU=uses_gelu, ADD=stream is not None,
        num_warps=4, **_chain(x.device),
    )  # fmt: skip
    return out


def stored_matrix(linear: nn.Linear | Int8Linear) -> tuple[Tensor, Tensor | None]:
    """The matrix (N, K) as it is stored, and the factors of its rows, if it has some."""
    if isinstance(linear, Int8Linear):
        return linear.codes, linear.scales
    return linear.weight, None


@triton.jit
def _attend(
    packed,  # (B, 3 * C): queries, keys and values of the new tokens
    keys, values,  # (B, H, capacity, D): the cache of a layer, written at `positions`
    positions,  # (B,) int64
    mixed,  # (B, C): the result
    capacity, scale,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, CHAINED: tl.constexpr,
):  # fmt: skip
    """One head of one row: the new token attends to those before it and to itself."""
    if CHAINED:
        gdc_launch_dependents()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    feature, token = tl.arange(0, D), tl.arange(0, BLOCK)
    position = tl.load(positions + row)
    head_start = (row * H + head) * capacity * D
    places = head_start + token[:, None] * D + feature[None, :]
    past_k = tl.load(keys + places, (token < position)[:, None], 0.0)
    past_v = tl.load(values + places, (token < position)[:, None], 0.0)
    if CHAINED:
        gdc_wait()

    new = packed + row * 3 * H * D + head * D + feature
    q = tl.load(new).to(tl.float32) * scale
    k, v = tl.load(new + H * D), tl.load(new + 2 * H * D)
    tl.store(keys + head_start + position * D + feature, k)
    tl.store(values + head_start + position * D + feature, v)
    # Weights are powers of 2, whose logarithms `scale` has turned the scores into.
    highest = tl.sum(q * k.to(tl.float32), 0)
    weight_sum = highest * 0.0 + 1.0
    total = v.to(tl.float32)
    for first in range(0, position, BLOCK):
        scores = tl.sum(q[None, :] * past_k.to(tl.float32), 1)
        scores = tl.where(first + token < position, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 0))
        weights, correction = tl.exp2(scores - higher), tl.exp2(highest - higher)
        weight_sum = weight_sum * correction + tl.sum(weights, 0)
        total = total * correction + tl.sum(weights[:, None] * past_v.to(tl.float32), 0)
        highest = higher
        is_next = (first + BLOCK + token < position)[:, None]
        past_k = tl.load(keys + places + (first + BLOCK) * D, is_next, 0.0)
        past_v = tl.load(values + places + (first + BLOCK) * D, is_next, 0.0)
    tl.store(
        mixed + row * H * D + head * D + feature, (total / weight_sum).to(mixed.dtype.element_ty)
    )


def cached_attention(packed: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """What each new token mixes from its cache, (B, C), of `packed` (B, 3 * C).

    `keys` and `values` (B, H, capacity, D) are written at `positions` (B,).
    """
    rows, heads, capacity, head_size = keys.shape
    mixed = packed.new_empty(rows, heads * head_size)
    # Of many rows, smaller programs share a processor.
    tile, warps = (CACHE_TILE, 8) if rows <= FEW_ROWS else (CACHE_TILE // 2, 4)
    block = min(triton.next_power_of_2(capacity), tile // head_size)
    _attend[(rows, heads)](
        packed, keys, values, positions, mixed, capacity, math.log2(math.e) / math.sqrt(head_size),
        H=heads, D=head_size, BLOCK=block, num_warps=warps, **_chain(packed.device),
    )  # fmt: skip
    return mixed


@cache
def _chain(device: torch.device) -> dict[str, bool]:
    """How to launch a kernel, so that it starts while the one before runs, where that is possible.

    What comes before must be of the same step, or wait for the step before.
    """
    is_possible = torch.cuda.get_device_capability(device) >= _CHAINS_FROM
    return {"CHAINED": is_possible, "launch_pdl": is_possible}
