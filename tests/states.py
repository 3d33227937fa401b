"""The state that a checkpoint holds, compared to the bit."""

from pathlib import Path
from typing import Any

import torch

from tests.workspaces import Workspace
from utils.checkpoint import load_checkpoint

STATES = ("model", "optimizer", "scheduler", "rng", "progress", "metrics")


def run_of(workspace: Workspace) -> Path:
    """The only run of a workspace."""
    (run,) = (path for path in workspace.config.paths.checkpoint_dir.iterdir() if path.is_dir())
    return run


def state_of(path: Path, workspace: Workspace) -> dict[str, Any]:
    checkpoint = load_checkpoint(path, workspace.config)
    return {name: getattr(checkpoint, name) for name in STATES}


def assert_same(left: Any, right: Any, where: str = "state") -> None:
    """Equal to the bit, at any depth."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert left == right, where
