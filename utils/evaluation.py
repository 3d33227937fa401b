"""What a model is worth while it trains: its loss on held-out text, and what it writes."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from utils.device import autocast


@torch.no_grad()
def mean_loss(
    model: nn.Module,
    batches: Iterable[Tensor],
    device: torch.device,
    precision: str,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """The model's mean loss a token over `batches` (rows, window), in eval mode.

    Every window counts the same, however many rows its batch has. None as soon as `should_stop`
    says so. Batches smaller than `batch_size` run uncompiled: their shape is not worth compiling.
    """
    was_training = model.training
    model.eval()
    total, rows = torch.zeros((), dtype=torch.float64, device=device), 0
    for batch in batches:
        if should_stop():
            break
        ids = batch.to(device, non_blocking=True)
        stance = "default" if len(ids) == batch_size else "force_eager"
        with torch.compiler.set_stance(stance), autocast(device, precision):
            total += model(ids, labels=ids)["loss"].double() * len(ids)
        rows += len(ids)
    model.train(was_training)
    return None if should_stop() else (total / rows).item()


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
