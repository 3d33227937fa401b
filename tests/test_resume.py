"""utils/training/resume.py and state.py: what a run may go on from."""

from pathlib import Path

import pytest
import torch

from model import LanguageModel
from tests.test_model import random_ids
from tests.tiny import tiny_config
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError, TrainingError
from utils.metrics import MetricsTracker
from utils.optimizer import build_optimizers
from utils.scheduler import Scheduler
from utils.training.guards import StepGuard
from utils.training.resume import FIXED_KEYS, check_resumable
from utils.training.state import Position, TrainingState

OTHER_VALUES = {
    "model.vocab_size": 98,
    "model.hidden_size": 64,
    "model.num_layers": 3,
    "model.num_heads": 2,
    "model.max_position_embeddings": 17,
    "training.batch_size": 63,
    "training.gradient_accumulation_steps": 2,
    "training.optimizer": "adamw",
    "dataloader.seed": 43,
    "dataloader.val_split": 0.2,
}
# Changes of these are said aloud, and then hold.
FREE_KEYS = {
    *(f"model.{name}" for name in ("dropout", "attention_dropout", "layer_norm_eps")),
    *(f"model.{name}" for name in ("initializer_range", "use_cache")),
    *(f"training.{name}" for name in ("epochs", "max_steps", "warmup_steps", "weight_decay")),
    *(f"training.{name}" for name in ("learning_rate", "muon_learning_rate", "muon_momentum")),
    *(f"training.{name}" for name in ("min_learning_rate", "beta1", "beta2", "max_grad_norm")),
    *(f"training.{name}" for name in ("seed", "precision", "compile", "cuda_graphs")),
    *(f"training.{name}" for name in ("max_skipped_steps", "spike_deviations")),
    *(f"training.{name}" for name in ("log_interval_steps", "metrics_window_steps")),
    *(f"training.{name}" for name in ("validation_interval_epochs", "max_validation_batches")),
    *(f"training.{name}" for name in ("checkpoint_interval_steps", "keep_step_checkpoints")),
    *(f"training.{name}" for name in ("early_stopping_patience", "early_stopping_min_delta")),
    *(f"training.{name}" for name in ("sample_prompts", "sample_tokens")),
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
    message = rf"a\.pt: cannot be resumed: {key} was [\w.]+, is now {value}{HINT}"
    with pytest.raises(CheckpointError, match=message):
        check_resumable(checkpoint, config, "t", "d")


def test_every_key_of_the_model_and_its_training_is_fixed_or_free() -> None:
    """A new key has to be put on one side, by whoever adds it."""
    config = tiny_config()
    keys = {f"model.{name}" for name in type(config.model).model_fields}
    keys |= {f"training.{name}" for name in type(config.training).model_fields}
    fixed = {key for key in FIXED_KEYS if not key.startswith("dataloader.")}
    assert fixed | FREE_KEYS == keys
    assert not fixed & FREE_KEYS


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
        "training.learning_rate was None, is now 0.001",
    ]


def test_bare_weights_are_no_run() -> None:
    bare = Checkpoint(tiny_config(), {}, name="old.pt")
    with pytest.raises(
        CheckpointError,
        match=r"old\.pt: holds only weights, not the state of a run\n  It can be used with Infere",
    ):
        check_resumable(bare, tiny_config(), "t", "d")


def test_an_older_format_is_not_resumed(checkpoint: Checkpoint) -> None:
    checkpoint.format_version = 1
    with pytest.raises(CheckpointError, match=r"a\.pt: has checkpoint format 1, whose optimizer"):
        check_resumable(checkpoint, tiny_config(), "t", "d")


# TrainingState


def new_state(config: Config, seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = LanguageModel(config)
    optimizers = build_optimizers(model, config.training)
    schedule = {"peak": 1e-2, "minimum": 1e-3, "warmup_steps": 2}
    scheduler = Scheduler(optimizers, **schedule, total_steps=config.training.epochs)  # type: ignore[arg-type]
    metrics, guard = MetricsTracker(3, 2, 0.0), StepGuard(4, 6.0)
    return TrainingState(model, optimizers, scheduler, metrics, guard, torch.device("cpu"))


def train(state: TrainingState, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        batch = random_ids(state.model, 2, 8, seed=state.position.step)  # type: ignore[arg-type]
        loss = state.model(batch, labels=batch)["loss"]
        loss.backward()
        state.optimizers.step()
        state.optimizers.zero_grad()
        state.scheduler.step()
        state.position.step += 1
        state.guard.admits(loss.item(), 1.0 if state.position.step % 4 else float("inf"))
        state.guard.spike(loss.item())
        state.metrics.record_step(loss.item(), 1.0, 16, 0.0)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_restored_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    training = {"epochs": 12, "optimizer": optimizer}
    config = tiny_config(tmp_path, model={"dropout": 0.2}, training=training)
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
    assert other.guard.state_dict() == state.guard.state_dict()
    assert other.guard.skipped_steps == 2
    for name, value in other.model.state_dict().items():
        assert value.equal(state.model.state_dict()[name])
    identity = (loaded.run_name, loaded.tokenizer_sha256, loaded.dataset_fingerprint)
    assert identity == ("run_x", "t", "d")


def test_hyperparameters_are_todays_and_a_changed_schedule_is_told(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, training={"epochs": 12})
    state = new_state(config, seed=1)
    train(state, 3)
    save_checkpoint(state.snapshot(config, "t", "d", "run_x"), tmp_path / "a.pt")
    settings = {"epochs": 20, "weight_decay": 0.7, "beta2": 0.5, "learning_rate": 0.001}
    other = new_state(tiny_config(tmp_path, training=settings), seed=2)
    assert other.restore(load_checkpoint(tmp_path / "a.pt", config)) == [
        "total_steps of the learning rate was 12, is now 20"
    ]
    matrices = other.optimizers.parts["adamw"].param_groups[0]
    assert (matrices["weight_decay"], matrices["betas"]) == (0.7, (0.9, 0.5))
    share = other.scheduler.learning_rate / 1e-2
    assert matrices["lr"] == pytest.approx(0.001 * share)
    assert other.optimizers.parts["muon"].param_groups[0]["lr"] == pytest.approx(0.02 * share)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = new_state(tiny_config(), seed=1)
    snapshot = state.snapshot(tiny_config(), "t", "d", "run_x")
    snapshot.name = "a.pt"
    other = new_state(tiny_config(model={"hidden_size": 64}), seed=2)
    with pytest.raises(CheckpointError, match=r"a\.pt: its weights do not fit the model"):
        other.restore(snapshot)


def test_moments_of_other_optimizers_are_refused() -> None:
    adamw, muon = (tiny_config(training={"optimizer": name}) for name in ("adamw", "muon"))
    snapshot = new_state(adamw, seed=1).snapshot(adamw, "t", "d", "run_x")
    with pytest.raises(CheckpointError, match="trained with adamw, not with adamw and muon"):
        new_state(muon, seed=1).restore(snapshot)


def test_weights_that_are_not_finite_are_noticed() -> None:
    state = new_state(tiny_config(), seed=1)
    state.check_weights()
    with torch.no_grad():
        next(iter(state.model.parameters())).view(-1)[3] = float("inf")
    with pytest.raises(TrainingError, match=r"step 0: weights are not finite .* not saved"):
        state.check_weights()
