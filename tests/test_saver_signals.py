"""utils/training/saver.py: Ctrl-C and SIGTERM while a file is written."""

import signal
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import start_python
from tests.tiny import tiny_config
from utils.checkpoint import load_checkpoint
from utils.config import Config
from utils.runs import LATEST


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


INTERRUPTED_SAVE = """
    import sys, time
    from pathlib import Path
    import torch
    from tests.tiny import tiny_config
    from utils.checkpoint import Checkpoint
    from utils.cli import run_script
    from utils.errors import Interrupted
    from utils.interrupts import InterruptGuard
    from utils.sealing import SealingWriter
    from utils.training.saver import CheckpointSaver

    def checkpoint(step):
        weights = {str(i): torch.full((1000,), float(step)) for i in range(50)}
        return Checkpoint(tiny_config(folder), weights, progress={"step": step})

    def write_slowly(writer, view, write=SealingWriter._write_part):
        time.sleep(seconds_a_write)
        write(writer, view)

    def main(arguments):
        global seconds_a_write
        with InterruptGuard("saving") as guard, CheckpointSaver(folder, 2) as saver:
            saver.save(checkpoint(1))
            saver.close()
            seconds_a_write = 0.05  # ten seconds a file
            saver.save(checkpoint(2))
            print("saving", flush=True)
            while guard.received is None:
                time.sleep(0.01)
            seconds_a_write = float(sys.argv[2])
            time.sleep(0.6)  # by now a second signal is another one
            print("interrupted", flush=True)
            saver.close()
            raise Interrupted("saved", "", guard.received)

    folder, seconds_a_write = Path(sys.argv[1]), 0.0
    SealingWriter._write_part = write_slowly
    run_script(main)
"""


@contextmanager
def interrupted_save(folder: Path, number: int, seconds_a_write: float) -> Iterator[Any]:
    """A process that waits for its second save after a first signal."""
    code = textwrap.dedent(INTERRUPTED_SAVE)
    with start_python("-c", code, str(folder), str(seconds_a_write)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        process.send_signal(number)
        assert process.stdout.readline() == "interrupted\n"
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_save_under_way(
    config: Config, tmp_path: Path, number: int, code: int
) -> None:
    with interrupted_save(tmp_path, number, seconds_a_write=0.0) as process:
        _, said = process.communicate()
    assert process.returncode == code, said
    assert load_checkpoint(tmp_path / LATEST, config).step == 2


@pytest.mark.parametrize(
    ("number", "seconds_a_write", "code"),
    [
        (signal.SIGINT, 0.02, 130),
        (signal.SIGINT, 5.0, -signal.SIGINT),  # a disk that does not answer
        (signal.SIGTERM, 0.02, -signal.SIGTERM),
    ],
)
def test_a_second_signal_quits_and_leaves_the_old_file(
    config: Config, tmp_path: Path, number: int, seconds_a_write: float, code: int
) -> None:
    """Had the process waited for its thread, the file would be the new one."""
    with interrupted_save(tmp_path, number, seconds_a_write) as process:
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == code, said
    assert load_checkpoint(tmp_path / LATEST, config).step == 1
