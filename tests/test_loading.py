"""utils/loading.py: a checkpoint becomes a model that generates, and takes what was said."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import REPOSITORY
from tests.tiny import tiny_checkpoint, tiny_config, tiny_model
from tests.workspaces import Workspace
from tokenizer import CodeLlamaTokenizer
from utils.checkpoint import Checkpoint, load_checkpoint, load_weights_only, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError, TokenizerError
from utils.files import sha256_of
from utils.loading import inference_dtype, load_for_inference, required_bytes
from utils.tokenizer_files import TOKENIZER_FILE

CPU = torch.device("cpu")
Weights = dict[str, Tensor]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


@pytest.fixture
def path(config: Config, tmp_path: Path) -> Path:
    """A checkpoint of a model, with an optimizer's state."""
    path = tmp_path / "checkpoint_latest.pt"
    checkpoint = tiny_checkpoint(config)
    checkpoint.model = dict(tiny_model(config).state_dict())
    save_checkpoint(checkpoint, path)
    return path


def test_the_model_is_the_one_that_was_trained(path: Path, config: Config) -> None:
    model, checkpoint = load_for_inference(path, tiny_config(model={"num_layers": 1}), CPU)
    assert checkpoint.config == config
    assert not model.training
    ids = torch.randint(config.model.vocab_size, (3, 16))
    with torch.no_grad():
        expected = tiny_model(config)(ids)["logits"]
        torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-5)


def test_all_but_what_only_resuming_needs_is_there(path: Path, config: Config) -> None:
    whole, read = load_checkpoint(path, config), load_weights_only(path, config)
    assert all(value.equal(whole.model[name]) for name, value in read.model.items())
    assert whole.optimizer
    assert whole.rng
    whole.optimizer = whole.rng = whole.model = read.model = {}
    assert read == whole


