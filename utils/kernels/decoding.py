"""One token of every row through a decoder with a key/value cache, in few kernels.

At this size a step's time is the number of its kernels: attention with its cache is one, bias,
residual addition and LayerNorm are one, and GELU is part of a matrix product.
"""

import math
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from utils.kernels.residual_norm import add_and_normalise

if TYPE_CHECKING:  # it imports this file
    from utils.inference_model import InferenceLayer, InferenceModel, KeyValueCache

HEAD_SIZES = (16, 32, 64, 128)
BLOCK = 128  # cached tokens that a program reads at a time


def kernels_fit(model: "InferenceModel") -> bool:
    """Whether `decode_one` serves this model where it is."""
    shape = model.config.model
    return model.device.type == "cuda" and shape.hidden_size // shape.num_heads in HEAD_SIZES


@triton.jit
def _attend(
    packed,  # (B, 3 * H * D): queries, keys and values of the new tokens
    keys, values,  # (B, H, capacity, D): the cache of a layer, written at `positions`
    positions,  # (B,) int64
    mixed,  # (B, H * D): the result
    capacity, scale,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one row: the new token attends to those before it and to itself."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    feature, token = tl.arange(0, D), tl.arange(0, BLOCK)
    position = tl.load(positions + row)
    new = packed + row * 3 * H * D + head * D + feature
    q = tl.load(new).to(tl.float32) * scale
    k, v = tl.load(new + H * D), tl.load(new + 2 * H * D)
    head_start = (row * H + head) * capacity * D
    tl.store(keys + head_start + position * D + feature, k)
    tl.store(values + head_start + position * D + feature, v)

    # Weights are powers of 2, whose logarithms `scale` has turned the scores into.
    highest = tl.sum(q * k.to(tl.float32), 0)
    weight_sum = highest * 0.0 + 1.0
    total = v.to(tl.float32)
    for first in range(0, position, BLOCK):
        is_past = first + token < position
        places = head_start + (first + token)[:, None] * D + feature[None, :]
        past_k = tl.load(keys + places, is_past[:, None], 0.0).to(tl.float32)
        past_v = tl.load(values + places, is_past[:, None], 0.0).to(tl.float32)
        scores = tl.where(is_past, tl.sum(q[None, :] * past_k, 1), -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 0))
        weights = tl.exp2(scores - higher)
        correction = tl.exp2(highest - higher)
        weight_sum = weight_sum * correction + tl.sum(weights, 0)
        total = total * correction + tl.sum(weights[:, None] * past_v, 0)
        highest = higher
    tl.store(
        mixed + row * H * D + head * D + feature, (total / weight_sum).to(mixed.dtype.element_ty)
    )


def cached_attention(packed: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """What each new token mixes from its cache, (B, C), of `packed` (B, 3 * C).

    `keys` and `values` (B, H, capacity, C/H) are written at `positions` (B,).
    """
    rows, heads, capacity, head_size = keys.shape
    mixed = packed.new_empty(rows, heads * head_size)
    _attend[(rows, heads)](
        packed, keys, values, positions, mixed, capacity, math.log2(math.e) / math.sqrt(head_size),
        H=heads, D=head_size, BLOCK=BLOCK,
    )  # fmt: skip
    return mixed


def decode_one(
    model: "InferenceModel", token_ids: Tensor, positions: Tensor, cache: "KeyValueCache"
) -> Tensor:
    """Read one token of every row (B,) at `positions` (B,) into the cache; return (B, C)."""
    x = model.token_embedding(token_ids) + model.position_embedding(positions)
    layers = cast("list[InferenceLayer]", list(model.layers))
    norms = [*(layer.norm1 for layer in layers), model.norm]
    normed: Tensor = norms[0](x)
    for layer, next_norm, keys, values in zip(
        layers, norms[1:], cache.keys, cache.values, strict=True
    ):
        mixed = cached_attention(layer.qkv(normed), keys, values, positions)
        x, normed = add_and_normalise(x, layer.out(mixed), layer.norm2)
        branch = layer.down(_gelu_of(layer.up, normed))
        x, normed = add_and_normalise(x, branch, next_norm)
    return normed


def _gelu_of(linear: nn.Module, x: Tensor) -> Tensor:
    """gelu(linear(x)), the tanh form; within the product where it is a plain one."""
    if type(linear) is nn.Linear:
        fused: Tensor = torch._addmm_activation(linear.bias, x, linear.weight.T, use_gelu=True)
        return fused
    return F.gelu(linear(x), approximate="tanh")
