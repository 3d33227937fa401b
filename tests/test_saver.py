"""utils/training/saver.py: what is written is what was there when `save` was called."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import utils.training.saver as saver_module
from tests.tiny import tiny_checkpoint, tiny_config
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError
from utils.runs import BEST, LATEST, list_checkpoints, step_name
from utils.training.saver import CheckpointSaver, HostCopy


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


class Gate:
    """Holds every save until it is opened, or makes it fail."""

    def __init__(self) -> None:
        self.entered, self.is_open = threading.Event(), threading.Event()
        self.errors: list[Exception] = []

    def __call__(self, *arguments: Any) -> None:
        self.entered.set()
        assert self.is_open.wait(30)
        if self.errors:
            raise self.errors.pop()
        save_checkpoint(*arguments)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(saver_module, "save_checkpoint", gate)
    yield gate
    gate.is_open.set()


def full_disk() -> CheckpointError:
    return CheckpointError("the disk is full", "make room")


def test_what_changes_after_a_save_is_not_in_it(config: Config, tmp_path: Path, gate: Gate) -> None:
    checkpoint = tiny_checkpoint(config, 1.0)
    moment = torch.full((4,), 1.0)
    checkpoint.optimizer = {"adamw": {0: {"exp_avg": moment}}, "muon": {}}
    with CheckpointSaver(tmp_path, 2) as saver:
        saver.save(checkpoint)
        moment.fill_(2.0)
        checkpoint.model["weight"].fill_(2.0)
        checkpoint.rng["torch"].zero_()
        checkpoint.metrics["losses"].append(9.0)
        checkpoint.progress["step"] = 4
        gate.is_open.set()
    loaded = load_checkpoint(tmp_path / LATEST, config)
    assert (loaded.model["weight"] == 1).all()
    assert (loaded.optimizer["adamw"][0]["exp_avg"] == 1).all()
    assert loaded.rng["torch"].any()
    assert loaded.metrics["losses"] == [1.0, float("inf")]
    assert loaded.step == 3


def test_training_goes_on_while_a_file_is_written(
    config: Config, tmp_path: Path, gate: Gate
) -> None:
    with CheckpointSaver(tmp_path, 2) as saver:
        saver.save(tiny_checkpoint(config))
        assert gate.entered.wait(30)
        saver.check()
        assert list_checkpoints(tmp_path) == []
        gate.is_open.set()
    assert load_checkpoint(tmp_path / LATEST, config).step == 3


def test_a_second_save_waits_for_the_first(config: Config, tmp_path: Path, gate: Gate) -> None:
    with CheckpointSaver(tmp_path, 2) as saver:
        saver.save(tiny_checkpoint(config, 1.0), [BEST])
        second = threading.Thread(target=saver.save, args=(tiny_checkpoint(config, 2.0),))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        gate.is_open.set()
        second.join()
    marks = [load_checkpoint(tmp_path / n, config).model["bias"][0].item() for n in (BEST, LATEST)]
    assert marks == [1.0, 2.0]


def test_the_latest_is_named_last_and_old_steps_go_after_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def note(*arguments: Any) -> None:
        happened.extend(path.name for path in (arguments[1], *arguments[2]))
        save_checkpoint(*arguments)

    def prune(folder: Path, keep: int) -> None:
        happened.append(f"keep {keep}")

    monkeypatch.setattr(saver_module, "save_checkpoint", note)
    monkeypatch.setattr(saver_module, "prune_step_checkpoints", prune)
    with CheckpointSaver(tmp_path, 7) as saver:
        saver.save(tiny_checkpoint(config), [BEST, step_name(3)])
    assert happened == [BEST, step_name(3), LATEST, "keep 7"]
    assert len({path.stat().st_ino for path in tmp_path.iterdir()}) == 1


def test_step_checkpoints_are_pruned(config: Config, tmp_path: Path) -> None:
    with CheckpointSaver(tmp_path, 2) as saver:
        for step in range(1, 5):
            saver.save(tiny_checkpoint(config), [step_name(step)])
            saver.close()
            os.utime(tmp_path / step_name(step), (step, step))
    names = [file.path.name for file in list_checkpoints(tmp_path)]
    assert names == [LATEST, step_name(4), step_name(3)]


@pytest.mark.parametrize("way", ["check", "save", "close"])
def test_a_failure_is_raised_once(config: Config, tmp_path: Path, gate: Gate, way: str) -> None:
    gate.errors.append(full_disk())
    gate.is_open.set()
    with CheckpointSaver(tmp_path, 2) as saver:
        saver.save(tiny_checkpoint(config))
        assert saver._is_idle.wait(30)
        with pytest.raises(CheckpointError, match="the disk is full\n  make room"):
            {"check": saver.check, "close": saver.close}.get(
                way, lambda: saver.save(tiny_checkpoint(config))
            )()
        saver.check()
        saver.close()
        saver.save(tiny_checkpoint(config))
    assert load_checkpoint(tmp_path / LATEST, config).step == 3


def test_a_failure_that_nobody_asked_for_ends_the_block(
    config: Config, tmp_path: Path, gate: Gate
) -> None:
    gate.errors.append(full_disk())
    gate.is_open.set()
    with (
        pytest.raises(CheckpointError, match="the disk is full"),
        CheckpointSaver(tmp_path, 2) as s,
    ):
        s.save(tiny_checkpoint(config))


def test_another_error_is_not_masked(
    config: Config, tmp_path: Path, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.errors.append(full_disk())
    gate.is_open.set()

    def save_and_fail() -> None:
        with CheckpointSaver(tmp_path, 2) as saver:
            saver.save(tiny_checkpoint(config))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save_and_fail()
    assert "warning: the disk is full" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        save_and_fail()
    assert load_checkpoint(tmp_path / LATEST, config).step == 3


def test_a_mistake_of_ours_does_not_mask_another_error(
    config: Config, tmp_path: Path, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.errors.append(RuntimeError("cannot be pickled"))
    gate.is_open.set()

    def save_and_fail() -> None:
        with CheckpointSaver(tmp_path, 2) as saver:
            saver.save(tiny_checkpoint(config))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save_and_fail()
    said = capsys.readouterr().err
    assert "warning: a checkpoint could not be saved: RuntimeError: cannot be pickled" in said


class FailingJustAfterALook(CheckpointSaver):
    """Its save fails right after somebody found no failure."""

    found: BaseException | None = None
    to_come: BaseException | None = None

    @property
    def _failure(self) -> BaseException | None:
        seen = self.found
        if self.to_come is not None:
            self.found, self.to_come = self.to_come, None
        return seen

    @_failure.setter
    def _failure(self, failure: BaseException | None) -> None:
        self.found = failure


def test_a_failure_that_comes_during_a_check_is_raised_by_the_next(tmp_path: Path) -> None:
    saver = FailingJustAfterALook(tmp_path, 2)
    saver.to_come = full_disk()
    saver.check()
    with pytest.raises(CheckpointError, match="the disk is full"):
        saver.check()
    saver.check()


def test_a_mistake_of_ours_is_raised_as_it_is(config: Config, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(config)
    checkpoint.metrics = {"a lambda": lambda: None}
    saver = CheckpointSaver(tmp_path, 2)
    saver.save(checkpoint)
    with pytest.raises((AttributeError, TypeError, RuntimeError, ValueError), match="lambda"):
        saver.close()


def test_host_memory_is_used_again(config: Config) -> None:
    copy = HostCopy()
    source = tiny_checkpoint(config)
    first = copy(source)
    address = first.model["weight"].data_ptr()
    assert address != source.model["weight"].data_ptr()
    assert copy(source).model["weight"].data_ptr() == address
    source.model["weight"] = torch.ones(3, 3)  # another shape
    assert copy(source).model["weight"].equal(torch.ones(3, 3))


def test_views_and_transposed_tensors_are_copied_as_they_read(config: Config) -> None:
    table = torch.arange(12.0).view(3, 4)
    source = Checkpoint(config, {"turned": table.T, "row": table[1], "one": torch.tensor(3.0)})
    copied = HostCopy()(source)
    assert all(copied.model[name].equal(value) for name, value in source.model.items())
    assert copied.model["row"].untyped_storage().nbytes() == 16


@pytest.mark.cuda
def test_gpu_tensors_are_copied_to_pinned_memory_before_they_change(config: Config) -> None:
    weight = torch.zeros(64 << 20, device="cuda")
    copy = HostCopy()
    for value in (1.0, 2.0):
        weight.fill_(value)
        copied = copy(Checkpoint(config, {"weight": weight})).model["weight"]
        weight.fill_(9.0)
        assert copied.is_pinned()
        assert (copied == value).all()
