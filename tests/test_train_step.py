"""utils/training/step.py: gradients and updates, eager and as CUDA graphs."""

import pytest
import torch
from torch import Tensor

from model import LanguageModel
from tests.tiny import tiny_config, tiny_model
from utils.optimizer import build_optimizers
from utils.training.step import TrainStep

CPU = torch.device("cpu")


def step_of(model: LanguageModel, device: torch.device, **training: object) -> TrainStep:
    config = tiny_config(training=training)
    optimizers = build_optimizers(model, config.training)
    return TrainStep(model, optimizers, device, config.training)


def batches(count: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(97, (4, 16), generator=generator).to(device) for _ in range(count)]


def weights(model: LanguageModel) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_loss_and_norm_are_those_of_one_large_batch() -> None:
    parts = batches(2, CPU)
    split = step_of(tiny_model(), CPU, gradient_accumulation_steps=2)
    whole = step_of(tiny_model(), CPU)
    assert split.gradients(parts) == pytest.approx(whole.gradients([torch.cat(parts)]), rel=1e-5)


def test_a_discarded_gradient_leaves_no_trace() -> None:
    model = tiny_model()
    step = step_of(model, CPU)
    first, second = batches(2, CPU)
    before = weights(model)
    step.gradients([first])
    step.discard()
    assert all(map(torch.equal, before, weights(model)))
    fresh = step_of(tiny_model(), CPU)
    assert step.gradients([second]) == fresh.gradients([second])


def test_the_update_is_clipped() -> None:
    model = tiny_model()
    step = step_of(model, CPU, max_grad_norm=1e-3)
    _, norm = step.gradients(batches(1, CPU))
    assert norm > 1e-3
    step.update()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_replayed_graphs_take_the_same_steps_as_eager_code(
    optimizer: str, accumulation: int
) -> None:
    device = torch.device("cuda")
    ends = []
    for cuda_graphs in (False, True):
        model = tiny_model(tiny_config(model={"dropout": 0.1, "attention_dropout": 0.1}))
        model = model.to(device).train()
        step = step_of(
            model,
            device,
            optimizer=optimizer,
            cuda_graphs=cuda_graphs,
            gradient_accumulation_steps=accumulation,
        )
        before = weights(model)
        torch.manual_seed(3)
        step.prepare(4, 16)
        assert all(map(torch.equal, before, weights(model)))
        outcomes = []
        for part in range(5):
            step.optimizers.scale_learning_rates(1 / (part + 1))
            given = batches(5 * accumulation, device)[part * accumulation :][:accumulation]
            outcomes.append(step.gradients(given))
            if part == 2:
                step.discard()
            else:
                step.apply()
        ends.append((outcomes, weights(model), torch.cuda.get_rng_state()))
    (eager_outcomes, eager_weights, eager_rng), (outcomes, ours, rng) = ends
    for eager, replayed in zip(eager_outcomes, outcomes, strict=True):
        assert replayed == pytest.approx(eager, rel=1e-4)
    for theirs, mine in zip(eager_weights, ours, strict=True):
        assert torch.allclose(theirs, mine, atol=1e-3)
    assert torch.equal(eager_rng, rng)
