"""A tiny model on disk, with its tokenizer and configuration: what export.py starts from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import LanguageModel
from tests.tiny import tiny_config, tiny_model
from tokenizer import CodeLlamaTokenizer
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.runs import LATEST

RUN = "run_2026_11_22_10_00"


@dataclass(frozen=True)
class Trained:
    """What is on disk in `folder`, and the same in memory."""

    folder: Path
    config_path: Path
    path: Path
    model: LanguageModel
    tokenizer: CodeLlamaTokenizer

    @property
    def tokenizer_dir(self) -> Path:
        return self.model.config.paths.tokenizer_dir

    def export(self, *to: str | Path) -> list[str]:
        """The arguments of export.py for this checkpoint."""
        return [str(self.path), "--config", str(self.config_path), "--to", *map(str, to)]

    def greedy(self, prompt_ids: Sequence[int], count: int) -> list[int]:
        """The likeliest tokens behind a prompt, the whole text read anew for each."""
        ids = list(prompt_ids)
        with torch.no_grad():
            for _ in range(count):
                ids.append(int(self.model(torch.tensor([ids]))["logits"][0, -1].argmax()))
        return ids[len(prompt_ids) :]


def write_trained(folder: Path, tokenizer_dir: Path, vocab_size: int, **shape: Any) -> Trained:
    """Save a random tiny model of the tokenizer in `tokenizer_dir` as a run's latest checkpoint."""
    paths = {"tokenizer_dir": str(tokenizer_dir), "checkpoint_dir": str(folder / "checkpoints")}
    shape = {"vocab_size": vocab_size, "max_position_embeddings": 64, **shape}
    config = tiny_config(folder, model=shape, paths=paths)
    model = tiny_model(config)
    tokenizer = CodeLlamaTokenizer.load(tokenizer_dir, config)
    checkpoint = Checkpoint(
        config=config,
        model=model.state_dict(),
        progress={"step": 1234, "validation_loss": 3.25},
        tokenizer_sha256=tokenizer.sha256,
        dataset_fingerprint="b" * 64,
        run_name=RUN,
    )
    path = config.paths.checkpoint_dir / RUN / LATEST
    path.parent.mkdir(parents=True)
    save_checkpoint(checkpoint, path)
    config_path = folder / "config.json"
    config_path.write_text(json.dumps({"paths": paths}))
    return Trained(folder, config_path, path, model, tokenizer)
