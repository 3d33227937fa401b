"""What train.py says before the first step and after the last."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from utils.config import Config
from utils.device import describe_device
from utils.logging_utils import tensorboard_dir
from utils.terminal import say, warn
from utils.training.plan import Plan
from utils.training.run_place import RunPlace
from utils.training.state import TrainingState


def introduce_model(
    parameters: int, device: torch.device, plan: Plan, config: Config, window: int
) -> None:
    """Say what is about to be trained, and for how long."""
    tokens_per_step = config.training.batch_size * plan.batches_per_step * window
    say(f"Model   {parameters:,} parameters on {describe_device(device)}")
    say(
        f"Plan    {plan.total_steps:,} steps of {tokens_per_step:,} tokens, of"
        f" {plan.steps_per_epoch:,} in an epoch; validation every"
        f" {plan.validation_interval:,} steps; {config.training.optimizer}"
    )
    if config.training.warmup_steps >= plan.total_steps:
        warn(
            f"training.warmup_steps is {config.training.warmup_steps:,}: the learning rate will"
            " not reach its peak"
        )


def introduce_run(place: RunPlace, step: int, plan: Plan, log_dir: Path) -> None:
    """Say where the run stands, where to watch it, and where it goes on."""
    say(f"Run     {place.folder}")
    say(f"Watch   tensorboard --logdir {tensorboard_dir(log_dir)}")
    if step:
        epoch = step // plan.steps_per_epoch + 1
        say(f"Resume  after step {step:,}, in epoch {epoch}", "cyan")
        if place.is_new:
            say("        in a new run: the old one stays as it is", "cyan")


def conclude(state: TrainingState, options: Sequence[str]) -> None:
    """Say how it ended, and what to do with the result."""
    metrics = state.metrics
    why = "stopped early" if metrics.should_stop else "finished"
    best = "no validation loss was finite"
    if metrics.best_step is not None:
        best = f"best validation loss {metrics.best_loss:.4f} at step {metrics.best_step:,}"
    say(f"Training {why} after {state.position.step:,} steps: {best}", "bold")
    say(f"Next: {shlex.join(['python', 'Inference.py', *options])}")
