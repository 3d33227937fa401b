"""A small corpus taken through the real scripts, and folders to train on it in."""

import itertools
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cleaner
import dataset_prep
import tokenizer
from dataloader import create_simple_train_val_dataloaders
from demo import train_tokenizer
from utils.config import Config
from utils.config_file import load_config

ARTICLES = 20
STEPS_PER_EPOCH = 6
WORDS = (
    *("the", "a", "of", "and", "to", "in", "is", "was", "river", "city", "century", "model"),
    *("token", "window", "people", "water", "light", "stone", "music", "history", "number"),
    *("field", "energy", "north", "south", "small", "large", "early", "late", "known", "near"),
    *("between", "under", "over", "made", "found", "built", "wrote", "saw", "first", "many"),
)
MODEL = {
    "vocab_size": 400,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "max_position_embeddings": 32,
}
TRAINING = {
    "epochs": 2,
    "learning_rate": 1e-2,
    "min_learning_rate": 1e-3,
    "warmup_steps": 3,
    "weight_decay": 0.0,
    "log_interval_steps": 1,
    "validation_interval_epochs": 0.5,
    "max_validation_batches": 2,
    "sample_prompts": ["The river"],
    "sample_tokens": 4,
}


@dataclass(frozen=True)
class Workspace:
    """A folder with its configuration, checkpoints and logs; data may be another's."""

    folder: Path
    config_path: Path
    config: Config

    def batch_size(self, accumulation: int = 1) -> int:
        """The batch that gives STEPS_PER_EPOCH steps an epoch."""
        _, _, info = create_simple_train_val_dataloaders(
            batch_size=1, config=self.config, device="cpu", verbose=False
        )
        return info["train_size"] // (STEPS_PER_EPOCH * accumulation)


def articles(seed: int, count: int) -> list[dict[str, Any]]:
    """Plain records of made-up English, a few sentences each."""
    chance = random.Random(seed)

    def sentence() -> str:
        words = chance.choices(WORDS, k=chance.randint(5, 12))
        return " ".join(words).capitalize() + "."

    return [
        {"title": f"Article {index}", "text": " ".join(sentence() for _ in range(10))}
        for index in range(count)
    ]


def prepare(folder: Path) -> Workspace:
    """Run cleaner, tokenizer and dataset_prep on the small corpus, all in `folder`."""
    raw = folder / "raw" / "part_0.jsonl"
    raw.parent.mkdir(parents=True)
    raw.write_text("".join(json.dumps(record) + "\n" for record in articles(0, ARTICLES)))
    workspace = describe(folder, data=folder)
    arguments = ["--config", str(workspace.config_path)]
    cleaner.main(arguments)
    train_tokenizer.main(arguments)
    tokenizer.main(arguments)
    dataset_prep.main(arguments)
    return workspace


def describe(folder: Path, data: Path, **training: Any) -> Workspace:
    """Write a config.json in `folder` for the prepared data of another."""
    values = {
        "model": MODEL,
        "tokenizer": {"source": f"{data}/tokenizer_source"},
        "paths": {
            "raw_dir": f"{data}/raw",
            "cleaned_dir": f"{data}/cleaned",
            "tokenizer_dir": f"{data}/tokenizer",
            "dataset_dir": f"{data}/dataset",
            "test_dataset_dir": f"{data}/test_dataset",
            "checkpoint_dir": "checkpoints",
            "log_dir": "logs",
        },
        "cleaner": {"workers": 1},
        "dataset_prep": {"window": MODEL["max_position_embeddings"]},
        "training": {**TRAINING, **training},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return Workspace(folder, path, load_config(path))


class WorkspaceMaker:
    """Makes workspaces on shared data, each with folders of its own for runs and logs."""

    def __init__(self, folder: Path, prepared: Workspace) -> None:
        self.folder, self.prepared = folder, prepared
        self.batch_size = prepared.batch_size()
        self.numbers = itertools.count()

    def __call__(self, own_dataset: bool = False, **training: Any) -> Workspace:
        """`training` overrides keys of that section; `own_dataset` copies the data to change."""
        folder = self.folder / f"workspace_{next(self.numbers)}"
        data = self.prepared.folder
        if own_dataset:
            shutil.copytree(data, folder)
            data = folder
        return describe(folder, data, **{"batch_size": self.batch_size, **training})
