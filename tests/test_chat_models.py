"""utils/chat/models.py: models that memory is too short for are not loaded, and how short it is."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model import create_model
from tests.tiny import tiny_config
from utils.chat import menus, models
from utils.chat.completion import TextCodec
from utils.chat.models import load_models
from utils.chat.settings import Settings
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import DeviceError
from utils.generation import Engine
from utils.sampling import Sampling


class Codec:
    """A tokenizer of which only the special ids are needed."""

    bos_id, eos_id, pad_id = 1, 2, 2


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two checkpoints of different sizes."""
    found = [tmp_path / "small.pt", tmp_path / "large.pt"]
    for path, layers in zip(found, (1, 3), strict=True):
        config = tiny_config(model={"num_layers": layers})
        save_checkpoint(Checkpoint(config, create_model(config).state_dict()), path)
    return found


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets how much memory is free."""

    def set_free(count: int | None) -> None:
        monkeypatch.setattr(models, "free_memory_bytes", lambda device: count)

    return set_free


def settings(samples: int = 1, quantize: str | None = None) -> Settings:
    return Settings(
        config=tiny_config(),
        device=torch.device("cpu"),
        sampling=Sampling(5, 0.0, 0, 1.0),
        samples=samples,
        quantize=quantize,
        as_json=False,
        asks_sampling=False,
    )


def codec_of(checkpoint: Checkpoint) -> TextCodec:
    return Codec()  # type: ignore[return-value]


def test_sizes_are_said(
    paths: list[Path], free: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    free(10**9)
    small, large = load_models(paths, settings(), codec_of, (), {})
    assert small.parameters < large.parameters
    said = capsys.readouterr().err
    total = f"{(small.parameters + large.parameters) / 1000:.1f}"
    assert re.search(rf"2 models, {total} k parameters: about .* main memory, 1\.0 GB free", said)
    for loaded in (small, large):
        assert f"{loaded.parameters / 1000:.1f} k parameters in float32" in said
    free(None)
    load_models(paths, settings(), codec_of, (), {})
    assert re.search(r"of main memory\n", capsys.readouterr().err), "where nobody knows"


def test_models_are_warm_before_the_first_prompt(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warmed: list[tuple[int, int]] = []

    def warm_up(engine: Engine, samples: int) -> None:
        warmed.append((samples, capsys.readouterr().err.count("ready in")))

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    load_models(paths, settings(samples=3), codec_of, (), {})
    assert warmed == [(3, 0), (3, 1)], "each for its samples, and before it is said to be ready"


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    paths: list[Path], free: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    free(1000)
    with pytest.raises(DeviceError) as caught:
        load_models(paths, settings(samples=4), codec_of, (), {})
    assert re.search(
        r"2 models, .* of main memory needed, but only 1\.0 kB free", str(caught.value)
    )
    assert "fewer checkpoints, fewer --num-samples, --quantize int8 or" in caught.value.hint
    assert caught.value.exit_code == 1
    assert "Loading" not in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "loaded"), [("y", 2), ("n", 0), ("", 0)])
def test_a_person_is_asked(
    paths: list[Path],
    free: Callable[[int | None], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    loaded: int,
) -> None:
    free(1000)
    monkeypatch.setattr(models, "is_interactive", lambda: True)
    monkeypatch.setattr(menus, "ask", lambda *arguments: answer)
    assert len(load_models(paths, settings(), codec_of, (), {})) == loaded
    assert "needed, but only 1.0 kB free" in capsys.readouterr().err


def test_more_texts_at_once_need_more_memory(
    paths: list[Path], free: Callable[[int | None], None]
) -> None:
    free(10**6)
    load_models(paths, settings(samples=1), codec_of, (), {})
    with pytest.raises(DeviceError):
        load_models(paths, settings(samples=500), codec_of, (), {})
