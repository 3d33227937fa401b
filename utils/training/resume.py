"""May a run go on from a checkpoint with today's configuration and data?"""

from pathlib import Path
from typing import Any

from utils.checkpoint import Checkpoint, summarise_checkpoint
from utils.config import Config
from utils.environment import versions
from utils.errors import CheckpointError
from utils.runs import LATEST, damage_of

# A checkpoint's weights and moments, or its position in the data, mean nothing under other values.
FIXED_KEYS = (
    "model.vocab_size",
    "model.hidden_size",
    "model.num_layers",
    "model.num_heads",
    "model.max_position_embeddings",
    "training.batch_size",
    "training.gradient_accumulation_steps",
    "training.optimizer",
    "dataloader.seed",
    "dataloader.val_split",
)
# These say where and how to show or store things, not what is trained.
_UNREMARKABLE_SECTIONS = ("paths", "cleaner", "dataset_prep", "generation")


def folder_to_go_on_in(checkpoint: Checkpoint, path: Path, checkpoint_dir: Path) -> Path | None:
    """The folder of the run that `path` is of, or None if that run must be left as it is.

    It must if it has gone further than this checkpoint, or if this is a copy elsewhere of a run
    that still stands in `checkpoint_dir` and has its logs under the same name.
    """
    folder = path.parent
    twin = checkpoint_dir / folder.name
    is_copy = folder not in (checkpoint_dir, twin) and twin.exists()
    return None if is_copy or _is_outrun(checkpoint, path) else folder


def _is_outrun(checkpoint: Checkpoint, path: Path) -> bool:
    latest = path.parent / LATEST
    if latest == path or not latest.exists() or damage_of(latest):
        return False
    try:
        step = summarise_checkpoint(latest, checkpoint.config).step
    except CheckpointError:  # resuming from an earlier file is how to replace a broken one
        return False
    return (step or 0) > (checkpoint.step or 0)


def check_resumable(
    checkpoint: Checkpoint, config: Config, tokenizer_sha256: str, dataset_fingerprint: str
) -> list[str]:
    """Raise CheckpointError if training cannot go on; else say, a line each, what has changed."""
    if not checkpoint.progress:
        raise CheckpointError(
            f"{checkpoint.name}: holds only weights, not the state of a run",
            "It can be used with Inference.py, but not resumed.",
        )
    if not checkpoint.can_be_resumed:
        raise CheckpointError(
            f"{checkpoint.name}: has checkpoint format {checkpoint.format_version}, whose"
            " optimizer state has another form",
            "It can be used with Inference.py; resume it with the version that wrote it.",
        )
    before, now = _flat(checkpoint.config), _flat(config)
    changed = [key for key in now if before.get(key) != now[key]]
    refused = [
        f"{key} was {before.get(key)}, is now {now[key]}" for key in changed if key in FIXED_KEYS
    ]
    if checkpoint.tokenizer_sha256 != tokenizer_sha256:
        refused.append("the tokenizer is another one")
    if checkpoint.dataset_fingerprint != dataset_fingerprint:
        refused.append("the dataset is another one")
    if refused:
        raise CheckpointError(
            f"{checkpoint.name}: cannot be resumed: " + "; ".join(refused),
            "Restore what changed, or start a new run without --resume.",
        )
    remarks = [
        f"{key} was {before.get(key)}, is now {now[key]}"
        for key in changed
        if not key.startswith(_UNREMARKABLE_SECTIONS)
    ]
    remarks += [
        f"{name} was {checkpoint.versions[name]}, is now {version}"
        for name, version in versions().items()
        if checkpoint.versions.get(name, version) != version
    ]
    return remarks


def _flat(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }
