"""utils/optimizer.py: AdamW as torch has it, decaying matrices alone, and Muon of the paper."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model import LanguageModel
from tests.test_model import random_ids
from tests.tiny import tiny_config, tiny_model
from utils.config import Config
from utils.errors import CheckpointError
from utils.optimizer import Muon, build_optimizers, orthogonalise

SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.3, "beta1": 0.8, "beta2": 0.9}
SHAPES = [(8, 24), (24, 8), (8, 24), (16, 16), (24, 8), (5, 40)]


@pytest.fixture
def config() -> Config:
    return tiny_config(training={**SETTINGS, "optimizer": "adamw"})


@pytest.fixture
def muon_config() -> Config:
    return tiny_config(training={**SETTINGS, "optimizer": "muon", "muon_learning_rate": 0.05})


def test_matrices_decay_and_vectors_do_not(config: Config) -> None:
    model = LanguageModel(config)
    optimizer = build_optimizers(model, config.training)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in g["params"]} for g in optimizer.param_groups)
    assert decayed | spared == set(names.values())
    assert not decayed & spared
    assert all("norm" in name or name.endswith("bias") for name in spared)
    assert not any("norm" in name or name.endswith("bias") for name in decayed)
    assert {"token_embedding.weight", "position_embedding.weight"} < decayed
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.01
        assert group["betas"] == (0.8, 0.9)


def test_steps_are_adamws_of_the_paper(config: Config) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, written out."""
    model = LanguageModel(config).double()
    optimizers = build_optimizers(model, config.training)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(value) for name, value in expected.items()}
    second = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(1, 6):
        batch = random_ids(model, 2, 8, seed=step)
        model(batch, labels=batch)["loss"].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            if parameter.dim() >= 2:
                expected[name] *= 1 - 0.01 * 0.3
            first[name] = 0.8 * first[name] + 0.2 * parameter.grad
            second[name] = 0.9 * second[name] + 0.1 * parameter.grad**2
            unbiased = second[name] / (1 - 0.9**step)
            expected[name] -= 0.01 / (1 - 0.8**step) * first[name] / (unbiased.sqrt() + 1e-8)
        optimizers.step()
        optimizers.zero_grad()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], rtol=1e-9, atol=1e-12), name


def test_the_cpu_has_no_need_of_the_fused_kernel(config: Config) -> None:
    adamw = build_optimizers(LanguageModel(config), config.training).parts["adamw"]
    assert not adamw.defaults["fused"]


@pytest.mark.cuda
def test_the_fused_kernel_takes_the_same_steps(config: Config) -> None:
    models = [tiny_model(config), tiny_model(config).cuda()]
    optimizers = [build_optimizers(model, config.training) for model in models]
    kernels = [bool(chosen.parts["adamw"].defaults["fused"]) for chosen in optimizers]
    assert kernels == [False, True]
    for step in range(5):
        batch = random_ids(models[0], 2, 8, seed=step)
        models[0](batch, labels=batch)["loss"].backward()
        for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert ours.grad is not None
            theirs.grad = ours.grad.to(theirs.device)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(ours, theirs.cpu(), atol=1e-5)


# Muon


