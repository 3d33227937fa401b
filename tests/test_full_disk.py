"""utils/free_space.py and utils/checkpoint.py: too little room is told, and nothing old is lost."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import utils.checkpoint as checkpoint_module
from tests.tiny import tiny_checkpoint, tiny_config
from utils.checkpoint import load_checkpoint, required_bytes, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError
from utils.files import atomic_write
from utils.free_space import check_free_space
from utils.runs import BEST, LATEST, step_name
from utils.training.run_checkpoints import check_room
from utils.training.saver import CheckpointSaver, bytes_to_come


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


def test_too_little_room_is_told_before_a_byte_is_written(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint(config)
    save_checkpoint(checkpoint, tmp_path / LATEST)
    needed = required_bytes(checkpoint)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    opened: list[Path] = []
    monkeypatch.setattr(checkpoint_module, "atomic_write", opened.append)
    saver = CheckpointSaver(tmp_path, 2)
    saver.save(tiny_checkpoint(config, 9.0))
    message = rf"{tmp_path}: checkpoints need \d+\.\d kB more, \d+\.\d kB are free there\n  Free so"
    with pytest.raises(CheckpointError, match=message):
        saver.close()
    assert opened == []
    assert load_checkpoint(tmp_path / LATEST, config).model["bias"][0] == 0.5


def test_a_folder_that_is_yet_to_be_made_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_free_space(folder, 1)
    with pytest.raises(CheckpointError, match=f"{folder}: checkpoints need 1000.0 TB more, "):
        check_free_space(folder, 10**15)


def test_a_disk_that_does_not_say_what_is_free_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=0, free=0))
    check_free_space(tmp_path, 10**15)


def test_the_required_bytes_are_a_little_more_than_a_file_takes(
    config: Config, tmp_path: Path
) -> None:
    small = tiny_checkpoint(config)
    large = tiny_checkpoint(config)
    large.model = {f"layers.{i}.weight": torch.zeros(100, 100) for i in range(100)}
    large.optimizer = {"adamw": {i: {"step": torch.zeros(())} for i in range(1000)}}
    for checkpoint in (small, large):
        save_checkpoint(checkpoint, tmp_path / LATEST)
        size = (tmp_path / LATEST).stat().st_size
        assert size <= required_bytes(checkpoint) <= 1.2 * size + 100_000


def test_the_room_a_run_needs_counts_what_its_folder_holds(config: Config, tmp_path: Path) -> None:
    assert bytes_to_come(tmp_path / "new", 100, step_checkpoints=2) == 500
    save_checkpoint(tiny_checkpoint(config), tmp_path / BEST, [tmp_path / LATEST])
    save_checkpoint(tiny_checkpoint(config), tmp_path / "mine.pt")
    assert bytes_to_come(tmp_path, 100, step_checkpoints=2) == 400
    for step in range(9):
        save_checkpoint(tiny_checkpoint(config), tmp_path / step_name(step))
    assert bytes_to_come(tmp_path, 100, step_checkpoints=2) == 100
    assert bytes_to_come(None, 100, step_checkpoints=2) == 500


@pytest.mark.parametrize(("total_steps", "step_checkpoints"), [(9, 0), (25, 2), (1000, 3)])
def test_a_short_run_needs_no_room_for_checkpoints_that_it_will_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total_steps: int, step_checkpoints: int
) -> None:
    training = {"checkpoint_interval_steps": 10, "keep_step_checkpoints": 3}
    checkpoint = tiny_checkpoint(tiny_config(tmp_path, training=training))
    needed = bytes_to_come(None, required_bytes(checkpoint), step_checkpoints)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    check_room(checkpoint, None, total_steps)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints: checkpoints need "):
        check_room(checkpoint, None, total_steps)


class FailingFile:
    """Writes so many times, then the disk is full."""

    def __init__(self, file: Any, writes_left: int) -> None:
        self.file, self.writes_left = file, writes_left

    def write(self, data: Any) -> int:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written: int = self.file.write(data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_disk_that_fills_up_at_any_write_leaves_the_old_files(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes_left = 0

    @contextmanager
    def failing_write(path: Path) -> Iterator[Any]:
        with atomic_write(path) as file:
            yield FailingFile(file, writes_left)

    old, new = tiny_checkpoint(config, 1.0), tiny_checkpoint(config, 2.0)
    save_checkpoint(old, tmp_path / LATEST, [tmp_path / BEST])
    monkeypatch.setattr(checkpoint_module, "atomic_write", failing_write)
    saver = CheckpointSaver(tmp_path, 2)
    told = r"could not be saved: No space left on device\n  .* takes about .* kB; .*B are free\."
    while True:
        saver.save(new, [BEST])
        try:
            saver.close()
        except CheckpointError as error:
            message = str(error)
        else:
            break
        assert re.search(told, message)
        assert {path.name for path in tmp_path.iterdir()} == {LATEST, BEST}
        for name in (LATEST, BEST):
            assert load_checkpoint(tmp_path / name, config).model["bias"][0] == 1
        writes_left += 1
    assert writes_left > 10
    assert load_checkpoint(tmp_path / LATEST, config).model["bias"][0] == 2
