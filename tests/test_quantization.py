"""utils/quantization.py: what rounding does to weights, bytes and outputs, and what it leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bench.quantize
from tests.tiny import TINY_MODEL, tiny_config, tiny_model
from utils.errors import UsageError
from utils.inference_model import InferenceModel
from utils.quantization import QUANTIZATIONS, quantize
from utils.quantized_linear import GROUP, Int4Linear, Int8Linear, round_to_int4, round_to_int8

CPU = torch.device("cpu")
MATRICES = ("qkv", "out", "up", "down")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
WIDTH = 128


def inference_model(
    width: int = WIDTH, dtype: torch.dtype = torch.float32, device: torch.device = CPU
) -> InferenceModel:
    config = tiny_config(model={"hidden_size": width})
    return InferenceModel.from_weights(config, tiny_model(config).state_dict(), device, dtype)


def weights_of_int8(weight: Tensor) -> Tensor:
    codes, scales = round_to_int8(weight)
    return codes.double() * scales.double()


def weights_of_int4(weight: Tensor) -> Tensor:
    codes, scales, centres = round_to_int4(weight)
    groups = codes.double().reshape(len(codes), -1, GROUP) - 8
    rounded: Tensor = groups * scales.double()[..., None] + centres.double()[..., None]
    return rounded.flatten(1)


ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {"int8": weights_of_int8, "int4": weights_of_int4}
KINDS = {"int8": Int8Linear, "int4": Int4Linear}


def rounded_model(how: str, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """A plain model whose matrices have the values that quantization gives them."""
    model = inference_model(dtype=dtype)
    for layer in model.layers:
        for name in MATRICES:
            linear = layer.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(ROUNDED[how](linear.weight))
    return model


def quantized_model(how: str, device: torch.device = CPU) -> InferenceModel:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = inference_model(dtype=dtype, device=device)
    quantize(model, how)
    return model


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def bytes_of_layers(model: InferenceModel) -> int:
    return sum(tensor.nbytes for tensor in model.layers.state_dict().values())


def bytes_of_quantized(how: str) -> int:
    return bytes_of_layers(quantized_model(how))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_a_layer_multiplies_with_its_rounded_weights(
    how: str, rows: int, tokens: int, device: str
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(192, 320).requires_grad_(False)
    x = torch.randn(rows, tokens, 192)
    weight, bias = ROUNDED[how](linear.weight), linear.bias.double()
    kind = KINDS[how]
    found = kind(linear) if device == "cpu" else kind(linear.to(device, torch.bfloat16))
    if device == "cuda":
        x, weight = x.bfloat16().float(), ROUNDED[how](linear.weight.cpu())
    out = found(x.to(device, linear.weight.dtype))
    assert out.dtype == linear.weight.dtype
    is_exact = device == "cpu" and how == "int8" and tokens > 1
    error = relative_error(out, F.linear(x.double(), weight, bias))
    assert error < (1e-6 if is_exact else 5e-3)  # bf16 has 8 bits


def test_int8_takes_any_number_of_inputs() -> None:
    torch.manual_seed(0)
    for inputs in (1, 8, 20, 100):
        linear = nn.Linear(inputs, 24).requires_grad_(False)
        x = torch.randn(3, 1, inputs)
        expected = F.linear(x.double(), weights_of_int8(linear.weight), linear.bias.double())
        assert relative_error(Int8Linear(linear)(x), expected) < 1e-6


def test_int8_moves_no_weight_by_more_than_half_its_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256) * torch.logspace(-6, 3, 64)[:, None]
    codes, scales = round_to_int8(weight)
    assert codes.dtype == torch.int8
    assert ((weights_of_int8(weight) - weight).abs() <= scales.double() * 0.5).all()


def test_int4_moves_no_weight_by_much_more_than_half_its_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256) * torch.logspace(-6, 3, 64)[:, None]
    codes, scales, centres = round_to_int4(weight)
    assert codes.min() == 0
    assert codes.max() == 15
    error = (weights_of_int4(weight) - weight).abs().reshape(64, -1, GROUP).amax(-1)
    of_bf16 = (8 * scales.double() + centres.double().abs()) / 256  # at the ends of the range
    assert (error <= scales.double() * 0.5 + of_bf16).all()


@pytest.mark.parametrize("how", QUANTIZATIONS)
@pytest.mark.parametrize("value", [0.0, 0.5, -2.0])
def test_equal_weights_stay_as_they_are(how: str, value: float) -> None:
    weight = torch.full((8, 2 * GROUP), value)
    torch.testing.assert_close(ROUNDED[how](weight), weight.double(), rtol=4e-3, atol=1e-10)


def test_int4_keeps_weights_that_are_already_on_its_grid() -> None:
    codes = torch.arange(16).repeat(3, 2 * GROUP // 16).float()
    weight = (codes - 8) * 0.25 + 1
    assert torch.equal(weights_of_int4(weight), weight.double())


@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_only_the_matrices_of_the_layers_change(how: str) -> None:
    plain, model = inference_model(), quantized_model(how)
    for layer in model.layers:
        kinds = {type(layer.get_submodule(name)) for name in MATRICES}
        assert kinds == {KINDS[how]}
    state = model.state_dict()
    kept = {key: value for key, value in plain.state_dict().items() if key in state}
    assert len(plain.state_dict()) - len(kept) == len(MATRICES) * len(model.layers)
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    hidden = torch.randn(2, 3, WIDTH)
    assert torch.equal(model.logits(hidden), plain.logits(hidden))


@pytest.mark.parametrize(("how", "least"), [("int8", 1.9), ("int4", 3.3)])
def test_layers_take_a_fraction_of_the_bytes_of_bf16(how: str, least: float) -> None:
    assert (
        bytes_of_layers(inference_model(dtype=torch.bfloat16))
        > least * bytes_of_layers(quantized_model(how).to(torch.bfloat16))  # biases, norms too
    )


@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_the_model_computes_with_its_rounded_weights(how: str) -> None:
    ids = torch.randint(0, 97, (3, 16), generator=torch.Generator().manual_seed(0))
    logits, expected = quantized_model(how)(ids), rounded_model(how)(ids)
    assert relative_error(logits, expected) < (1e-5 if how == "int8" else 2e-2)
    assert relative_error(logits, inference_model()(ids)) > 1e-4  # quantized it is


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_reading_token_by_token_agrees_with_reading_at_once(how: str, device: str) -> None:
    model = quantized_model(how, torch.device(device))
    ids = torch.randint(0, 97, (2, 16), generator=torch.Generator().manual_seed(0)).to(device)
    cache = model.new_cache(rows=2, capacity=16)
    positions = torch.arange(16, device=device).expand(2, 16)
    parts = [model.hidden_states(ids[:, :9], cache)]
    parts += [model.decode_one(ids[:, i], positions[:, i], cache)[:, None] for i in range(9, 16)]
    assert relative_error(torch.cat(parts, 1), model.hidden_states(ids)) < 2e-2


@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_a_row_is_the_same_alone_and_in_a_batch(how: str) -> None:
    model = quantized_model(how)
    ids = torch.randint(0, 97, (4, 16), generator=torch.Generator().manual_seed(0))
    for tokens in (1, 16):
        together = model(ids[:, :tokens])
        alone = torch.cat([model(row[None, :tokens]) for row in ids])
        assert relative_error(together, alone) < 1e-5


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        quantize(inference_model(), "int3")
    assert "'int3'" in caught.value.what
    assert "int8, int4" in caught.value.hint


def test_int4_refuses_a_width_that_its_groups_do_not_divide() -> None:
    model = inference_model(width=96)
    with pytest.raises(UsageError) as caught:
        quantize(model, "int4")
    assert "64 divides, this model's is 96" in caught.value.what
    assert all(type(layer.get_submodule("qkv")) is nn.Linear for layer in model.layers)
    quantize(model, "int8")


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    model = inference_model()
    model.token_embedding.weight.zero_()
    windows = [torch.randint(0, 97, (rows, 16)) for rows in (3, 1)]
    assert bench.quantize.perplexity(model, windows) == pytest.approx(97)


def test_the_bench_shows_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.quantize, "TORCHAO_KINDS", {})
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": {**TINY_MODEL, "hidden_size": WIDTH}}))
    options = ["--device", "cpu", "--tokens", "2", "--repeats", "1", "--commit", "none"]
    bench.quantize.main(["--config", str(config), *options])
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(values["kinds"]) == [bench.quantize.PLAIN, *QUANTIZATIONS]
    taken = [kind["layer_bytes"] for kind in values["kinds"].values()]
    assert taken == [bytes_of_layers(inference_model()), *map(bytes_of_quantized, QUANTIZATIONS)]


@pytest.mark.cuda
@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_a_step_can_be_captured_in_a_graph(how: str) -> None:
    device = torch.device("cuda")
    model = quantized_model(how, device)
    token_ids = torch.tensor([3, 5], device=device)
    positions = torch.tensor([0, 1], device=device)
    cache = model.new_cache(rows=2, capacity=16)
    with torch.inference_mode():
        expected = model.decode_one(token_ids, positions, cache).clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model.decode_one(token_ids, positions, cache)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model.decode_one(token_ids, positions, cache)
        captured.zero_()
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
