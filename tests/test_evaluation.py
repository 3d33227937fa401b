"""utils/evaluation.py: validation loss and samples."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import tiny_config, tiny_model
from utils.evaluation import continuations, evaluate

CPU = torch.device("cpu")


def windows(count: int) -> Tensor:
    return torch.randint(0, 97, (count, 12), generator=torch.Generator().manual_seed(1))


def test_the_mean_is_over_all_windows_without_dropout() -> None:
    """A last, smaller batch weighs as many windows as it has, and the model stays in training."""
    model = tiny_model(tiny_config(model={"dropout": 0.5, "attention_dropout": 0.5})).train()
    all_windows = windows(10)
    token_bytes = torch.randint(0, 9, (97,), generator=torch.Generator().manual_seed(2))
    found = evaluate(model, torch.split(all_windows, 4), CPU, "fp32", 4, token_bytes)
    assert found is not None
    assert model.training
    logits = model.eval()(all_windows)["logits"]
    targets = all_windows[:, 1:].flatten()
    nats = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum").item()
    assert found.loss == pytest.approx(nats / len(targets), abs=1e-5)
    text_bytes = sum(int(token_bytes[target]) for target in targets)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
    assert found.scalars() == {
        "val/loss": found.loss,
        "val/perplexity": pytest.approx(math.exp(found.loss)),
        "val/bits_per_byte": found.bits_per_byte,
    }


def test_a_model_that_knows_nothing_needs_eight_bits_for_each_byte() -> None:
    """All of 256 tokens of a byte each are equally likely to a model whose weights are zero."""
    model = tiny_model(tiny_config(model={"vocab_size": 256}))
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    found = evaluate(model, [windows(4)], CPU, "fp32", 4, torch.ones(256, dtype=torch.int64))
    assert found is not None
    assert found.bits_per_byte == pytest.approx(8.0)
    assert found.perplexity == pytest.approx(256)


def test_text_without_a_byte_has_no_bits_per_byte() -> None:
    nothing = torch.zeros(97, dtype=torch.int64)
    found = evaluate(tiny_model(), [windows(4)], CPU, "fp32", 4, nothing)
    assert found is not None
    assert math.isnan(found.bits_per_byte)
    assert math.isfinite(found.loss)


def test_it_ends_without_a_result_when_told_to_stop() -> None:
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    batches = torch.split(windows(40), 4)
    ones = torch.ones(97, dtype=torch.int64)
    assert evaluate(tiny_model(), batches, CPU, "fp32", 4, ones, should_stop) is None
    assert len(asked) < 10


def test_continuations_are_what_the_model_generates() -> None:
    model = tiny_model()
    prompts = [[1, 5, 7], [1]]

    def generate(ids: Tensor) -> Tensor:
        return model.generate(ids, max_length=5, temperature=0)

    found = list(continuations(generate, prompts, CPU, "fp32"))
    assert found == [generate(torch.tensor([prompt]))[0].tolist() for prompt in prompts]
    assert [ids[: len(prompt)] for ids, prompt in zip(found, prompts, strict=True)] == prompts
