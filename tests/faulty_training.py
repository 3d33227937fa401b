"""Runs train.py in children of one process that has imported it, with faults at chosen moments.

Also a script: each line of its input is a JSON object for one child, which does what
`python train.py` does. `arguments` are those of the command line and `output` is the file for all
that is said. `faults` are lists of a function ("module:Class.name"), the number of the call
before which something happens, counted from 1, and what happens, a key of ACTIONS. `free_bytes`
is what disks say is free. Steps and saves that begin are noted in the file `journal`.
"""

import functools
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.conftest import REPOSITORY
from tests.workspaces import Workspace
from utils.scheduler import Scheduler
from utils.training.saver import THREAD_NAME

Fault = tuple[str, int, str]
SMALL_FILE_BYTES = 50_000  # less than a checkpoint of the tests' model


@dataclass(frozen=True)
class Life:
    """What came of one child. `steps` and `saves` are the numbers of those it began, in order."""

    exit_code: int
    said: str
    steps: list[int]
    saves: list[int]
    seconds: float


class Forge:
    """The process whose children train, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faulty_training"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def train(
        self,
        workspace: Workspace,
        *arguments: str,
        faults: Sequence[Fault] = (),
        kill_after_seconds: float | None = None,
        **more: Any,
    ) -> Life:
        """Train until the end, a fault or `kill -9`."""
        output, journal = workspace.folder / "output.txt", workspace.folder / "journal.txt"
        journal.write_text("")
        order = {
            "arguments": ["--config", str(workspace.config_path), "--device", "cpu", *arguments],
            "output": str(output),
            "journal": str(journal),
            "faults": faults,
            **more,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        child, began = int(self.process.stdout.readline()), time.monotonic()
        if kill_after_seconds is not None:
            time.sleep(kill_after_seconds)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        exit_code = int(self.process.stdout.readline())
        seconds = time.monotonic() - began
        notes = [line.split() for line in journal.read_text().splitlines()]
        steps, saves = ([int(n) for what, n in notes if what == kind] for kind in ("step", "save"))
        return Life(exit_code, output.read_text(), steps, saves, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.__exit__(kind, error, trace)


# In the child


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def send_twice(number: int) -> None:
    send(number)
    time.sleep(0.6)  # sooner, it would count as the same
    send(number)
    time.sleep(60)


def forbid_large_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE_BYTES, resource.RLIM_INFINITY))


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: send(signal.SIGKILL),
    "SIGINT": lambda: send(signal.SIGINT),
    "SIGTERM": lambda: send(signal.SIGTERM),
    "SIGINT twice": lambda: send_twice(signal.SIGINT),
    "SIGTERM twice": lambda: send_twice(signal.SIGTERM),
    "full disk": forbid_large_files,
}


def before(function: str, act: Callable[..., None]) -> None:
    """Call `act`, with the same arguments, before each call of `function`."""
    module, _, path = function.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        act(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, name, wrapped)


def at_call(number: int, action: Callable[[], None], thread: str | None) -> Callable[..., None]:
    """Counts calls, only those of `thread` if it is given, and acts at one."""
    calls = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal calls
        if thread not in (None, threading.current_thread().name):
            return
        calls += 1
        if calls == number:
            action()

    return count


def install(order: dict[str, Any]) -> None:
    notes = os.open(order["journal"], os.O_WRONLY | os.O_APPEND)

    def note(what: str, number: int) -> None:
        os.write(notes, f"{what} {number}\n".encode())

    def note_step(scheduler: Scheduler) -> None:
        note("step", scheduler.steps_taken + 1)

    def note_save(_copy: object, checkpoint: Any) -> None:
        note("save", checkpoint.step)

    before("utils.scheduler:Scheduler.step", note_step)
    before("utils.training.saver:HostCopy.__call__", note_save)  # the save before is done by then
    for function, number, action in order["faults"]:
        # These are also called elsewhere; what is meant is a part of saving.
        thread = THREAD_NAME if function.startswith(("os:", "pathlib:")) else None
        before(function, at_call(number, ACTIONS[action], thread))
    if "free_bytes" in order:
        usage = shutil.disk_usage("/")._replace(free=order["free_bytes"])
        shutil.disk_usage = lambda _: usage  # type: ignore[assignment]


def forge() -> None:

    import train
    from utils.cli import run_script

    for line in sys.stdin:
        order = json.loads(line)
        if (child := os.fork()) == 0:
            output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            install(order)
            sys.argv = ["train.py", *order["arguments"]]
            run_script(train.main)
            sys.exit(0)
        print(child, flush=True)  # noqa: T201
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    forge()
