"""utils/checkpoint.py: other programs' files, hostile ones too: nothing in them is run."""

import os
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.tiny import tiny_checkpoint, tiny_config, tiny_model
from utils.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError, ConfigError
from utils.sealing import SealingWriter

REQUIRED = (
    "config",
    "model",
    "optimizer",
    "scheduler",
    "rng",
    "progress",
    "metrics",
    "tokenizer_sha256",
    "dataset_fingerprint",
    "run_name",
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


def payload_of(path: Path) -> dict[str, Any]:
    payload: dict[str, Any] = torch.load(path, weights_only=True)
    return payload


def seal(payload: dict[str, Any], path: Path) -> None:
    """Write any payload as our program would, checksum and all."""
    with path.open("w+b") as file:
        writer = SealingWriter(file)
        torch.save(payload, writer)  # type: ignore[arg-type]
        writer.finish()


def write_foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")


def write_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/version", "3\n")


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScr")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "is damaged: it is cut off, or no checkpoint at all"),
        (lambda path: path.write_text("hello\n" * 99), "is damaged: it is cut off, or no checkpoi"),
        (lambda path: save_file({"a": torch.ones(3)}, path), "is damaged: it is cut off, or no ch"),
        (write_foreign_zip, r"is damaged: torch cannot read it \(.+\)"),
        (write_torchscript, "holds objects other than tensors and plain values"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: None, r"no such checkpoint\n  There is no other checkpoint in "),
        (lambda path: torch.save([torch.ones(3)], path), "holds a list, not a checkpoint"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor, not a checkpoint"),
        (lambda path: torch.save({}, path), "holds no model weights$"),
        (lambda path: torch.save({"model": 3}, path), "holds no model weights$"),
        (
            lambda path: torch.save({"weights": {"a": torch.ones(3)}}, path),
            "holds no model weights: 'weights' is no tensor\n  Known layouts are ours, and weights"
            " alone or under model_state_dict, model, state_dict",
        ),
    ],
)
def test_foreign_files_are_is_refused_by_name(
    config: Config, tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(CheckpointError, match=rf"model\.pt: {message}"):
        load_checkpoint(path, config)


def test_a_file_that_may_not_be_read_is_named(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read: Permission denied"):
        load_checkpoint(tmp_path / "a.pt", config)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_file_of_ours_without_a_key_is_refused(config: Config, tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(tiny_checkpoint(config), path)
    payload = payload_of(path)
    del payload[key]
    seal(payload, path)
    with pytest.raises(CheckpointError, match=rf"a\.pt: has no {key}\n"):
        load_checkpoint(path, config)


def test_every_field_but_the_notes_is_required() -> None:
    notes = {"name", "format_version", "git_commit", "versions", "saved_at"}
    assert {field.name for field in fields(Checkpoint)} - notes == set(REQUIRED)


def test_format_1_has_weights_but_no_run_to_resume(config: Config, tmp_path: Path) -> None:
    """Its optimizer's state was AdamW's alone."""
    path = tmp_path / "a.pt"
    saved = tiny_checkpoint(config)
    save_checkpoint(saved, path)
    assert load_checkpoint(path, config).can_be_resumed
    payload = {**payload_of(path), "format_version": 1}
    for key in ("optimizer", "muon_learning_rate", "muon_momentum"):  # unknown in its day
        del payload["config"]["training"][key]
    seal(payload, path)
    loaded = load_checkpoint(path, config)
    assert not loaded.can_be_resumed
    assert loaded.step == 3
    assert loaded.config == config
    assert all(value.equal(saved.model[name]) for name, value in loaded.model.items())


@pytest.mark.parametrize("version", [0, 3, "next"])
def test_another_format_is_refused(config: Config, tmp_path: Path, version: object) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(tiny_checkpoint(config), path)
    seal({**payload_of(path), "format_version": version}, path)
    message = f"has checkpoint format {version}, this program reads up to 2\n  Use the"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, config)


def test_a_configuration_that_this_program_does_not_know_is_refused(
    config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(tiny_checkpoint(config), path)
    payload = payload_of(path)
    payload["config"]["model"]["hiden_size"] = 3
    seal(payload, path)
    with pytest.raises(ConfigError, match=r"a\.pt \(its config\) has 1 problem:(.|\n)*hiden_size"):
        load_checkpoint(path, config)


@pytest.mark.parametrize("key", [None, "model", "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_older_layouts_load_as_bare_weights(
    config: Config, tmp_path: Path, key: str | None, prefix: str
) -> None:
    model = tiny_model(config)
    weights = OrderedDict((prefix + name, value) for name, value in model.state_dict().items())
    content = weights if key is None else {key: weights, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "old.pt")
    loaded = load_checkpoint(tmp_path / "old.pt", config)
    assert loaded.config is config
    assert loaded.step is None
    assert loaded.validation_loss is None
    assert loaded.progress == {}
    assert not loaded.can_be_resumed
    copy = tiny_model(config, seed=1)
    load_weights(copy, loaded.model, loaded.name)
    assert all(value.equal(copy.state_dict()[name]) for name, value in model.state_dict().items())


# Pickle bombs


class Bomb:
    """Runs `function(*arguments)` in whoever unpickles it carelessly."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Custom:
    pass


def bombs(canary: Path) -> dict[str, Any]:
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    weights = {"weight": torch.ones(3)}
    return {
        "os.system": Bomb(os.system, touch),
        "eval": Bomb(eval, python),
        "exec": Bomb(exec, python),
        "popen": Bomb(subprocess.check_output, ["touch", str(canary)]),
        "getattr": Bomb(getattr, Bomb(os.system, touch), "real"),
        "open": Bomb(open, str(canary), "w"),
        "nested": {"model": weights, "progress": {"deep": [1, (2, Bomb(os.system, touch))]}},
        "as a key": {"model": {("x", Bomb(os.system, touch)): torch.ones(3)}},
        "beside ours": {"format_version": 1, "model": weights, "rng": Bomb(eval, python)},
        "custom object": {"model": weights, "extra": Custom()},
        "module": nn.Linear(2, 2),
    }


BOMBS = sorted(bombs(Path()))


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_file_is_run(config: Config, tmp_path: Path, kind: str, is_zip: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bomb.pt"
    torch.save(bombs(canary)[kind], path, _use_new_zipfile_serialization=is_zip)
    words = "holds objects other than .*; nothing in it was run" if is_zip else "is damaged"
    with pytest.raises(CheckpointError, match=rf"bomb\.pt: {words}"):
        load_checkpoint(path, config)
    assert not canary.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_nothing_in_a_file_that_bears_our_checksum_is_run(
    config: Config, tmp_path: Path, kind: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bomb.pt"
    seal(bombs(canary)[kind], path)
    with pytest.raises(CheckpointError, match=r"bomb\.pt: holds objects other than tensors"):
        load_checkpoint(path, config)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["os.system", "eval", "nested"])
def test_the_bombs_are_live(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    torch.save(bombs(canary)[kind], tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert canary.exists()
