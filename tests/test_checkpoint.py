"""utils/checkpoint.py: what is saved is what is loaded, and nothing damaged is."""

import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import REPOSITORY
from tests.tiny import tiny_checkpoint, tiny_config
from utils.checkpoint import FORMAT_VERSION, load_checkpoint, load_weights, save_checkpoint
from utils.config import Config
from utils.environment import git_commit
from utils.errors import CheckpointError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


def test_what_is_saved_is_what_is_loaded(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint_latest.pt"
    saved = tiny_checkpoint(config)
    save_checkpoint(saved, path)
    loaded = load_checkpoint(path, tiny_config(model={"num_layers": 1}))
    assert loaded.config == config
    assert loaded.name == str(path)
    assert (loaded.step, loaded.validation_loss) == (3, 2.5)
    assert loaded.model.keys() == saved.model.keys()
    assert all(value.equal(saved.model[name]) for name, value in loaded.model.items())
    assert loaded.rng["torch"].equal(saved.rng["torch"])
    assert loaded.rng["numpy"][1].equal(saved.rng["numpy"][1])
    assert loaded.rng["python"] == saved.rng["python"]
    for name in ("scheduler", "progress", "metrics", "tokenizer_sha256", "run_name"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.dataset_fingerprint == saved.dataset_fingerprint
    assert loaded.versions["torch"] == str(torch.__version__)
    assert time.strptime(loaded.saved_at, "%Y-%m-%dT%H:%M:%S%z").tm_year >= 2026
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_git_commit_is_noted_where_there_is_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    save_checkpoint(tiny_checkpoint(config), path)
    assert load_checkpoint(path, config).git_commit == git.stdout.strip()
    monkeypatch.setenv("PATH", "")
    git_commit.cache_clear()
    save_checkpoint(tiny_checkpoint(config), path)
    assert load_checkpoint(path, config).git_commit == ""
    git_commit.cache_clear()


def test_the_file_is_one_that_torch_and_zip_tools_read(config: Config, tmp_path: Path) -> None:
    save_checkpoint(tiny_checkpoint(config), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["format_version"] == FORMAT_VERSION
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert b"sha256" in archive.comment


def test_more_names_are_hard_links_that_later_saves_leave_alone(
    config: Config, tmp_path: Path
) -> None:
    latest, best, step = (tmp_path / f"{name}.pt" for name in ("latest", "best", "step_1"))
    best.write_bytes(b"an older best")
    save_checkpoint(tiny_checkpoint(config, 1.0), latest, [best, step])
    assert latest.stat().st_ino == best.stat().st_ino == step.stat().st_ino
    save_checkpoint(tiny_checkpoint(config, 2.0), latest)
    marks = [load_checkpoint(p, config).model["bias"][0].item() for p in (latest, best, step)]
    assert marks == [2.0, 1.0, 1.0]
    assert len(list(tmp_path.iterdir())) == 3


# Weights into models


def test_weights_that_do_not_fit_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    good = model.state_dict()
    before = {name: value.clone() for name, value in good.items()}
    hint = "\n  It was made by another program or with another model section"
    for weights, message in (
        ({k: v for k, v in good.items() if k != "0.bias"}, "0.bias is missing"),
        ({**good, "2.bias": torch.ones(1)}, "2.bias is unknown"),
        ({**good, "1.bias": torch.ones(5)}, r"1.bias is \(5,\), not \(4,\)"),
        (
            {**good, "1.bias": torch.ones(4).char()},
            "1.bias holds torch.int8, not floating point nu",
        ),
        (
            {"a": torch.ones(1)},
            "0.weight is missing, 0.bias is missing, 1.weight is missing and 2 more",
        ),
    ):
        expected = rf"a\.pt: its weights do not fit the model: {message}.*{hint}"
        with pytest.raises(CheckpointError, match=expected):
            load_weights(model, weights, "a.pt")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    load_weights(model, {name: torch.ones_like(value) for name, value in good.items()}, "a.pt")
    assert all((parameter == 1).all() for parameter in model.parameters())
