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
@pytest.mark.parametrize("is_compiled", [False, True])
def test_replayed_graphs_take_the_same_steps_as_single_launches(
    optimizer: str, accumulation: int, is_compiled: bool
) -> None:
    device = torch.device("cuda")
    shape = {"hidden_size": 64, "num_heads": 2, "dropout": 0.1, "attention_dropout": 0.1}
    ends = []
    for cuda_graphs in (False, True):
        torch.compiler.reset()
        model = tiny_model(tiny_config(model=shape)).to(device).train()
        if is_compiled:
            model.compile_for_training()
        step = step_of(
            model,
            device,
            optimizer=optimizer,
            cuda_graphs=cuda_graphs,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0.1,
            weight_decay=1.0,
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
        moments = [
            moment
            for part in step.optimizers.state_dict().values()
            for state in part.values()
            for moment in state.values()
        ]
        ends.append((outcomes, [*weights(model), *moments], torch.cuda.get_rng_state()))
    (single_outcomes, single_state, single_rng), (outcomes, state, rng) = ends
    for single, replayed in zip(single_outcomes, outcomes, strict=True):
        assert replayed == pytest.approx(single, rel=1e-5)
    for theirs, mine in zip(single_state, state, strict=True):
        assert torch.allclose(theirs, mine, rtol=1e-4, atol=1e-6)
    assert torch.equal(single_rng, rng)
