"""utils/evaluation.py: validation loss and samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import tiny_config, tiny_model
from utils.evaluation import continuations, mean_loss

CPU = torch.device("cpu")


def windows(count: int) -> Tensor:
    return torch.randint(0, 97, (count, 12), generator=torch.Generator().manual_seed(1))


def test_the_mean_is_over_all_windows_without_dropout() -> None:
    """A last, smaller batch weighs as many windows as it has, and the model stays in training."""
    model = tiny_model(tiny_config(model={"dropout": 0.5, "attention_dropout": 0.5})).train()
    all_windows = windows(10)
    found = mean_loss(model, torch.split(all_windows, 4), CPU, "fp32", batch_size=4)
    assert model.training
    logits = model.eval()(all_windows)["logits"]
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), all_windows[:, 1:].flatten())
    assert found == pytest.approx(expected.item(), abs=1e-5)


def test_it_ends_without_a_result_when_told_to_stop() -> None:
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    model = tiny_model()
    assert mean_loss(model, torch.split(windows(40), 4), CPU, "fp32", 4, should_stop) is None
    assert len(asked) < 10


def test_continuations_are_what_the_model_generates() -> None:
    model = tiny_model()
    prompts = [[1, 5, 7], [1]]

    def generate(ids: Tensor) -> Tensor:
        return model.generate(ids, max_length=5, temperature=0)

    found = list(continuations(generate, prompts, CPU, "fp32"))
    assert found == [generate(torch.tensor([prompt]))[0].tolist() for prompt in prompts]
    assert [ids[: len(prompt)] for ids, prompt in zip(found, prompts, strict=True)] == prompts
