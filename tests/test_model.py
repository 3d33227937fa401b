"""model.py: GPT-2's function to the last digit that matters, and a model that learns."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from model import IGNORED_LABEL, LanguageModel, create_model, logits_and_loss
from tests.conftest import REPOSITORY
from tests.tiny import tiny_config, tiny_model
from utils.config_file import load_config
from utils.errors import UsageError
from utils.optimizer import build_optimizers

# Ours -> Hugging Face's; matrices of the latter's Conv1D are transposed.
LAYER_NAMES = {
    "norm1": "ln_1",
    "self_attn.in_proj_": "attn.c_attn.",
    "self_attn.out_proj": "attn.c_proj",
    "norm2": "ln_2",
    "linear1": "mlp.c_fc",
    "linear2": "mlp.c_proj",
}


def hugging_face_twin(model: LanguageModel) -> Any:
    """transformers' GPT-2 with the weights of ours."""
    shape = model.config.model
    twin: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.max_position_embeddings,
            n_embd=shape.hidden_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            activation_function="gelu_new",
            layer_norm_epsilon=shape.layer_norm_eps,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith("embedding.weight"):
            weights["wte.weight" if name.startswith("token") else "wpe.weight"] = value
            continue
        name = name.removeprefix("decoder.").replace("layers.", "h.")
        for ours, theirs in LAYER_NAMES.items():
            name = name.replace(ours, theirs)
        name = name.replace("norm.", "ln_f.")
        weights[name] = value.T if value.dim() == 2 else value
    twin.transformer.load_state_dict(weights, strict=True)
    return twin.eval()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """Tests that change it make their own."""
    return tiny_model()


def random_ids(model: LanguageModel, *size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.model.vocab_size, size, generator=generator)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"num_layers": 3, "hidden_size": 48, "num_heads": 6, "layer_norm_eps": 1e-3},
        {"num_heads": 1, "max_position_embeddings": 40},
    ],
)
@torch.no_grad()
def test_logits_and_loss_are_those_of_hugging_face_gpt2(shape: dict[str, float]) -> None:
    model = tiny_model(tiny_config(model=shape))
    twin = hugging_face_twin(model)
    input_ids = random_ids(model, 3, model.max_positions)
    ours, theirs = model(input_ids, labels=input_ids), twin(input_ids, labels=input_ids)
    assert (ours["logits"] - theirs.logits).abs().max() < 1e-4
    assert theirs.logits.std() > 0.5  # so that the line above says something
    assert ours["loss"].item() == pytest.approx(theirs.loss.item(), abs=1e-5)