def gradients_of(shapes: Sequence[tuple[int, int]], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def kellers_muon(weight: Tensor, gradients: Sequence[Tensor], lr: float, decay: float) -> Tensor:
    """The post's own steps in float64, one matrix alone: https://kellerjordan.github.io/posts/muon"""
    weight, moment, momentum = weight.double(), torch.zeros_like(weight).double(), 0.95
    rows, columns = weight.shape
    for gradient in gradients:
        moment = momentum * moment + (1 - momentum) * gradient.double()
        x = momentum * moment + (1 - momentum) * gradient.double()
        x = x / x.norm()
        x = x.T if rows > columns else x
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        x = x.T if rows > columns else x
        weight = weight * (1 - lr * decay) - lr * max(1, rows / columns) ** 0.5 * x
    return weight


def ours(weights: Sequence[Tensor], steps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    optimizer = Muon(parameters, lr=0.05, momentum=0.95, weight_decay=0.3)
    for gradients in steps:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def assert_near(found: Tensor, expected: Tensor, start: Tensor, share: float) -> None:
    """`found` is as far from `start` as `expected` is, but for that share of the way."""
    way = (expected - start).norm()
    assert (found - expected).norm() < share * way


def test_steps_are_muons_of_the_source() -> None:
    """In bf16, as there; float64 shows what that costs."""
    weights = gradients_of(SHAPES, step=99)
    steps = [gradients_of(SHAPES, step) for step in range(4)]
    for index, found in enumerate(ours(weights, steps)):
        alone = kellers_muon(weights[index], [step[index] for step in steps], 0.05, 0.3)
        assert_near(found.double(), alone, weights[index].double(), 0.03)


def test_steps_are_those_of_torchs_muon() -> None:
    weights = gradients_of(SHAPES, step=99)
    steps = [gradients_of(SHAPES, step) for step in range(4)]
    theirs = [torch.nn.Parameter(weight.clone()) for weight in weights]
    reference = torch.optim.Muon(
        theirs, lr=0.05, momentum=0.95, weight_decay=0.3, adjust_lr_fn="original"
    )
    for gradients in steps:
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()  # type: ignore[no-untyped-call]
    for start, found, expected in zip(weights, ours(weights, steps), theirs, strict=True):
        assert_near(found, expected.detach(), start, 0.03)


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (2, 48, 48)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_all_singular_values_end_near_one(shape: tuple[int, int, int], scale: float) -> None:
    """Whatever they were: here from 1 down to a fiftieth."""
    torch.manual_seed(0)
    rank = min(shape[1:])
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(1, 0.02, rank)
    found = orthogonalise(scale * left * values @ right)
    assert found.shape == shape
    singular = torch.linalg.svdvals(found.float())
    assert singular.min() > 0.6
    assert singular.max() < 1.25


def test_muon_takes_the_layers_matrices_and_adamw_the_rest(muon_config: Config) -> None:
    model = LanguageModel(muon_config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parts = build_optimizers(model, muon_config.training).parts
    held = {
        part: [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        for part, optimizer in parts.items()
    }
    assert sorted([*held["muon"], *held["adamw"]]) == sorted(names.values())
    kinds = {name.split(".", 3)[-1] for name in held["muon"]}
    assert kinds == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    assert len(held["muon"]) == 4 * muon_config.model.num_layers
    assert {group["peak_lr"] for group in parts["muon"].param_groups} == {0.05}
    assert {group["peak_lr"] for group in parts["adamw"].param_groups} == {0.01}


def take_steps(model: LanguageModel, optimizers: object, steps: range) -> None:
    for step in steps:
        batch = random_ids(model, 2, 8, seed=step)
        model(batch, labels=batch)["loss"].backward()
        optimizers.step()  # type: ignore[attr-defined]
        optimizers.zero_grad()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_restored_moments_go_on_to_the_bit(name: str) -> None:
    config = tiny_config(training={**SETTINGS, "optimizer": name})
    first = LanguageModel(config)
    optimizers = build_optimizers(first, config.training)
    take_steps(first, optimizers, range(3))
    second = copy.deepcopy(first)
    restored = build_optimizers(second, config.training)
    restored.load_state_dict(copy.deepcopy(optimizers.state_dict()))
    take_steps(first, optimizers, range(3, 6))
    take_steps(second, restored, range(3, 6))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_moments_of_other_optimizers_are_refused(config: Config, muon_config: Config) -> None:
    model = LanguageModel(config)
    adamw, muon = (build_optimizers(model, c.training) for c in (config, muon_config))
    with pytest.raises(CheckpointError, match="was trained with adamw, not with adamw and muon"):
        muon.load_state_dict(adamw.state_dict())
    with pytest.raises(CheckpointError, match="was trained with adamw and muon, not with adamw"):
        adamw.load_state_dict(muon.state_dict())
