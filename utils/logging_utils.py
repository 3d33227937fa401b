"""DualLogger: every number to TensorBoard for the eye and to JSON lines for programs.

logs/tensorboard/<run>/            event files
logs/raw_metrics/<run>/metrics.jsonl   one object a line: {"step", "time", "tag": value, ...}
logs/raw_metrics/<run>/config.json     the configuration, rewritten at every start
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from utils.config import Config
from utils.files import atomic_write, write_json
from utils.terminal import warn

METRICS_NAME = "metrics.jsonl"
FLUSH_SECONDS = 10.0


def metrics_path(log_dir: Path, run_name: str) -> Path:
    """Where the JSON lines of a run stand."""
    return log_dir / "raw_metrics" / run_name / METRICS_NAME


def tensorboard_dir(log_dir: Path) -> Path:
    """What `tensorboard --logdir` wants: a folder per run."""
    return log_dir / "tensorboard"


def is_logged(log_dir: Path, run_name: str) -> bool:
    """Whether a run of this name has logs."""
    return metrics_path(log_dir, run_name).parent.exists()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run, in order. Lines that a crash or a full disk spoiled are left out."""
    with path.open("rb") as file:
        return [record for line in file if (record := _parse(line)) is not None]


class DualLogger:
    """Logs one run. With `resumed_step`, records after that step are removed from both logs, so
    the curve goes on without doubled points. Call `close` at the end.

    Once begun, training outlives its logs: what cannot be written is said once, and tried again.
    """

    def __init__(self, log_dir: Path, run_name: str, resumed_step: int | None = None) -> None:
        self.path = metrics_path(log_dir, run_name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resumed_step is not None and self.path.exists():
            self._drop_after(resumed_step)
        self.writer = SummaryWriter(
            log_dir=str(tensorboard_dir(log_dir) / run_name),
            purge_step=None if resumed_step is None else resumed_step + 1,
            flush_secs=int(FLUSH_SECONDS),
        )
        self.buffer: list[str] = []
        self.is_failing = False
        self.flushed_seconds = time.monotonic()

    def log_config(self, config: Config) -> None:
        """Keep the configuration beside the numbers."""
        values = config.model_dump(mode="json")
        text = "```json\n" + json.dumps(values, indent=2) + "\n```"
        with self._tolerant():
            self.writer.add_text("config", text)
            write_json(self.path.with_name("config.json"), values)

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point per tag, at an optimizer step."""
        with self._tolerant():
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, step)
        self._record(step, {tag: _finite(value) for tag, value in values.items()})

    def log_text(self, step: int, tag: str, text: str) -> None:
        with self._tolerant():
            self.writer.add_text(tag, f"```\n{text}\n```", step)
        self._record(step, {tag: text})

    def flush(self) -> None:
        """Bring everything logged so far to disk."""
        with self._tolerant():
            self._append("".join(self.buffer).encode())
            self.buffer.clear()
            self.writer.flush()
            self.is_failing = False
        self.flushed_seconds = time.monotonic()

    def close(self) -> None:
        self.flush()
        with self._tolerant():
            self.writer.close()

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.is_failing:
                warn(
                    f"{self.path}: logs cannot be written ({error.strerror or error}); training on"
                )
            self.is_failing = True

    def _append(self, lines: bytes) -> None:
        """Add all of `lines` to the file or, where that fails, nothing."""
        with self.path.open("ab", buffering=0) as file:  # a buffer would write its rest at the end
            size = file.tell()
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                os.truncate(self.path, size)
                raise

    def _record(self, step: int, values: Mapping[str, Any]) -> None:
        record = {"step": step, "time": round(time.time(), 3), **values}
        self.buffer.append(json.dumps(record, ensure_ascii=False) + "\n")
        if time.monotonic() - self.flushed_seconds > FLUSH_SECONDS:
            self.flush()

    def _drop_after(self, step: int) -> None:
        kept = [record for record in read_metrics(self.path) if record["step"] <= step]
        with atomic_write(self.path) as file:
            for record in kept:
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # also where half a character was cut off
        return None
    is_whole = line.endswith(b"\n") and isinstance(record, dict) and "step" in record
    return record if is_whole else None


def _finite(value: float) -> float | str:
    """JSON has no infinity and no NaN; they are logged as words."""
    return value if math.isfinite(value) else str(value)