def test_older_layouts_load_as_well(config: Config, tmp_path: Path) -> None:
    """Those of programs that keep weights alone, compiled or not, are of the current model."""
    weights = tiny_model(config).state_dict()
    for number, content in enumerate(
        (
            dict(weights),
            {"model": weights, "epoch": 3},
            {"state_dict": {f"_orig_mod.{name}": value for name, value in weights.items()}},
            {"model_state_dict": {name: value.half() for name, value in weights.items()}},
        )
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        model, checkpoint = load_for_inference(path, config, CPU)
        assert checkpoint.step is None
        torch.testing.assert_close(
            model.norm.weight, weights["decoder.norm.weight"], rtol=1e-3, atol=1e-3
        )
        assert model.norm.weight.dtype == torch.float32


def dropped(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if "norm1.bias" not in name}


def spoiled(number: float) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        weights["decoder.layers.1.linear1.weight"][3, 4] = number
        return weights

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dropped, "its weights do not fit the model: decoder.layers.0.norm1.bias is missing, dec"),
        (
            lambda w: {**w, "a\x1bc": torch.ones(1)},
            r"its weights do not fit .*: a\\x1bc is unknown",
        ),
        (
            lambda w: {**w, "token_embedding.weight": torch.ones(5, 32)},
            r"its weights do not fit .*: token_embedding.weight is \(5, 32\), not \(97, 32\)",
        ),
        (
            lambda w: {**w, "decoder.norm.bias": torch.ones(32).int()},
            "its weights do not fit .*: decoder.norm.bias holds torch.int32, not floating point",
        ),
        (lambda w: {"a": torch.ones(1)}, "has 1 weights for 2 layers"),
        (spoiled(float("nan")), "NaN or infinity among its weights: decoder.layers.1.linear1.wei"),
        (spoiled(float("-inf")), "NaN or infinity among its weights: decoder.layers.1.linear1.wei"),
    ],
)
def test_weights_that_cannot_generate_are_named(
    change: Callable[[Weights], Weights], message: str, config: Config, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint(config)
    checkpoint.model = change(dict(tiny_model(config).state_dict()))
    save_checkpoint(checkpoint, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt: {message}"):
        load_for_inference(tmp_path / "a.pt", config, CPU)


def test_large_weights_are_not_taken_for_infinite_ones(config: Config, tmp_path: Path) -> None:
    """Even where their sum overflows."""
    checkpoint = tiny_checkpoint(config)
    weights: Mapping[str, Tensor] = tiny_model(config).state_dict()
    checkpoint.model = {name: torch.full_like(value, 3e38) for name, value in weights.items()}
    save_checkpoint(checkpoint, tmp_path / "a.pt")
    model, _ = load_for_inference(tmp_path / "a.pt", config, CPU)
    assert (model.norm.weight == 3e38).all()


def test_numbers_are_bf16_on_a_gpu_alone() -> None:
    assert inference_dtype(torch.device("cuda:1")) == torch.bfloat16
    assert inference_dtype(CPU) == torch.float32


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_a_model_takes_is_said_beforehand(rows: int, device: str) -> None:
    config = tiny_config(model={"num_layers": 3, "hidden_size": 48})
    place = torch.device(device)
    weights = sum(value.numel() for value in tiny_model(config).state_dict().values())
    cache = 2 * 3 * rows * 48 * config.model.max_position_embeddings
    read = 10 * rows * 48 * config.model.max_position_embeddings
    item_bytes = {"cpu": 4, "cuda": 2}[device]
    needed = required_bytes(config, place, rows, None)
    assert needed == (weights + cache + read) * item_bytes
    saved = needed - required_bytes(config, place, rows, "int8")
    matrices = 3 * 12 * 48**2
    assert saved == pytest.approx((item_bytes - 1) * matrices, rel=0.1)
    assert required_bytes(config, place, rows, "int4") < needed - saved


MEMORY = """
    import sys
    from pathlib import Path
    import torch
    from utils.config_file import load_config
    from utils.loading import load_for_inference

    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    config = load_config(None, {"model.num_layers": 2})
    before = resident_bytes()
    model, _ = load_for_inference(Path(sys.argv[1]), config, torch.device("cpu"))
    print(resident_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_optimizer_takes_no_memory(tmp_path: Path) -> None:
    """160 MB of weights, 640 MB of an optimizer's."""
    config = tiny_config(
        tmp_path, model={"num_layers": 2, "hidden_size": 768, "vocab_size": 32016, "num_heads": 12}
    )
    weights = dict(tiny_model(config).state_dict())
    weights_bytes = sum(weight.nbytes for weight in weights.values())
    state = [torch.ones(weights_bytes) for _ in range(1)]
    save_checkpoint(Checkpoint(config, weights, optimizer={"state": state}), tmp_path / "a.pt")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "a.pt")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) < 2 * weights_bytes


# The tokenizer of a checkpoint


def test_a_tokenizer_is_loaded_for_its_own_checkpoints_alone(
    prepared_workspace: Workspace,
) -> None:
    config = prepared_workspace.config
    folder = config.paths.tokenizer_dir
    digest = sha256_of(folder / TOKENIZER_FILE)
    for known in (digest, ""):  # older programs did not say
        checkpoint = Checkpoint(config, {}, tokenizer_sha256=known, name="a.pt")
        assert CodeLlamaTokenizer.load_for(checkpoint, folder).sha256 == digest
    other = Checkpoint(config, {}, tokenizer_sha256="b" * 64, name="a.pt")
    message = (
        rf"a\.pt: was trained with another tokenizer \(SHA-256 b{{16}}\) than .* \({digest[:16]}"
    )
    with pytest.raises(CheckpointError, match=message):
        CodeLlamaTokenizer.load_for(other, folder)


def test_a_tokenizer_that_is_not_there_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer here"):
        CodeLlamaTokenizer.load_for(tiny_checkpoint(config), tmp_path)