@torch.no_grad()
def test_left_padded_logits_and_loss_are_those_of_hugging_face_gpt2(model: LanguageModel) -> None:
    input_ids = random_ids(model, 3, 12)
    mask = torch.arange(12) >= torch.tensor([[0], [4], [11]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    labels = input_ids.masked_fill(~mask, IGNORED_LABEL)
    ours = model(input_ids, attention_mask=mask.long(), labels=labels)
    # Hugging Face scores the first real token from the padding before it; ours does not.
    first_real = mask & (positions == 0)
    twin = hugging_face_twin(model)(
        input_ids,
        attention_mask=mask.long(),
        position_ids=positions,
        labels=labels.masked_fill(first_real, IGNORED_LABEL),
    )
    assert (ours["logits"] - twin.logits)[mask].abs().max() < 1e-4
    assert ours["loss"].item() == pytest.approx(twin.loss.item(), abs=1e-5)


def test_the_default_model_has_as_many_parameters_as_promised() -> None:
    with torch.device("meta"):
        model = create_model(REPOSITORY / "config.json")
    assert model.parameter_count() == 117_531_648
    assert not [name for name, _ in model.named_parameters() if "multihead" in name]
    assert sum(p.numel() for p in model.parameters()) == model.parameter_count()


def test_the_example_of_the_specification_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    torch.manual_seed(0)
    batch_size, seq_len = 2, 8
    model = create_model("config.json")
    input_ids = torch.randint(0, 32016, (batch_size, seq_len))
    outputs = model(input_ids, labels=input_ids)
    print(f"Loss: {outputs['loss'].item()}")  # noqa: T201
    prompt_ids = input_ids
    generated = model.generate(prompt_ids, max_length=3, temperature=0.8, top_k=50, top_p=0.95)
    assert outputs["logits"].shape == (2, 8, 32016)
    # A model that knows nothing is as sure of every token.
    assert outputs["loss"].item() == pytest.approx(math.log(32016), abs=0.3)
    assert "Loss: 10." in capsys.readouterr().out
    assert generated.shape == (2, 11)
    assert generated.dtype == torch.int64
    assert generated[:, :8].equal(prompt_ids)
    assert model.training


def test_generate_takes_the_arguments_of_the_specification() -> None:
    names = list(inspect.signature(LanguageModel.generate).parameters)
    assert names[:6] == ["self", "prompt_ids", "max_length", "temperature", "top_k", "top_p"]


@torch.no_grad()
def test_a_token_has_no_effect_on_what_comes_before_it(model: LanguageModel) -> None:
    input_ids = random_ids(model, 2, 16)
    before = model(input_ids)["logits"]
    for changed in range(16):
        other = input_ids.clone()
        other[:, changed] = (other[:, changed] + 1) % 97
        after = model(other)["logits"]
        assert after[:, :changed].equal(before[:, :changed])
        assert not after[:, changed:].equal(before[:, changed:])


@torch.no_grad()
def test_padding_may_stand_on_either_side_and_hold_anything(model: LanguageModel) -> None:
    rows = [random_ids(model, length, seed=length) for length in (3, 7, 12)]
    losses = [model(row[None], labels=row[None])["loss"] * (len(row) - 1) for row in rows]
    expected_loss = torch.stack(losses).sum() / sum(len(row) - 1 for row in rows)
    for side, filling in (("left", 0), ("right", 0), ("left", 55), ("right", 55)):
        padded = torch.full((3, 14), filling)
        mask = torch.zeros(3, 14, dtype=torch.long)
        for index, row in enumerate(rows):
            part = slice(14 - len(row), 14) if side == "left" else slice(0, len(row))
            padded[index, part], mask[index, part] = row, 1
        out = model(padded, attention_mask=mask, labels=padded)
        assert out["loss"].item() == pytest.approx(expected_loss.item(), abs=1e-5)
        for index, row in enumerate(rows):
            real = out["logits"][index][mask[index] == 1]
            assert torch.allclose(real, model(row[None])["logits"][0], atol=1e-5)
        assert out["logits"].isfinite().all()


@torch.no_grad()
def test_labels_are_shifted_inside_and_ignored_ones_do_not_count(model: LanguageModel) -> None:
    input_ids = random_ids(model, 2, 10)
    logits = model(input_ids)["logits"]
    labels = input_ids.clone()
    labels[0, :6] = IGNORED_LABEL
    token_losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
    ).view(2, 9)
    expected = torch.cat([token_losses[0, 5:], token_losses[1]]).mean()
    assert model(input_ids, labels=labels)["loss"].item() == pytest.approx(expected.item())
    everything = model(input_ids, labels=input_ids)["loss"]
    assert everything.item() == pytest.approx(token_losses.mean().item())
    assert set(model(input_ids)) == {"logits"}


def test_one_batch_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    config = tiny_config(
        model={"hidden_size": 64}, training={"learning_rate": 1e-2, "min_learning_rate": 0.0}
    )
    model = LanguageModel(config)
    optimizers = build_optimizers(model, config.training)
    batch = random_ids(model, 4, 16)
    batch[:, 0] = torch.arange(4)  # the rows differ from the first token on
    for _ in range(80):
        loss = model(batch, labels=batch)["loss"]
        loss.backward()
        optimizers.step()
        optimizers.zero_grad()
    assert loss.item() < 0.05
    continued = model.generate(batch[:, :1], max_length=15, temperature=0.0)
    assert continued.equal(batch)


def test_weights_start_as_gpt2s_do() -> None:
    shape = {"hidden_size": 128, "num_layers": 8, "vocab_size": 500, "max_position_embeddings": 99}
    torch.manual_seed(0)
    model = LanguageModel(tiny_config(model={**shape, "initializer_range": 0.05}))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            expected = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            assert (parameter == expected).all(), name
            continue
        is_residual = name.endswith(("out_proj.weight", "linear2.weight"))
        std = 0.05 / math.sqrt(2 * 8) if is_residual else 0.05
        assert parameter.std().item() == pytest.approx(std, rel=0.04), name
        assert abs(parameter.mean().item()) < std / 20, name
    layers = [layer.linear1.weight for layer in model.decoder.layers]
    assert not layers[0].equal(layers[1])  # nn.TransformerDecoder starts from copies


def test_weights_follow_torchs_seed() -> None:
    torch.manual_seed(7)
    first = create_model(tiny_config()).state_dict()
    torch.manual_seed(7)
    again = create_model(tiny_config()).state_dict()
    assert all(value.equal(again[name]) for name, value in first.items())


def test_too_long_an_input_is_refused(model: LanguageModel) -> None:
    message = "the input has 17 tokens, but the model has 16 positions\n  Shorten the input"
    with pytest.raises(UsageError, match=message):
        model(torch.zeros(1, 17, dtype=torch.long))
    assert model(torch.zeros(1, 16, dtype=torch.long))["logits"].shape == (1, 16, 97)


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
@torch.no_grad()
def test_dropout_acts_in_training_alone(kind: str) -> None:
    plain = tiny_model()
    model = LanguageModel(tiny_config(model={kind: 0.5}))
    model.load_state_dict(plain.state_dict())
    input_ids = random_ids(model, 2, 16)
    model.eval()
    assert model(input_ids)["logits"].equal(plain(input_ids)["logits"])
    model.train()
    assert not model(input_ids)["logits"].equal(model(input_ids)["logits"])
    assert model.generate(input_ids, 4, 0.0).equal(plain.generate(input_ids, 4, 0.0))
    assert model.training


def test_every_parameter_gets_a_gradient() -> None:
    model = tiny_model()
    input_ids = random_ids(model, 2, 16)
    model(input_ids, labels=input_ids)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_create_model_takes_a_path_a_configuration_or_nothing() -> None:
    with torch.device("meta"):
        for given in (None, "config.json", REPOSITORY / "config.json", load_config()):
            assert create_model(given).config == load_config()


def test_compiling_changes_neither_names_nor_generation(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("generation must stay eager")

    def compile_to(target: Callable[..., object]) -> Callable[..., object]:
        return refuse

    compiled = tiny_model()
    monkeypatch.setattr(torch, "compile", compile_to)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **_: setattr(self, "_compiled_call_impl", refuse)
    )
    compiled.compile_for_training()
    assert compiled.state_dict().keys() == model.state_dict().keys()
    prompt = random_ids(model, 1, 4)
    assert compiled.generate(prompt, 20, 0.0).equal(model.generate(prompt, 20, 0.0))
    with pytest.raises(AssertionError, match="eager"):
        compiled(prompt)


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_training_has_the_same_loss_and_gradients() -> None:
    shape = {"hidden_size": 64, "max_position_embeddings": 64}
    eager = tiny_model(tiny_config(model=shape)).cuda().train()
    compiled = tiny_model(tiny_config(model=shape)).cuda().train()
    compiled.compile_for_training()
    assert compiled.head is not logits_and_loss
    batch = random_ids(eager, 4, 64).cuda()
    losses = []
    for model in (eager, compiled):
        loss = model(batch, labels=batch)["loss"]
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    for ours, theirs in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)
