"""utils/training/preparation.py: what is tried before the first step leaves no trace."""

import pytest
import torch

from model import LanguageModel
from tests.states import assert_same
from tests.tiny import tiny_config
from utils.optimizer import build_optimizers
from utils.training.preparation import prepare, try_batch
from utils.training.step import TrainStep


@pytest.fixture
def step() -> TrainStep:
    config = tiny_config(training={"batch_size": 4})
    model = LanguageModel(config)
    optimizers = build_optimizers(model, config.training)
    return TrainStep(model, optimizers, torch.device("cpu"), config.training)


@pytest.mark.parametrize("rows", [4, 2])
def test_a_batch_is_tried_in_all_that_training_does_and_forgotten(
    step: TrainStep, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    seen: list[tuple[tuple[int, ...], bool]] = []
    loss = LanguageModel.loss

    def noted(self: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(ids.shape), torch.is_grad_enabled()))
        return loss(self, ids)

    monkeypatch.setattr(LanguageModel, "loss", noted)
    try_batch(step, 97, 16, rows)
    assert seen == [((rows, 16), True), ((rows, 16), False)]
    assert_same(step.model.state_dict(), before)
    assert all(parameter.grad is None for parameter in step.parameters)
    assert step.model.training


def test_a_batch_that_does_not_fit_is_forgotten_too(
    step: TrainStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("utils.training.preparation.evaluate", full)
    step.model.eval()
    with pytest.raises(torch.OutOfMemoryError):
        try_batch(step, 97, 16, 4)
    assert all(parameter.grad is None for parameter in step.parameters)
    assert step.model.training


def test_the_cpu_is_ready_at_once(step: TrainStep, capsys: pytest.CaptureFixture[str]) -> None:
    random_state = torch.get_rng_state()
    prepare(step, tiny_config(training={"batch_size": 4}), 16)
    assert capsys.readouterr().err == ""
    assert torch.equal(torch.get_rng_state(), random_state)
