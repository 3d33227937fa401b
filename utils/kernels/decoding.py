"""Prompts and single tokens through a decoder with a key/value cache, in few kernels."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.kernels.residual_norm import add_and_normalise
from utils.kernels.token_kernels import FEW_ROWS, cached_attention, multiply
from utils.quantized_linear import Int8Linear

if TYPE_CHECKING:  # it imports this file
    from utils.inference_model import InferenceLayer, InferenceModel, KeyValueCache

HEAD_SIZES = (16, 32, 64, 128)
MAX_INPUTS = 8_192  # of our products: a program has whole rows of a matrix in registers


def kernels_fit(model: "InferenceModel") -> bool:
    """Whether this serves the model where it is."""
    shape = model.config.model
    return model.device.type == "cuda" and shape.hidden_size // shape.num_heads in HEAD_SIZES


def read_prompts(model: "InferenceModel", input_ids: Tensor, cache: "KeyValueCache") -> Tensor:
    """Read prompts (B, T) into the cache, from position 0 on; return (B, T, C)."""
    rows, tokens = input_ids.shape
    x = model.token_embedding(input_ids) + model.position_embedding.weight[:tokens]

    def attend(layer: "InferenceLayer", normed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return layer.attend(normed.view(rows, tokens, -1), keys, values).flatten(0, 1)

    return _through_layers(model, x.flatten(0, 1), cache, attend).view(rows, tokens, -1)


def decode_one(
    model: "InferenceModel", token_ids: Tensor, positions: Tensor, cache: "KeyValueCache"
) -> Tensor:
    """Read one token of every row (B,) at `positions` (B,) into the cache; return (B, C)."""
    x = model.token_embedding(token_ids) + model.position_embedding(positions)
    positions = positions.contiguous()
    if len(token_ids) <= FEW_ROWS and _products_fit(model):
        return _decode_few(model, x, positions, cache)

    def attend(layer: "InferenceLayer", normed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return cached_attention(layer.qkv(normed), keys, values, positions)

    return _through_layers(model, x, cache, attend)


def _decode_few(
    model: "InferenceModel", x: Tensor, positions: Tensor, cache: "KeyValueCache"
) -> Tensor:
    """`x` (B, C) behind the layers, by our own products."""
    for layer, keys, values in zip(_layers(model), cache.keys, cache.values, strict=True):
        packed = multiply(x, layer.qkv, layer.norm1)
        x = multiply(cached_attention(packed, keys, values, positions), layer.out, stream=x)
        hidden = multiply(x, layer.up, layer.norm2, uses_gelu=True)
        x = multiply(hidden, layer.down, stream=x)
    out: Tensor = model.norm(x)
    return out


def _products_fit(model: "InferenceModel") -> bool:
    return 4 * model.config.model.hidden_size <= MAX_INPUTS and all(
        isinstance(linear, nn.Linear | Int8Linear)
        for layer in _layers(model)
        for linear in (layer.qkv, layer.out, layer.up, layer.down)
    )


def _through_layers(
    model: "InferenceModel", x: Tensor, cache: "KeyValueCache", attend: Callable[..., Tensor]
) -> Tensor:
    """`x` (rows, C) behind the layers, by torch's products."""
    layers = _layers(model)
    norms = [*(layer.norm1 for layer in layers), model.norm]
    normed: Tensor = norms[0](x)
    for layer, next_norm, keys, values in zip(
        layers, norms[1:], cache.keys, cache.values, strict=True
    ):
        mixed = attend(layer, normed, keys, values)
        x, normed = add_and_normalise(x, layer.out(mixed), layer.norm2)
        branch = layer.down(_gelu_of(layer.up, normed))
        x, normed = add_and_normalise(x, branch, next_norm)
    return normed


def _layers(model: "InferenceModel") -> "list[InferenceLayer]":
    return cast("list[InferenceLayer]", list(model.layers))


def _gelu_of(linear: nn.Module, x: Tensor) -> Tensor:
    """gelu(linear(x)), the tanh form; within the product where it is a plain one."""
    if type(linear) is nn.Linear:
        fused: Tensor = torch._addmm_activation(linear.bias, x, linear.weight.T, use_gelu=True)
        return fused
    return F.gelu(linear(x), approximate="tanh")
