"""The optimizers: AdamW, and Muon for the layers' matrices; and which parameters they decay."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.config import TrainingConfig
from utils.errors import CheckpointError

# The quintic whose iteration drives all singular values to about 1 in few steps, without ever
# reaching it exactly (Keller Jordan, "Muon", 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, nearly, to a batch (N, rows, columns); in bf16.

    All singular values end between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    is_tall = x.size(1) > x.size(2)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x.mT @ x if is_tall else x @ x.mT  # on the short side
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, step, beta=a) if is_tall else torch.baddbmm(x, step, x, beta=a)
    return x


class Muon(Optimizer):
    """Momentum whose direction is orthogonalised: every singular value of an update is about 1.

    For matrices (2-D parameters); those of one shape are updated as one batch. An update is scaled
    by sqrt(max(1, rows / columns)), and weight decay is decoupled. Source: Keller Jordan, "Muon: an
    optimizer for hidden layers", 2024.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float | Tensor,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        (group,) = self.param_groups
        batches: dict[torch.Size, list[Tensor]] = {}
        for parameter in group["params"]:
            assert parameter.dim() == 2
            batches.setdefault(parameter.shape, []).append(parameter)
        self._batches = [
            (batch, torch.zeros_like(torch.stack(batch))) for batch in batches.values()
        ]
        for batch, momenta in self._batches:
            for parameter, momentum_of in zip(batch, momenta, strict=True):
                self.state[parameter]["momentum"] = momentum_of

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter from its gradient."""
        (group,) = self.param_groups
        for parameters, momenta in self._batches:  # momenta (N, rows, columns)
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            assert len(gradients) == len(parameters), "a matrix has no gradient"
            ahead = torch.stack(gradients)
            momenta.lerp_(ahead, 1 - group["momentum"])
            # Nesterov: look as far ahead again as the momentum moved.
            ahead.lerp_(momenta, group["momentum"])
            rows, columns = parameters[0].shape
            factor = -group["lr"] * max(1.0, rows / columns) ** 0.5
            updates = ahead.copy_(orthogonalise(ahead)).mul_(factor)  # scaled in fp32
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates.unbind())


class Optimizers:
    """The optimizers of a run as one. Each group has "lr" and the "peak_lr" it is scheduled by."""

    def __init__(self, parts: dict[str, Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts.values() for group in part.param_groups]

    def scale_learning_rates(self, share: float) -> None:
        """Give every group this share of its peak."""
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group["peak_lr"] * share)
            else:
                group["lr"] = group["peak_lr"] * share

    def step(self) -> None:
        for part in self.parts.values():
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts.values():
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The moments and counts of each part; settings are the configuration's."""
        return {name: part.state_dict()["state"] for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy saved moments; CheckpointError if they are of other optimizers."""
        if state.keys() != self.parts.keys():
            raise CheckpointError(
                f"the run was trained with {' and '.join(state)}, not with"
                f" {' and '.join(self.parts)}",
                "Set training.optimizer as it was, or start a new run.",
            )
        for name, part in self.parts.items():
            for group_state, own in zip(state[name].values(), part.state.values(), strict=True):
                for key, value in own.items():
                    value.copy_(group_state[key])


def build_optimizers(model: nn.Module, config: TrainingConfig) -> Optimizers:
    """The optimizers that `training.optimizer` names, over all parameters of the model.

    Matrices (weights and embeddings) are decayed, biases and LayerNorms are not. "muon" takes the
    2-D parameters below `model.decoder`; embeddings stay with AdamW, as in the source. All state
    exists from the start, so that a step can be captured in a CUDA graph.
    """
    parameters = dict(model.named_parameters())
    muon: list[Tensor] = []
    if config.optimizer == "muon":
        names = [n for n, p in parameters.items() if p.dim() == 2 and n.startswith("decoder.")]
        muon = [parameters.pop(name) for name in names]
    rest = list(parameters.values())
    on_gpu = rest[0].is_cuda
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=_learning_rate(config.peak_learning_rate, rest[0]),
        betas=(config.beta1, config.beta2),
        fused=True if on_gpu else None,
        capturable=on_gpu,
    )
    for group in adamw.param_groups:
        group["peak_lr"] = config.peak_learning_rate
        for parameter in group["params"]:
            adamw.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if on_gpu else None),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    parts: dict[str, Optimizer] = {"adamw": adamw}
    if muon:
        parts["muon"] = Muon(
            muon,
            _learning_rate(config.muon_learning_rate, rest[0]),
            config.muon_momentum,
            config.weight_decay,
        )
        parts["muon"].param_groups[0]["peak_lr"] = config.muon_learning_rate
    return Optimizers(parts)


def _learning_rate(value: float, parameter: Tensor) -> float | Tensor:
    """A tensor on a GPU, which a captured step reads anew each time."""
    return torch.tensor(value, device=parameter.device) if parameter.is_cuda else value
