"""utils/training/guards.py, and what a run does with steps that it must not take."""

import math
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from dataloader import create_simple_train_val_dataloaders
from model import LanguageModel
from tests.states import assert_same, run_of, state_of
from tests.test_train import interrupt, train_in
from tests.workspaces import Workspace, WorkspaceMaker
from utils.checkpoint import load_checkpoint
from utils.errors import Interrupted, TrainingError
from utils.logging_utils import EVENT, LOSS_SPIKE, SKIPPED_STEP, metrics_path, read_metrics
from utils.metrics import LEARNING_RATE, SKIPPED_STEPS
from utils.runs import LATEST, step_name
from utils.training import guards
from utils.training.guards import ENOUGH_LOSSES, RECENT_LOSSES, StepGuard

# StepGuard


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", [1.0, math.nan, math.inf])
def test_only_finite_numbers_are_admitted(loss: float, norm: float) -> None:
    guard = StepGuard(3, 6.0)
    both_finite = loss == norm == 1.0
    assert guard.admits(loss, norm) == both_finite
    assert guard.skipped_steps == guard.skipped_in_a_row == (not both_finite)


def test_skipped_steps_are_counted_and_too_many_in_a_row_are_an_error() -> None:
    guard = StepGuard(3, 6.0)
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan):
        guard.admits(loss, 1.0)
        guard.check(7)
    assert guard.skipped_steps == 4
    guard.admits(1.0, math.inf)
    with pytest.raises(TrainingError, match=r"step 7: .* not finite for 3 steps in a row; none of"):
        guard.check(7)


def noisy(count: int, level: float = 3.0, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(level, 0.1) for _ in range(count)]


def fed(losses: Iterable[float], deviations: float = 6.0) -> StepGuard:
    guard = StepGuard(3, deviations)
    assert not [loss for loss in losses if guard.spike(loss)]
    return guard


def test_a_spike_is_so_many_deviations_above_the_recent_mean() -> None:
    losses = noisy(RECENT_LOSSES + 40)
    recent = losses[-RECENT_LOSSES:]
    mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
    assert fed(losses, 5.0).spike(mean + 4.99 * deviation) is None
    found = fed(losses, 5.0).spike(mean + 5.01 * deviation)
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.deviations == pytest.approx(5.01)
    assert fed(losses, 5.0).spike(mean - 50 * deviation) is None


def test_few_losses_say_nothing() -> None:
    assert fed(noisy(ENOUGH_LOSSES - 1)).spike(1e6) is None
    assert fed(noisy(ENOUGH_LOSSES)).spike(1e6) is not None


def test_a_spike_does_not_hide_the_next() -> None:
    guard = fed(noisy(50))
    assert guard.spike(1e6)
    assert guard.spike(4.0)
    assert not [loss for loss in noisy(50, seed=1) if guard.spike(loss)]
    assert guard.spike(4.0)


def test_a_loss_that_stays_high_is_the_new_level() -> None:
    guard = fed(noisy(50))
    assert all(guard.spike(loss) for loss in noisy(ENOUGH_LOSSES, level=9.0))
    assert not any(guard.spike(loss) for loss in noisy(50, level=9.0, seed=1))
    assert guard.spike(12.0)


@pytest.mark.parametrize("cut", [0, 10, 52, 60, 90])
def test_a_restored_guard_judges_as_the_other_would_have(cut: int) -> None:
    losses = [*noisy(50), *noisy(ENOUGH_LOSSES + 5, level=9.0), *noisy(25, seed=2)]
    whole = StepGuard(3, 6.0)
    expected = [whole.spike(loss) for loss in losses]
    first, second = StepGuard(3, 6.0), StepGuard(3, 6.0)
    for loss in losses[:cut]:
        first.spike(loss)
    second.load_state_dict(first.state_dict())
    assert [second.spike(loss) for loss in losses[cut:]] == expected[cut:]


# Faults put into a run


