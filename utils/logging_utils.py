"""DualLogger: every number to TensorBoard for the eye and to JSON lines for programs.

logs/tensorboard/<run>/            event files
logs/raw_metrics/<run>/metrics.jsonl   one object a line: {"step", "time", "tag": value, ...}
logs/raw_metrics/<run>/config.json     the configuration, rewritten at every start
"""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from utils.config import Config
from utils.files import atomic_write, write_json

METRICS_NAME = "metrics.jsonl"
FLUSH_SECONDS = 10.0


def metrics_path(log_dir: Path, run_name: str) -> Path:
    """Where the JSON lines of a run stand."""
    return log_dir / "raw_metrics" / run_name / METRICS_NAME


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a last line that a crash cut off is left out."""
    with path.open("rb") as file:  # a cut may leave half a character
        return [json.loads(line) for line in file if line.endswith(b"\n")]


class DualLogger:
    """Logs one run. With `resumed_step`, records after that step are removed from both logs, so
    the curve goes on without doubled points. Call `close` at the end.
    """

    def __init__(self, log_dir: Path, run_name: str, resumed_step: int | None = None) -> None:
        self.path = metrics_path(log_dir, run_name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resumed_step is not None and self.path.exists():
            self._drop_after(resumed_step)
        self.writer = SummaryWriter(
            log_dir=str(log_dir / "tensorboard" / run_name),
            purge_step=None if resumed_step is None else resumed_step + 1,
            flush_secs=int(FLUSH_SECONDS),
        )
        self.buffer: list[str] = []
        self.flushed_seconds = time.monotonic()

    def log_config(self, config: Config) -> None:
        """Keep the configuration beside the numbers."""
        values = config.model_dump(mode="json")
        write_json(self.path.with_name("config.json"), values)
        text = "```json\n" + json.dumps(values, indent=2) + "\n```"
        self.writer.add_text("config", text)

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point per tag, at an optimizer step."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self._record(step, {tag: _finite(value) for tag, value in values.items()})

    def log_text(self, step: int, tag: str, text: str) -> None:
        self.writer.add_text(tag, f"```\n{text}\n```", step)
        self._record(step, {tag: text})

    def flush(self) -> None:
        """Bring everything logged so far to disk."""
        if self.buffer:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(self.buffer)
            self.buffer.clear()
        self.writer.flush()
        self.flushed_seconds = time.monotonic()

    def close(self) -> None:
        self.flush()
        self.writer.close()

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


def _finite(value: float) -> float | str:
    """JSON has no infinity and no NaN; they are logged as words."""
    return value if math.isfinite(value) else str(value)
