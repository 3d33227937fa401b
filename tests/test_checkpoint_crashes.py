"""utils/checkpoint.py: kill -9, full disks, and readers beside a writer."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.tiny import tiny_checkpoint, tiny_config
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


SAVE_FOR_EVER = """
    import itertools, os, sys
    from pathlib import Path
    import torch
    from tests.tiny import tiny_config
    from utils.checkpoint import Checkpoint, save_checkpoint

    def save_for_ever(folder):
        names = [folder / "checkpoint_best.pt", folder / "checkpoint_step_1.pt"]
        for number in itertools.count():
            weights = {"weight": torch.full((100_000,), float(number))}
            checkpoint = Checkpoint(tiny_config(folder), weights, progress={"step": number})
            save_checkpoint(checkpoint, folder / "checkpoint_latest.pt", names)
            os.write(1, b"%d\\n" % number)  # at once, or a kill could leave half a line

    for line in sys.stdin:  # each folder in a child of its own, so that all is imported only once
        if (child := os.fork()) == 0:
            save_for_ever(Path(line.strip()))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
"""


class Saver:
    """A process that saves checkpoints into one folder after another, until it is killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAVE_FOR_EVER)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder: Path) -> None:
        """Return when the first save is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        self.child = int(self._line())
        self._line()

    def kill(self) -> int:
        """The number of the last save that was reported."""
        os.kill(self.child, signal.SIGKILL)
        saved = 0
        while (line := self._line()) != "dead\n":
            saved = int(line)
        return saved

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def saver() -> Iterator[Saver]:
    saver = Saver()
    with saver.process:
        yield saver


def test_kill_9_at_any_moment_leaves_every_name_whole(
    config: Config, tmp_path: Path, saver: Saver
) -> None:
    chance, stale = random.Random(1), 0
    for attempt in range(30):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        saver.start(folder)
        time.sleep(chance.uniform(0.0, 0.08))
        saved = saver.kill()
        stale += len(list(folder.glob(".*.tmp")))
        for name in ("latest", "best", "step_1"):
            loaded = load_checkpoint(folder / f"checkpoint_{name}.pt", config)
            assert loaded.step is not None
            assert loaded.step >= saved
            assert (loaded.model["weight"] == loaded.step).all()
    assert stale > 0  # some died in the middle of a save


def test_a_reader_never_sees_a_torn_file(config: Config, tmp_path: Path, saver: Saver) -> None:
    saver.start(tmp_path)
    steps = []
    for _ in range(100):
        loaded = load_checkpoint(tmp_path / "checkpoint_latest.pt", config)
        assert loaded.step is not None
        assert (loaded.model["weight"] == loaded.step).all()
        steps.append(loaded.step)
    saver.kill()
    assert steps == sorted(steps)
    assert len(set(steps)) > 3  # it was rewritten all the while


def test_a_file_that_changes_between_every_two_looks_is_given_up(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(tiny_checkpoint(config), path)
    load = torch.load

    def load_and_replace(*arguments: Any, **options: Any) -> Any:
        payload = load(*arguments, **options)
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
        return payload

    monkeypatch.setattr(torch, "load", load_and_replace)
    with pytest.raises(CheckpointError, match=r"a\.pt: is being replaced faster than it can be r"):
        load_checkpoint(path, config)


SAVE_WITH_FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    import torch
    from tests.tiny import tiny_config
    from utils.checkpoint import Checkpoint, save_checkpoint
    from utils.errors import CheckpointError

    path, failures = Path(sys.argv[1]), []
    checkpoint = Checkpoint(tiny_config(path.parent), {"weight": torch.ones(100_000)})
    save_checkpoint(checkpoint, path)
    size = path.stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing too much then fails, as on a full disk
    checkpoint.model = {"weight": torch.zeros(100_000)}
    for missing in (size, size - 1, size - 5000, size // 2, 9000, 3000, 200, 96, 95, 1):
        limit = size - missing
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save_checkpoint(checkpoint, path)
        except CheckpointError as error:
            failures.append(limit)
            message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
    print(len(failures), message)
"""


def test_a_full_disk_leaves_the_old_file_and_says_so(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_latest.pt"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SAVE_WITH_FULL_DISK), str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    count, message = result.stdout.split(" ", 1)
    assert count == "10"
    assert f"{path}: could not be saved: File too large" in message
    assert "The checkpoints saved before are intact" in message
    assert "takes about 4" in message  # hundred kB
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert (load_checkpoint(path, config).model["weight"] == 1).all()


def test_a_folder_that_cannot_be_written_is_named(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/a\.pt: could not be saved: File exists"):
        save_checkpoint(tiny_checkpoint(config), tmp_path / "file" / "a.pt")
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match=r"a\.pt: could not be saved: No such file or direc"):
        save_checkpoint(tiny_checkpoint(config), path, [tmp_path / "absent" / "b.pt"])
    assert load_checkpoint(path, config).step == 3


def test_a_mistake_of_ours_is_not_called_a_full_disk(config: Config, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(config)
    checkpoint.metrics = {"a lambda": lambda: None}
    with pytest.raises((AttributeError, TypeError, RuntimeError, ValueError)) as caught:
        save_checkpoint(checkpoint, tmp_path / "a.pt")
    assert "lambda" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
