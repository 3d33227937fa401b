"""utils/resume.py and utils/training_state.py: what a run may go on from."""

from pathlib import Path

import pytest
import torch

from model import LanguageModel
from tests.test_model import random_ids
from tests.tiny import tiny_config
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError
from utils.metrics import MetricsTracker
from utils.optimizer import build_optimizer
from utils.resume import FIXED_KEYS, check_resumable
from utils.scheduler import Scheduler
from utils.training_state import Position, TrainingState

OTHER_VALUES = {
    "model.vocab_size": 98,
    "model.hidden_size": 64,
    "model.num_layers": 3,
    "model.num_heads": 2,
    "model.max_position_embeddings": 17,
    "training.batch_size": 63,
    "training.gradient_accumulation_steps": 2,
    "dataloader.seed": 43,
    "dataloader.val_split": 0.2,
}
HINT = r"\n  Restore what changed, or start a new run without --resume"


def changed(config: Config, key: str, value: object) -> Config:
    section, name = key.split(".")
    part = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: part})


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(
        tiny_config(),
        {},
        progress={"step": 5},
        tokenizer_sha256="t",
        dataset_fingerprint="d",
        name="a.pt",
    )


def test_nothing_changed_nothing_said(checkpoint: Checkpoint) -> None:
    assert check_resumable(checkpoint, tiny_config(), "t", "d") == []


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_what_weights_or_position_depend_on_is_fixed(checkpoint: Checkpoint, key: str) -> None:
    value = OTHER_VALUES[key]
    config = changed(tiny_config(), key, value)
    message = rf"a\.pt: cannot be resumed: {key} was [\d.]+, is now {value}{HINT}"
    with pytest.raises(CheckpointError, match=message):
        check_resumable(checkpoint, config, "t", "d")


def test_all_that_is_wrong_is_said_at_once(checkpoint: Checkpoint) -> None:
    config = changed(tiny_config(), "model.num_layers", 3)
    with pytest.raises(
        CheckpointError,
        match=r"cannot be resumed: model\.num_layers was 2, is now 3; the tokenizer is another one;"
        rf" the dataset is another one{HINT}",
    ):
        check_resumable(checkpoint, config, "x", "x")


@pytest.mark.parametrize(("which", "digests"), [("tokenizer", "xd"), ("dataset", "tx")])
def test_other_data_is_refused(checkpoint: Checkpoint, which: str, digests: str) -> None:
    with pytest.raises(CheckpointError, match=rf"resumed: the {which} is another one{HINT}"):
        check_resumable(checkpoint, tiny_config(), *digests)


def test_harmless_changes_are_listed_and_places_are_not(checkpoint: Checkpoint) -> None:
    config = tiny_config(
        Path("/elsewhere"),
        model={"dropout": 0.25},
        training={"learning_rate": 1e-3, "max_steps": 9},
        dataloader={"num_workers": 2},
        generation={"max_length": 7},
        cleaner={"workers": 1},
        dataset_prep={"batch_articles": 3},
    )
    assert check_resumable(checkpoint, config, "t", "d") == [
        "model.dropout was 0.0, is now 0.25",
        "dataloader.num_workers was 0, is now 2",
        "training.max_steps was None, is now 9",
        "training.learning_rate was 0.0006, is now 0.001",
    ]


def test_bare_weights_are_no_run() -> None:
    bare = Checkpoint(tiny_config(), {}, name="old.pt")
    with pytest.raises(
        CheckpointError,
        match=r"old\.pt: holds only weights, not the state of a run\n  It can be used with Infere",
    ):
        check_resumable(bare, tiny_config(), "t", "d")


# TrainingState


def new_state(config: Config, seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = LanguageModel(config)
    optimizer = build_optimizer(model, config.training)
    scheduler = Scheduler(optimizer, 1e-2, 1e-3, warmup_steps=2, total_steps=config.training.epochs)
    return TrainingState(
        model, optimizer, scheduler, MetricsTracker(3, 2, 0.0), torch.device("cpu")
    )


def train(state: TrainingState, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        batch = random_ids(state.model, 2, 8, seed=state.position.step)  # type: ignore[arg-type]
        loss = state.model(batch, labels=batch)["loss"]
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.scheduler.step()
        state.position.step += 1
        state.metrics.record_step(loss.item(), 1.0, 0.1, 16, 0.0)
        losses.append(loss.item())
    return losses


def test_a_restored_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model={"dropout": 0.2}, training={"epochs": 12})
    state = new_state(config, seed=1)
    train(state, 5)
    state.metrics.record_validation(2.0, step=5)
    state.position.validated_step, state.position.validation_loss = 5, 2.0
    snapshot = state.snapshot(config, "t", "d", "run_x")
    save_checkpoint(snapshot, tmp_path / "a.pt")
    expected = train(state, 5)

    other = new_state(config, seed=2)
    loaded = load_checkpoint(tmp_path / "a.pt", config)
    assert other.restore(loaded) == []
    assert other.position == Position(step=5, validated_step=5, validation_loss=2.0)
    assert loaded.validation_loss == 2.0
    assert train(other, 5) == expected
    assert other.metrics.state_dict() == state.metrics.state_dict()
    for name, value in other.model.state_dict().items():
        assert value.equal(state.model.state_dict()[name])
    identity = (loaded.run_name, loaded.tokenizer_sha256, loaded.dataset_fingerprint)
    assert identity == ("run_x", "t", "d")


def test_hyperparameters_are_todays_and_a_changed_schedule_is_told(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, training={"epochs": 12})
    state = new_state(config, seed=1)
    train(state, 3)
    save_checkpoint(state.snapshot(config, "t", "d", "run_x"), tmp_path / "a.pt")
    settings = {"epochs": 20, "weight_decay": 0.7, "beta2": 0.5}
    other = new_state(tiny_config(tmp_path, training=settings), seed=2)
    assert other.restore(load_checkpoint(tmp_path / "a.pt", config)) == [
        "total_steps of the learning rate was 12, is now 20"
    ]
    matrices = other.optimizer.param_groups[0]
    assert (matrices["weight_decay"], matrices["betas"]) == (0.7, (0.9, 0.5))
    assert matrices["lr"] == other.scheduler.learning_rate


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = new_state(tiny_config(), seed=1)
    snapshot = state.snapshot(tiny_config(), "t", "d", "run_x")
    snapshot.name = "a.pt"
    other = new_state(tiny_config(model={"hidden_size": 64}), seed=2)
    with pytest.raises(CheckpointError, match=r"a\.pt: its weights do not fit the model"):
        other.restore(snapshot)
