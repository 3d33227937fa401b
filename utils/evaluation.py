"""What a model is worth while it trains: its loss on held-out text, and what it writes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from utils.device import autocast
from utils.metrics import BITS_PER_BYTE, PERPLEXITY, VALIDATION_LOSS, perplexity


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of held-out text: nats a token, and bits for each byte of UTF-8 text.

    Losses of models with different tokenizers cannot be compared; bits per byte can.
    """

    loss: float
    bits_per_byte: float

    @classmethod
    def of(cls, nats: float, predictions: int, text_bytes: int) -> Self:
        """From the sum of -ln p of so many predicted tokens, which stand for so many bytes.

        Tokens that stand for no text have NaN bits a byte.
        """
        bits = nats / math.log(2)
        return cls(nats / predictions, bits / text_bytes if text_bytes else math.nan)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    def scalars(self) -> dict[str, float]:
        """All of it, by the names it is logged under."""
        return {
            VALIDATION_LOSS: self.loss,
            PERPLEXITY: self.perplexity,
            BITS_PER_BYTE: self.bits_per_byte,
        }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device,
    precision: str,
    batch_size: int,
    token_bytes: Tensor,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """The model's mean loss over `batches` (rows, window), in eval mode.

    `token_bytes` (vocabulary,) int64 on `device` says how many bytes each id stands for. Every
    window counts the same, however many rows its batch has. None as soon as `should_stop` says
    so. Batches smaller than `batch_size` run uncompiled: their shape is not worth compiling.
    """
    was_training = model.training
    model.eval()
    nats = torch.zeros((), dtype=torch.float64, device=device)
    text_bytes = torch.zeros((), dtype=torch.int64, device=device)
    predictions, is_stopped = 0, False
    for batch in batches:
        if is_stopped := should_stop():
            break
        ids = batch.to(device, non_blocking=True)
        targets = ids[:, 1:]
        stance = "default" if len(ids) == batch_size else "force_eager"
        with torch.compiler.set_stance(stance), autocast(device, precision):
            nats += model.loss(ids).double() * targets.numel()  # type: ignore[operator]
        text_bytes += token_bytes[targets.long()].sum()
        predictions += targets.numel()
    model.train(was_training)
    if is_stopped or should_stop():
        return None
    assert predictions, "nothing to predict"
    return Evaluation.of(nats.item(), predictions, int(text_bytes.item()))


def continuations(
    generate: Callable[[Tensor], Tensor],
    prompts: Sequence[Sequence[int]],
    device: torch.device,
    precision: str,
) -> Iterator[list[int]]:
    """Each prompt's ids with what `generate` adds to (1, tokens) of them, uncompiled."""
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=device)
        with torch.compiler.set_stance("force_eager"), autocast(device, precision):
            yield generate(ids)[0].tolist()