class BackwardFault(torch.autograd.Function):
    """Changes nothing on the way forward, and every gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "loss nan": lambda loss: loss * math.nan,
    "loss inf": lambda loss: loss * math.inf,
    "gradient nan": lambda loss: BackwardFault.apply(loss, math.nan),  # type: ignore[no-untyped-call]
    "gradient inf": lambda loss: BackwardFault.apply(loss, math.inf),  # type: ignore[no-untyped-call]
}


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a fault happen to the losses of the training steps of given numbers."""
    original_loss, original_step = LanguageModel.loss, train.Trainer._step
    running: list[int] = []

    def inject(steps: Iterable[int], fault: Callable[[Tensor], Tensor]) -> None:
        chosen = set(steps)

        def step(self: train.Trainer, batches: Any) -> None:
            running[:] = [self.position.step + 1]
            try:
                original_step(self, batches)
            finally:
                running.clear()

        def loss(self: LanguageModel, ids: Tensor) -> Tensor:
            found = original_loss(self, ids)
            return fault(found) if running and running[0] in chosen else found

        monkeypatch.setattr(train.Trainer, "_step", step)
        monkeypatch.setattr(LanguageModel, "loss", loss)

    return inject


def records_of(workspace: Workspace) -> list[dict[str, Any]]:
    return read_metrics(metrics_path(workspace.config.paths.log_dir, run_of(workspace).name))


def windows_of_step(workspace: Workspace, step: int) -> list[int]:
    """What the loader gives to that step of the first epoch, each found among all windows."""
    loader, _, _ = create_simple_train_val_dataloaders(
        config=workspace.config, device="cpu", verbose=False
    )
    everything = [window.tolist() for window in loader.windows]  # type: ignore[attr-defined]
    accumulation = workspace.config.training.gradient_accumulation_steps
    batches = list(loader)[(step - 1) * accumulation : step * accumulation]
    return [everything.index(row.tolist()) for batch in batches for row in batch]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_is_not_finite_changes_no_weight_and_no_moment(
    fault: str,
    optimizer: str,
    make_workspace: WorkspaceMaker,
    inject: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace = make_workspace(
        checkpoint_interval_steps=1, keep_step_checkpoints=9, max_steps=6, optimizer=optimizer
    )
    inject([3, 5], FAULTS[fault])
    train_in(workspace)
    run = run_of(workspace)
    before, after, later = (state_of(run / step_name(step), workspace) for step in (2, 3, 4))
    for state in ("model", "optimizer"):
        assert_same(after[state], before[state])
    assert not torch.equal(
        later["model"]["token_embedding.weight"], after["model"]["token_embedding.weight"]
    )
    assert after["progress"]["step"] == 3
    assert after["scheduler"]["steps_taken"] == 3
    last = state_of(run / LATEST, workspace)
    assert last["metrics"]["guard"]["skipped_steps"] == 2
    assert all(math.isfinite(loss) for loss in last["metrics"]["losses"])
    assert "warning: step 3 was skipped: its loss is " in capsys.readouterr().err
    records = records_of(workspace)
    assert [r[SKIPPED_STEPS] for r in records if SKIPPED_STEPS in r] == [0, 0, 1, 1, 2, 2]
    # Warm-up takes three steps to 1e-2; then a cosine falls to 1e-3 at step 6.
    assert [r[LEARNING_RATE] for r in records if LEARNING_RATE in r] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.00775, 0.00325]
    )
    events = [record for record in records if EVENT in record]
    assert [(event[EVENT], event["step"]) for event in events] == [
        (SKIPPED_STEP, 3),
        (SKIPPED_STEP, 5),
    ]
    assert sorted(events[0]["windows"]) == sorted(windows_of_step(workspace, 3))


def test_a_fault_in_one_of_several_batches_skips_the_step(
    make_workspace: WorkspaceMaker, inject: Callable[..., None]
) -> None:
    workspace = make_workspace(batch_size=4, gradient_accumulation_steps=3, max_steps=4)
    calls = iter(range(100))

    def second_of_three(loss: Tensor) -> Tensor:
        return loss * math.nan if next(calls) == 1 else loss

    inject([2], second_of_three)
    train_in(workspace)
    (event,) = (record for record in records_of(workspace) if EVENT in record)
    assert event["step"] == 2
    assert sorted(event["windows"]) == sorted(windows_of_step(workspace, 2))
    state = state_of(run_of(workspace) / LATEST, workspace)
    assert state["metrics"]["guard"]["skipped_steps"] == 1
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


