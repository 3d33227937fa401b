"""A model small enough to test with, and nothing left at the values it starts with."""

from pathlib import Path
from typing import Any

import torch

from model import LanguageModel
from utils.checkpoint import Checkpoint
from utils.config import Config
from utils.config_file import parse_config
from utils.device import rng_state

TINY_MODEL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def tiny_config(base: Path = Path(), **sections: dict[str, Any]) -> Config:
    """A small model's configuration with the given keys; relative paths are under `base`."""
    model = {**TINY_MODEL, **sections.pop("model", {})}
    return parse_config({"model": model, **sections}, "tiny", base)


def tiny_model(config: Config | None = None, seed: int = 0) -> LanguageModel:
    """A model in eval mode whose every parameter is random: biases and norms too, as if trained."""
    torch.manual_seed(seed)
    model = LanguageModel(config or tiny_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def tiny_checkpoint(config: Config, mark: float = 0.5) -> Checkpoint:
    """Every field filled, a few kilobytes; all numbers of the weights are `mark`."""
    return Checkpoint(
        config=config,
        model={"weight": torch.full((8, 8), mark), "bias": torch.full((8,), mark)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        scheduler={"steps_taken": 3},
        rng=rng_state(torch.device("cpu")),
        progress={"step": 3, "validation_loss": 2.5},
        metrics={"losses": [1.0, float("inf")], "best_step": None},
        tokenizer_sha256="a" * 64,
        dataset_fingerprint="b" * 64,
        run_name="run_2026_11_22_10_00",
    )
