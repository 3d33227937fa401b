"""All of a training run that a checkpoint holds; what is not here starts afresh on resume."""

from dataclasses import asdict, dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from utils.checkpoint import Checkpoint, load_weights
from utils.config import Config
from utils.device import restore_rng_state, rng_state
from utils.metrics import MetricsTracker
from utils.scheduler import Scheduler


@dataclass
class Position:
    """How far a run has come. The step decides the epoch and the next batch, too."""

    step: int = 0
    validated_step: int | None = None
    validation_loss: float | None = None


@dataclass
class TrainingState:
    """The moving parts of a run, beside the state of the random generators of `device`."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    metrics: MetricsTracker
    device: torch.device
    position: Position = field(default_factory=Position)

    def snapshot(
        self, config: Config, tokenizer_sha256: str, dataset_fingerprint: str, run_name: str
    ) -> Checkpoint:
        """The state as it is now. Tensors are not copied: save it before the next step."""
        return Checkpoint(
            config=config,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            rng=rng_state(self.device),
            progress=asdict(self.position),
            metrics=self.metrics.state_dict(),
            tokenizer_sha256=tokenizer_sha256,
            dataset_fingerprint=dataset_fingerprint,
            run_name=run_name,
        )

    def restore(self, checkpoint: Checkpoint) -> list[str]:
        """Be where `checkpoint` was; return, a sentence each, how the schedule has changed.

        Hyperparameters stay as configured now; moments, counts and random states are the saved.
        """
        load_weights(self.model, checkpoint.model, checkpoint.name)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(
            {"state": checkpoint.optimizer["state"], "param_groups": groups}
        )
        changes = self.scheduler.load_state_dict(checkpoint.scheduler)
        self.metrics.load_state_dict(checkpoint.metrics)
        self.position = Position(**checkpoint.progress)
        restore_rng_state(checkpoint.rng, self.device)
        return changes