@pytest.mark.parametrize(
    ("device", "cuda_graphs"),
    [
        ("cpu", False),
        pytest.param("cuda", False, marks=pytest.mark.cuda),
        pytest.param("cuda", True, marks=pytest.mark.cuda),
    ],
)
def test_a_skipped_step_leaves_nothing_for_the_next(
    device: str,
    cuda_graphs: bool,
    make_workspace: WorkspaceMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here for one step a weight is not a number, which reaches all gradients."""
    workspace = make_workspace(max_steps=6, compile=False, cuda_graphs=cuda_graphs)
    original = train.Trainer._step

    def step(self: train.Trainer, batches: Any) -> None:
        weight = self.model.token_embedding.weight
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.position.step == 2:
            with torch.no_grad():
                weight[0, 0] = math.nan
        original(self, batches)
        if self.position.step == 3:
            with torch.no_grad():
                weight[0, 0] = before["token_embedding.weight"][0, 0]
            assert_same(self.model.state_dict(), before)

    monkeypatch.setattr(train.Trainer, "_step", step)
    train_in(workspace, device=device)
    state = state_of(run_of(workspace) / LATEST, workspace)
    assert state["metrics"]["guard"]["skipped_steps"] == 1
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    losses = state["metrics"]["losses"]
    assert len(losses) == 5
    assert losses[-1] < losses[0]


def test_too_many_in_a_row_stop_the_run_and_leave_the_last_good_checkpoint(
    make_workspace: WorkspaceMaker, inject: Callable[..., None]
) -> None:
    workspace = make_workspace(max_skipped_steps=2, validation_interval_epochs=0.5)
    inject([2, *range(4, 13)], FAULTS["gradient inf"])
    with pytest.raises(TrainingError, match=r"step 5: .* not finite for 2 steps in a row"):
        train_in(workspace)
    saved = state_of(run_of(workspace) / LATEST, workspace)
    assert saved["progress"]["step"] == 3
    assert saved["metrics"]["guard"]["skipped_steps"] == 1
    assert all(bool(value.isfinite().all()) for value in saved["model"].values())


@pytest.mark.parametrize("cut", [4, 5])
def test_a_run_cut_among_skipped_steps_ends_as_the_uncut_one(
    cut: int,
    make_workspace: WorkspaceMaker,
    inject: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, resumed = make_workspace(), make_workspace()
    inject([2, 4, 5, 9], FAULTS["loss nan"])
    train_in(whole)
    skipping_step = train.Trainer._step

    def step(self: train.Trainer, batches: Any) -> None:
        skipping_step(self, batches)
        if self.position.step == cut:
            interrupt()

    monkeypatch.setattr(train.Trainer, "_step", step)
    with pytest.raises(Interrupted):
        train_in(resumed)
    path = run_of(resumed) / LATEST
    guard = load_checkpoint(path, resumed.config).metrics["guard"]
    assert (guard["skipped_steps"], guard["skipped_in_a_row"]) == (cut - 2, cut - 3)
    train_in(resumed, "--resume", str(path.parent))
    expected = state_of(run_of(whole) / LATEST, whole)
    assert_same(state_of(path, resumed), expected)
    assert expected["metrics"]["guard"]["skipped_steps"] == 4


def test_a_spike_is_told_with_its_windows(
    make_workspace: WorkspaceMaker,
    inject: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(guards, "ENOUGH_LOSSES", 3)
    workspace = make_workspace(max_steps=6)
    inject([5], lambda loss: loss * 100)
    train_in(workspace)
    (event,) = (record for record in records_of(workspace) if EVENT in record)
    assert (event[EVENT], event["step"]) == (LOSS_SPIKE, 5)
    assert event["loss"] > 50 * event["mean"]
    assert sorted(event["windows"]) == sorted(windows_of_step(workspace, 5))
    assert "warning: step 5: the loss rose to " in capsys.readouterr().err
    report = Path(workspace.config.paths.log_dir, "raw_metrics", run_of(workspace).name)
    assert LOSS_SPIKE in (report / "report.html").read_text()
