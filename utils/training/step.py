"""One optimizer step: gradients of a few batches, then the clipped update.

On a GPU both parts are replayed as CUDA graphs: some thousand kernels of a step start at once, and
Python no longer stands between them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.config import TrainingConfig
from utils.device import autocast, restore_rng_state, rng_state
from utils.optimizer import Optimizers

WARM_UP_CALLS = 2  # before a capture: the first compiles, the second shows what stays allocated


class TrainStep:
    """Computes gradients and applies them; between the two the caller may look at the loss."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        device: torch.device,
        settings: TrainingConfig,
    ) -> None:
        self.model, self.optimizers, self.device = model, optimizers, device
        self.settings: TrainingConfig = settings
        self.parameters = list(model.parameters())
        self.outcome = torch.zeros(2, device=device)  # the loss, and the norm of its gradient
        self._graphs: _StepGraphs | None = None

    def prepare(self, rows: int, window: int) -> None:
        """Capture the step for batches of (rows, window), where graphs are on; no state changes."""
        if self.device.type == "cuda" and self.settings.cuda_graphs:
            self._graphs = _StepGraphs(self, torch.zeros(rows, window, dtype=torch.int64))

    def gradients(self, batches: Sequence[Tensor]) -> tuple[float, float]:
        """The mean loss of `batches` (rows, window) and the norm of its gradient.

        Waits for the device. The gradient stays until `apply` or `discard`.
        """
        assert len(batches) == self.settings.gradient_accumulation_steps
        for number, batch in enumerate(batches):
            if self._graphs is None:
                self.accumulate(batch, is_first=number == 0)
            else:
                self._graphs.accumulate(batch, is_first=number == 0)
        loss, norm = self.outcome.tolist()
        return loss, norm

    def apply(self) -> None:
        """Clip the gradient, update the weights with it, and drop it."""
        if self._graphs is None:
            self.update()
        else:
            self._graphs.update.replay()
        self.discard()

    def discard(self) -> None:
        """Drop the gradient; weights and optimizer state stay as they are."""
        if self._graphs is None:  # graphs write over it
            self.optimizers.zero_grad()

    def accumulate(self, batch: Tensor, is_first: bool) -> None:
        """Add a batch's share to the gradient and to the outcome."""
        share = 1 / self.settings.gradient_accumulation_steps
        with autocast(self.device, self.settings.precision):
            loss = self.model.loss(batch) * share  # type: ignore[operator]
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        before = torch.zeros_like(loss) if is_first else self.outcome[0]
        self.outcome.copy_(
            torch.stack([before + loss.detach(), nn.utils.get_total_norm(gradients)])
        )

    def update(self) -> None:
        nn.utils.clip_grads_with_norm_(
            self.parameters, self.settings.max_grad_norm, self.outcome[1]
        )
        self.optimizers.step()


class _StepGraphs:
    """The parts of a step, captured: the first batch's gradient, a further one's, the update."""

    def __init__(self, step: TrainStep, batch: Tensor) -> None:
        self.batch = batch.to(step.device)
        before = rng_state(step.device)
        stream = torch.cuda.Stream(step.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                step.accumulate(self.batch, is_first=True)
                step.optimizers.zero_grad()
        torch.cuda.current_stream().wait_stream(stream)
        self.first = _capture(lambda: step.accumulate(self.batch, is_first=True))
        pool = self.first.pool()
        if step.settings.gradient_accumulation_steps > 1:
            self.more = _capture(lambda: step.accumulate(self.batch, is_first=False), pool)
        self.update = _capture(step.update, pool)
        restore_rng_state(before, step.device)

    def accumulate(self, batch: Tensor, is_first: bool) -> None:
        self.batch.copy_(batch, non_blocking=True)
        (self.first if is_first else self.more).replay()


def _capture(call: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        call()
    return graph
