"""All of a training run that a checkpoint holds; what is not here starts afresh on resume."""

from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from utils.checkpoint import Checkpoint, load_weights
from utils.config import Config
from utils.device import restore_rng_state, rng_state
from utils.errors import TrainingError
from utils.metrics import MetricsTracker
from utils.optimizer import Optimizers
from utils.scheduler import Scheduler
from utils.training.guards import StepGuard


@dataclass
class Position:
    """How far a run has come. The step decides the epoch and the next batch, too.

    Skipped steps count: they took their batches and their place in the schedule.
    """

    step: int = 0
    validated_step: int | None = None
    validation_loss: float | None = None


@dataclass
class TrainingState:
    """The moving parts of a run, beside the state of the random generators of `device`."""

    model: nn.Module
    optimizers: Optimizers
    scheduler: Scheduler
    metrics: MetricsTracker
    guard: StepGuard
    device: torch.device
    position: Position = field(default_factory=Position)

    def snapshot(
        self, config: Config, tokenizer_sha256: str, dataset_fingerprint: str, run_name: str
    ) -> Checkpoint:
        """The state as it is now. Tensors are not copied: save it before the next step."""
        return Checkpoint(
            config=config,
            model=self.model.state_dict(),
            optimizer=self.optimizers.state_dict(),
            scheduler=self.scheduler.state_dict(),
            rng=rng_state(self.device),
            progress=asdict(self.position),
            metrics={**self.metrics.state_dict(), "guard": self.guard.state_dict()},
            tokenizer_sha256=tokenizer_sha256,
            dataset_fingerprint=dataset_fingerprint,
            run_name=run_name,
        )

    def check_weights(self) -> None:
        """Raise TrainingError if a weight is not finite: such a state is not worth saving."""
        norm = nn.utils.get_total_norm([p.detach() for p in self.model.parameters()])
        if not norm.isfinite():
            raise TrainingError(
                f"step {self.position.step:,}: weights are not finite any more; they were not"
                " saved",
                "Resume from the last checkpoint with a lower training.learning_rate or"
                " training.muon_learning_rate.",
            )

    def restore(self, checkpoint: Checkpoint) -> list[str]:
        """Be where `checkpoint` was; return, a sentence each, how the schedule has changed.

        Hyperparameters stay as configured now; moments, counts and random states are the saved.
        """
        load_weights(self.model, checkpoint.model, checkpoint.name)
        self.optimizers.load_state_dict(checkpoint.optimizer)
        changes = self.scheduler.load_state_dict(checkpoint.scheduler)
        self.metrics.load_state_dict(checkpoint.metrics)
        self.guard.load_state_dict(checkpoint.metrics["guard"])
        self.position = Position(**checkpoint.progress)
        restore_rng_state(checkpoint.rng, self.device)
        return changes
