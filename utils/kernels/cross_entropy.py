"""The mean loss of a tied head without a second copy of the logits: they become their gradient.

Logits of a batch are the largest tensor of a step (2.1 GB in bf16 at 64 x 512 tokens). Reading
each row once, and writing its gradient over it, is all the memory traffic that the loss needs.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

PADDED_TO = 64  # rows of the head's weight; cuBLAS is slower on 32,016 columns than on 32,064


@triton.jit
def _loss_and_gradient(
    logits,  # (rows, padded); the gradient of the row's own loss afterwards, if WITH_GRADIENT
    targets,  # (rows,), negative where there is none
    losses,  # (rows,)
    vocabulary,
    padded,
    share,  # of a row in the mean
    BLOCK: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    counts = tl.where(target >= 0, 1.0, 0.0)
    scores = tl.load(logits + row * padded + columns, columns < vocabulary, -float("inf"))
    scores = scores.to(tl.float32)
    highest = tl.max(scores, 0)
    powers = tl.exp(scores - highest)
    total = tl.sum(powers, 0)
    of_target = tl.sum(tl.where(columns == target, scores, 0.0), 0)
    tl.store(losses + row, (highest + tl.log(total) - of_target) * counts * share)
    if WITH_GRADIENT:
        # Not the share's: near -1 / count on the targets, which bf16 would round all alike.
        gradient = powers * (counts / total) - tl.where(columns == target, counts, 0.0)
        place = logits + row * padded + columns
        tl.store(place, gradient.to(logits.dtype.element_ty), columns < padded)


class _TiedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        embedding: Tensor,
        targets: Tensor,
        count: int,
        needs_gradient: bool,  # ctx knows only of the inputs, not of torch.no_grad
    ) -> Tensor:
        vocabulary = len(embedding)
        rows_to_add = -vocabulary % PADDED_TO
        weight = F.pad(embedding.to(hidden.dtype), (0, 0, 0, rows_to_add))  # (padded, C)
        logits = hidden @ weight.T  # (rows, padded)
        losses = torch.empty(len(hidden), device=hidden.device)
        _loss_and_gradient[(len(hidden),)](
            logits,
            targets,
            losses,
            vocabulary,
            len(weight),
            1.0 / count,
            BLOCK=triton.next_power_of_2(len(weight)),
            WITH_GRADIENT=needs_gradient,
            num_warps=16,
        )
        if needs_gradient:
            ctx.save_for_backward(hidden, weight, logits)
            ctx.vocabulary, ctx.count = vocabulary, count
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, gradient = ctx.saved_tensors
        scale = scale / ctx.count
        # In fp32, or the layers' share of the gradient would be rounded apart from the head's.
        of_hidden = ((gradient @ weight).float() * scale).to(weight.dtype)
        of_weight = (gradient.T @ hidden)[: ctx.vocabulary].float() * scale
        return of_hidden, of_weight, None, None, None


def tied_head_loss(hidden: Tensor, embedding: Tensor, targets: Tensor, count: int) -> Tensor:
    """Mean cross-entropy of `hidden @ embedding.T` on `targets`, over `count` of them.

    `hidden` (rows, C) decides the type of the products; `embedding` (V, C); `targets` (rows,)
    int64, negative where a row has none.
    """
    needs_gradient = torch.is_grad_enabled()
    loss: Tensor = _TiedHeadLoss.apply(hidden, embedding, targets, count, needs_gradient)
    return loss
