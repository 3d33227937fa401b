"""utils/optimizer.py: AdamW as torch has it, decaying matrices alone."""

import pytest
import torch

from model import LanguageModel
from tests.test_model import random_ids
from tests.tiny import tiny_config, tiny_model
from utils.config import Config
from utils.optimizer import build_optimizer


@pytest.fixture
def config() -> Config:
    return tiny_config(
        training={"learning_rate": 0.01, "weight_decay": 0.3, "beta1": 0.8, "beta2": 0.9}
    )


def test_matrices_decay_and_vectors_do_not(config: Config) -> None:
    model = LanguageModel(config)
    optimizer = build_optimizer(model, config.training)
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


def test_frozen_parameters_are_left_out(config: Config) -> None:
    model = LanguageModel(config)
    model.position_embedding.weight.requires_grad_(False)
    groups = build_optimizer(model, config.training).param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert id(model.position_embedding.weight) not in held
    assert len(held) == len(list(model.parameters())) - 1


def test_steps_are_adamws_of_the_paper(config: Config) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, written out."""
    model = LanguageModel(config).double()
    optimizer = build_optimizer(model, config.training)
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
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], rtol=1e-9, atol=1e-12), name


def test_the_cpu_has_no_need_of_the_fused_kernel(config: Config) -> None:
    assert not build_optimizer(LanguageModel(config), config.training).defaults["fused"]


@pytest.mark.cuda
def test_the_fused_kernel_takes_the_same_steps(config: Config) -> None:
    models = [tiny_model(config), tiny_model(config).cuda()]
    optimizers = [build_optimizer(model, config.training) for model in models]
    assert [optimizer.defaults["fused"] for optimizer in optimizers] == [False, True]
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
