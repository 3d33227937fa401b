"""Checkpoints made to harm, through the door that users take: nothing is run, each is named."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.pickle_bombs import archive, placed_bombs, raw_bombs, seal, with_record
from tests.small_checkpoint import (
    CPU,
    Payload,
    good_checkpoint,
    refusal,
    small_config,
)
from utils.config import Config
from utils.loading import load_for_inference
from utils.runs import LATEST


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return small_config(tmp_path)


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """What torch finds in a checkpoint as training saves it."""
    return good_checkpoint(tmp_path_factory.mktemp("payload"))[1]


# Pickle bombs

PLACED = sorted(placed_bombs(Path(), {"model": {}}))
RAW = sorted(raw_bombs(Path()))
NOT_RUN = "nothing in it was run"


def test_there_are_more_than_twenty_bombs() -> None:
    assert len({*PLACED, *RAW}) > 20


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("kind", PLACED)
def test_no_bomb_within_a_checkpoint_is_run(
    kind: str, is_sealed: bool, payload: Payload, config: Config, tmp_path: Path
) -> None:
    canary, path = tmp_path / "canary", tmp_path / LATEST
    content = archive(placed_bombs(canary, payload)[kind])
    seal(content, path) if is_sealed else path.write_bytes(content)
    assert NOT_RUN in refusal(path, config)
    assert not canary.exists()


@pytest.mark.parametrize("kind", RAW)
def test_no_pickle_written_by_hand_is_run(
    kind: str, payload: Payload, config: Config, tmp_path: Path
) -> None:
    canary, path = tmp_path / "canary", tmp_path / LATEST
    seal(with_record(archive(payload), "data.pkl", raw_bombs(canary)[kind]), path)
    said = refusal(path, config)
    assert NOT_RUN in said or "is damaged: torch cannot read it" in said
    assert not canary.exists()
    path.write_bytes(raw_bombs(canary)[kind])  # as a file of its own
    assert "is damaged: it is cut off, or no checkpoint at all" in refusal(path, config)
    assert not canary.exists()


@pytest.mark.parametrize("kind", RAW)
def test_the_pickles_written_by_hand_are_live(kind: str, payload: Payload, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bomb.pt"
    numbers = next(iter(payload["model"].values())).numel()
    bomb = raw_bombs(canary, numbers)[kind]
    path.write_bytes(with_record(archive(payload), "data.pkl", bomb))
    with contextlib.suppress(Exception):  # after the deed
        torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("kind", PLACED)
def test_the_placed_bombs_are_live(kind: str, payload: Payload, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bomb.pt"
    path.write_bytes(archive(placed_bombs(canary, payload)[kind]))
    torch.load(path, weights_only=False)
    assert canary.exists()


# Hostile structures: no code, but lies


def cycle() -> Payload:
    value: Payload = {}
    value["model"] = value
    return value


def laughs() -> Payload:
    """A billion billion dictionaries, in a few bytes."""
    value: Payload = {"hidden_size": 3}
    for _ in range(60):
        value = {"a": value, "b": value}
    return value


def with_weight(make: Callable[[torch.Tensor], object]) -> Callable[[Payload], Payload]:
    def change(payload: Payload) -> Payload:
        first, weight = next(iter(payload["model"].items()))
        return {**payload, "model": {**payload["model"], first: make(weight)}}

    return change


def with_settings(**values: object) -> Callable[[Payload], Payload]:
    def change(payload: Payload) -> Payload:
        config = payload["config"]
        return {**payload, "config": {**config, "model": {**config["model"], **values}}}

    return change


def with_key(key: str, value: Callable[[], object]) -> Callable[[Payload], Payload]:
    return lambda payload: {**payload, key: value()}


def nested(weight: torch.Tensor) -> torch.Tensor:
    return torch.nested.nested_tensor([weight, weight])


def quantized(weight: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


LIES: dict[str, Callable[[Payload], Payload]] = {
    "a sparse weight": with_weight(torch.Tensor.to_sparse),
    "a weight without numbers": with_weight(lambda weight: weight.to("meta")),
    "a quantized weight": with_weight(quantized),
    "a nested weight": with_weight(nested),
    "a complex weight": with_weight(lambda weight: weight.to(torch.complex64)),
    "a weight of whole numbers": with_weight(torch.Tensor.long),
    "a weight of another shape": with_weight(lambda weight: weight.T.contiguous()),
    "a weight repeated by a stride of 0": with_weight(lambda _: torch.ones(1).expand(1 << 40)),
    "a weight that is a number": with_weight(lambda _: 3),
    "weights under numbers": lambda payload: {
        **payload,
        "model": dict(enumerate(payload["model"].values())),
    },
    "a name that commands the terminal": lambda payload: {
        **payload,
        "model": {**payload["model"], "\x1b[2J": torch.ones(1)},
    },
    "weights in a list": with_key("model", lambda: [torch.ones(1)]),
    "no weights": with_key("model", dict),
    "weights within themselves": with_key("model", cycle),
    "a tensor as the format": with_key("format_version", lambda: torch.ones(2)),
    "a list as the configuration": with_key("config", lambda: [1]),
    "a tensor in the configuration": with_settings(hidden_size=torch.ones(2)),
    "a configuration within itself": with_key("config", cycle),
    "a billion dictionaries": with_key("config", laughs),
    "a billion layers": with_settings(num_layers=10**9),
    "a width of 2**62": with_settings(hidden_size=2**62),
    "a width of 10**30": with_settings(hidden_size=10**30, num_heads=1),
    "a vocabulary of 10**15": with_settings(vocab_size=10**15),
    "progress that is a number": with_key("progress", lambda: 3),
    "a step that is a text": with_key("progress", lambda: {"step": "many"}),
    "a loss that is a tensor": with_key("progress", lambda: {"validation_loss": torch.ones(2)}),
    "a digest that is a number": with_key("tokenizer_sha256", lambda: 3),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("kind", sorted(LIES))
def test_lies_are_told_by_name(kind: str, payload: Payload, config: Config, tmp_path: Path) -> None:
    path = tmp_path / LATEST
    seal(archive(LIES[kind](payload)), path)
    said = refusal(path, config)
    assert "\x1b" not in said
    assert len(said) < 2000


def test_methods_that_a_file_gives_to_a_tensor_are_left_behind(
    payload: Payload, config: Config, tmp_path: Path
) -> None:
    path = tmp_path / LATEST
    for weight in (weights := {k: v.clone() for k, v in payload["model"].items()}).values():
        weight.is_floating_point = weight.to = weight.sum = bytearray
    seal(archive({**payload, "model": weights}), path)
    assert torch.load(path, weights_only=True)["model"].popitem()[1].to is bytearray
    model, _ = load_for_inference(path, config, CPU)
    assert torch.equal(model.norm.bias, payload["model"]["decoder.norm.bias"])
