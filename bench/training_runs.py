"""train.py in a process of its own: started, timed, interrupted, resumed; and what it left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Any

import torch

from bench.measure import REPOSITORY
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.compile_cache import INDUCTOR, TRITON
from utils.config import Config
from utils.config_file import load_config, override
from utils.errors import TrainingError
from utils.files import write_json
from utils.logging_utils import metrics_path, read_metrics
from utils.metrics import STEP_MS
from utils.runs import LATEST

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.005
LINES_SHOWN = 15
READING_SECONDS = 5.0
DETERMINISTIC = (
    "import runpy, torch; torch.use_deterministic_algorithms(True);"
    " runpy.run_path('train.py', run_name='__main__')"
)


@dataclass(frozen=True)
class TrainingRun:
    """One process of train.py. Times are seconds since the epoch, as in the logs."""

    folder: Path  # with its config.json, checkpoints and logs
    began: float
    ended: float
    records: list[dict[str, Any]]  # of metrics.jsonl; a resumed run's begin with the earlier part
    lines: list[tuple[float, str]]  # what it said, and when

    @property
    def run_folder(self) -> Path:
        return _run_folder(self.folder)

    def steps(self) -> list[dict[str, Any]]:
        """The records of training steps."""
        return [record for record in self.records if STEP_MS in record]

    def last_checkpoint(self) -> Checkpoint:
        config = load_config(self.folder / "config.json")
        return load_checkpoint(self.run_folder / LATEST, config)


def write_config(config: Config, folder: Path, settings: Mapping[str, object]) -> Path:
    """A config.json in `folder`: `config` with other `settings`, runs and logs in that folder."""
    places = {f"paths.{kind}_dir": str(folder / kind) for kind in ("checkpoint", "log")}
    values = override(config, {**settings, **places}).model_dump(mode="json")
    path = folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return path


@dataclass
class Launch:
    """How train.py is started, beside its configuration, which is `folder`/config.json."""

    folder: Path
    device: str
    gpu: str | None = None  # what CUDA_VISIBLE_DEVICES shall be
    is_deterministic: bool = False  # with torch.use_deterministic_algorithms
    lines: list[tuple[float, str]] = field(default_factory=list)

    def run(self, is_resumed: bool = False, stop_after: int | None = None) -> TrainingRun:
        """Train to the end, or until the log holds step `stop_after`: SIGTERM.

        Logs reach the disk when a checkpoint begins to be written, at the latest. Raises
        TrainingError, with its last words, if it does not end as it should.
        """
        options = ["--config", str(self.folder / "config.json"), "--device", self.device]
        if is_resumed:
            options += ["--resume", str(_run_folder(self.folder))]
        expected = 0 if stop_after is None else 128 + signal.SIGTERM
        began = time.time()
        process = self._start(options)
        try:
            if stop_after is not None:
                self._stop_after(process, stop_after)
            code = process.wait()
        finally:
            process.kill()
        ended = time.time()
        self.reader.join(READING_SECONDS)  # a compiler's process may hold the pipe a while longer
        if code != expected:
            last = "\n".join(f"  {text}" for _, text in self.lines[-LINES_SHOWN:])
            raise TrainingError(f"train.py ended with {code} instead of {expected}:\n{last}")
        run_folder = _run_folder(self.folder)
        records = read_metrics(metrics_path(self.folder / "log", run_folder.name))
        return TrainingRun(self.folder, began, ended, records, self.lines)

    def _start(self, options: Sequence[str]) -> "subprocess.Popen[str]":
        program = ["-c", DETERMINISTIC] if self.is_deterministic else ["train.py"]
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *program, *options],
            cwd=REPOSITORY,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        assert process.stderr is not None
        self.reader = Thread(target=self._read, args=[process.stderr], daemon=True)
        self.reader.start()
        return process

    def _environment(self) -> dict[str, str]:
        variables = child_environment(self.gpu)
        if self.is_deterministic:
            variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        return variables

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.lines.append((time.time(), line.rstrip()))

    def _stop_after(self, process: "subprocess.Popen[str]", step: int) -> None:
        while process.poll() is None:
            logs = metrics_path(self.folder / "log", "*").relative_to(self.folder)
            records = [
                record for path in self.folder.glob(str(logs)) for record in read_metrics(path)
            ]
            if any(record["step"] >= step for record in records):
                process.send_signal(signal.SIGTERM)
                return
            time.sleep(POLL_SECONDS)


def child_environment(gpu: str | None) -> dict[str, str]:
    """Our variables for a process that sees only `gpu`, or all that we see.

    Its configuration alone says where compiled code is kept.
    """
    variables = {key: value for key, value in os.environ.items() if key not in (INDUCTOR, TRITON)}
    return variables if gpu is None else {**variables, VISIBLE_GPUS: gpu}


def visible_gpus() -> list[str]:
    """What to set CUDA_VISIBLE_DEVICES to, one for each GPU of this process."""
    given = os.environ.get(VISIBLE_GPUS)
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]


def _run_folder(folder: Path) -> Path:
    runs = [path for path in (folder / "checkpoint").glob("*") if path.is_dir()]
    if len(runs) != 1:
        raise TrainingError(f"{folder}: holds {len(runs)} runs instead of one")
    return runs[0]
