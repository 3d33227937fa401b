"""A feed-forward block whose GELU is part of the matrix products around it.

The hidden layer is the widest tensor of a decoder layer. Forward, one kernel writes it before and
after the activation, where a product and a GELU would write it, read it and write it again;
backward, one kernel turns the product's result into the gradient before the activation and adds up
the bias's. The other four products are cuBLAS's.

Shapes: R rows, C width, F = 4 * C hidden. Tiles are read and written through tensor descriptors
(the copy engine of NVIDIA's Hopper), which fill up with zeros beyond a tensor's end.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

# The fastest of ten on an H100 for R = 32,768 and C = 512 (docs/RESULTS.md).
ROWS, COLUMNS, DEPTH = 128, 128, 64  # of a program's tile, and of the products' inner dimension
GROUP = 8  # rows of tiles that are worked on together, so that the L2 cache holds their inputs
LAUNCH = {"num_warps": 4, "num_stages": 3}


@triton.jit
def _tile(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Where this program's tile begins: row, column."""
    program, tiles_across = tl.program_id(0), tl.cdiv(columns, COLUMNS)
    first = program // (GROUP * tiles_across) * GROUP
    group = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    within = program % (GROUP * tiles_across)
    return (first + within % group) * ROWS, within // group * COLUMNS


@triton.jit
def _gate(x):
    """gelu(x) = x * gate(x): its tanh form, as a sigmoid."""
    return tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))


@triton.jit
def _gelu_slope(x):
    gate = _gate(x)
    return gate + x * gate * (1 - gate) * 1.5957691216057308 * (1 + 0.134145 * x * x)


@triton.jit
def _expand(
    x, weight, bias, before, after, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """before = x @ weight.T + bias, after = gelu(before)."""
    row, column = _tile(rows, columns, ROWS, COLUMNS, GROUP)
    hidden = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(0, depth, DEPTH):
        hidden = tl.dot(x.load([row, k]), weight.load([column, k]).T, hidden)
    places = column + tl.arange(0, COLUMNS)
    hidden += tl.load(bias + places, places < columns, 0.0).to(tl.float32)[None, :]
    before.store([row, column], hidden.to(before.dtype))
    after.store([row, column], (hidden * _gate(hidden)).to(after.dtype))


@triton.jit
def _expand_backward(
    of_output, weight, before, of_before, bias_sums, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """of_before = (of_output @ weight) * gelu'(before), and its sum over each tile's rows."""
    row, column = _tile(rows, columns, ROWS, COLUMNS, GROUP)
    gradient = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(0, depth, DEPTH):
        gradient = tl.dot(of_output.load([row, k]), weight.load([k, column]), gradient)
    gradient *= _gelu_slope(before.load([row, column]).to(tl.float32))
    of_before.store([row, column], gradient.to(of_before.dtype))
    places = column + tl.arange(0, COLUMNS)
    tl.store(bias_sums + row // ROWS * columns + places, tl.sum(gradient, 0), places < columns)


def _tiles(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(tensor, [rows, columns])


def _grid(rows: int, columns: int) -> tuple[int]:
    return (triton.cdiv(rows, ROWS) * triton.cdiv(columns, COLUMNS),)


_SHAPE = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "GROUP": GROUP}


@torch.library.custom_op("pretraining::feed_forward", mutates_args=())
def _feed_forward(
    x: Tensor, expand: Tensor, bias: Tensor, contract: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The result (R, C), and the hidden layer (R, F) before and after the activation."""
    rows, hidden = len(x), len(expand)
    before = x.new_empty(rows, hidden)
    after = torch.empty_like(before)
    _expand[_grid(rows, hidden)](
        _tiles(x, ROWS, DEPTH), _tiles(expand, COLUMNS, DEPTH), bias,
        _tiles(before, ROWS, COLUMNS), _tiles(after, ROWS, COLUMNS),
        rows, hidden, x.size(1), **_SHAPE, **LAUNCH,
    )  # fmt: skip
    return after @ contract.T, before, after


@_feed_forward.register_fake
def _(x: Tensor, expand: Tensor, bias: Tensor, contract: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    hidden = x.new_empty(len(x), len(expand))
    return torch.empty_like(x), hidden, torch.empty_like(hidden)


@torch.library.custom_op("pretraining::feed_forward_backward", mutates_args=())
def _feed_forward_backward(
    gradient: Tensor, x: Tensor, expand: Tensor, contract: Tensor, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, expand and contract; the bias's for each tile of rows (tiles, F)."""
    gradient = gradient.contiguous()
    rows, hidden = before.shape
    of_before = torch.empty_like(before)
    bias_sums = x.new_empty(triton.cdiv(rows, ROWS), hidden, dtype=torch.float32)
    _expand_backward[_grid(rows, hidden)](
        _tiles(gradient, ROWS, DEPTH), _tiles(contract, DEPTH, COLUMNS),
        _tiles(before, ROWS, COLUMNS), _tiles(of_before, ROWS, COLUMNS), bias_sums,
        rows, hidden, x.size(1), **_SHAPE, **LAUNCH,
    )  # fmt: skip
    return of_before @ expand, of_before.T @ x, gradient.T @ after, bias_sums


@_feed_forward_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, expand: Tensor, contract: Tensor, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tiles = triton.cdiv(len(x), ROWS)
    return (
        torch.empty_like(x),
        torch.empty_like(expand),
        torch.empty_like(contract),
        x.new_empty(tiles, len(expand), dtype=torch.float32),
    )


def _keep_for_backward(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, expand, _, contract = inputs
    ctx.save_for_backward(x, expand, contract, output[1], output[2])


def _differentiate(
    ctx: Any, gradient: Tensor, _before: Tensor, _after: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_x, of_expand, of_contract, bias_sums = _feed_forward_backward(gradient, *ctx.saved_tensors)
    return of_x, of_expand, bias_sums.sum(0), of_contract


_feed_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)


def feed_forward(x: Tensor, expand: Tensor, bias: Tensor, contract: Tensor) -> Tensor:
    """gelu(x @ expand.T + bias) @ contract.T in the type of `x` (B, T, C), with the tanh GELU.

    `expand` (F, C), `bias` (F,) and `contract` (C, F) may be of another type.
    """
    y: Tensor = _feed_forward(x.flatten(0, 1), expand.to(x.dtype), bias, contract.to(x.dtype))[0]
    return y.view(x.shape)
