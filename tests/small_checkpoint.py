"""A small checkpoint of a real model, to spoil, and what loading it then says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_checkpoint, tiny_config, tiny_model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import PipelineError
from utils.loading import load_for_inference

Payload = dict[str, Any]
CPU = torch.device("cpu")
SMALL = {"hidden_size": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 11}


def small_config(folder: Path) -> Config:
    return tiny_config(folder, model=SMALL)


def good_checkpoint(folder: Path) -> tuple[bytes, Payload]:
    """A file as training saves it, its bytes and what torch finds in it."""
    path = folder / "good.pt"
    save_checkpoint(checkpoint_of(small_config(folder)), path)
    payload: Payload = torch.load(path, weights_only=True)
    return path.read_bytes(), payload


def checkpoint_of(config: Config, mark: float | None = None) -> Checkpoint:
    """A checkpoint of a real model, with an optimizer's state; or with one number everywhere."""
    checkpoint = tiny_checkpoint(config)
    weights = tiny_model(config).state_dict()
    if mark is not None:
        weights = {name: torch.full_like(value, mark) for name, value in weights.items()}
    checkpoint.model = dict(weights)
    state = {"exp_avg": torch.full((64,), 0.25), "exp_avg_sq": torch.full((64,), 0.125)}
    checkpoint.optimizer = {"adamw": {"state": {0: state}}}
    return checkpoint


def refusal(path: Path, config: Config) -> str:
    """What is said of a file that cannot be used; fails if it loads, or if it is not named."""
    with pytest.raises(PipelineError) as caught:
        load_for_inference(path, config, CPU)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)
