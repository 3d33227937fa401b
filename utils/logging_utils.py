"""DualLogger: every number to TensorBoard for the eye and to JSON lines for programs.

logs/tensorboard/<run>/            event files
logs/raw_metrics/<run>/metrics.jsonl   one object a line: {"step", "time", "tag": value, ...}
logs/raw_metrics/<run>/config.json     the configuration, rewritten at every start
logs/raw_metrics/<run>/environment.json   commit, versions and device, rewritten at every start
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from utils.config import Config
from utils.device import describe_device
from utils.environment import git_commit, versions
from utils.files import atomic_write, write_json
from utils.metrics import BITS_PER_BYTE, TRAIN_LOSS, VALIDATION_LOSS
from utils.terminal import warn

METRICS_NAME = "metrics.jsonl"
_CONFIG_NAME = "config.json"
_ENVIRONMENT_NAME = "environment.json"
FLUSH_SECONDS = 10.0

# Keys of a record beside the tags of numbers.
STARTED = "started"  # in the first record since a start: when that was, in seconds
EVENT = "event"  # what kind of event a record is of
SAMPLE_TAG = "samples/"  # with the prompt's number behind it
_VALIDATION_TAGS = ("val/", SAMPLE_TAG)

SKIPPED_STEP = "skipped step"
LOSS_SPIKE = "loss spike"

_HYPERPARAMETER_SECTIONS = ("model", "dataset_prep", "dataloader", "training")
_METRICS = (VALIDATION_LOSS, BITS_PER_BYTE, TRAIN_LOSS)
_CHARTS = {
    "loss": {"training and validation": ["Multiline", [f"^{TRAIN_LOSS}$", f"^{VALIDATION_LOSS}$"]]}
}


def metrics_path(log_dir: Path, run_name: str) -> Path:
    """Where the JSON lines of a run stand."""
    return log_dir / "raw_metrics" / run_name / METRICS_NAME


def tensorboard_dir(log_dir: Path) -> Path:
    """What `tensorboard --logdir` wants: a folder per run."""
    return log_dir / "tensorboard"


def logged_runs(log_dir: Path) -> list[str]:
    """The names of all runs with logs, the last first: names begin with the time."""
    folder = metrics_path(log_dir, "any").parent.parent
    if not folder.is_dir():
        return []
    return sorted((path.name for path in folder.iterdir() if path.is_dir()), reverse=True)


def is_logged(log_dir: Path, run_name: str) -> bool:
    """Whether a run of this name has logs."""
    return metrics_path(log_dir, run_name).parent.exists()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run, in order. Lines that a crash or a full disk spoiled are left out."""
    with path.open("rb") as file:
        return [record for line in file if (record := _parse(line)) is not None]


def read_records_beside(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration and the environment kept beside metrics at `path`; {} if there is none."""
    return _read_object(path.with_name(_CONFIG_NAME)), _read_object(
        path.with_name(_ENVIRONMENT_NAME)
    )


def describe_run(device: torch.device, parameters: int) -> dict[str, Any]:
    """What a run is made with, for `log_config`."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else describe_device(device),
        "parameters": parameters,
        "commit": git_commit(),
        **versions(),
        "cuda": torch.version.cuda if is_cuda else None,
    }


class DualLogger:
    """Logs one run. With `resumed_step`, records after that step are removed from both logs, and,
    unless it `is_validated`, those of its validation, which is still to come: so the curve goes on
    without doubled points. Call `close` at the end.

    Once begun, training outlives its logs: what cannot be written is said once, and tried again.
    """

    def __init__(
        self,
        log_dir: Path,
        run_name: str,
        resumed_step: int | None = None,
        is_validated: bool = True,
    ) -> None:
        self.path = metrics_path(log_dir, run_name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if resumed_step is not None and self.path.exists():
            kept = self._drop_after(resumed_step, is_validated)
        self.writer = SummaryWriter(
            log_dir=str(tensorboard_dir(log_dir) / run_name),
            purge_step=None if resumed_step is None else resumed_step + is_validated,
            flush_secs=int(FLUSH_SECONDS),
        )
        self.first_step = resumed_step or 0
        self.buffer: list[str] = []
        self.is_failing = False
        self.flushed_seconds = time.monotonic()
        self.started: float | None = round(time.time(), 3)
        if not is_validated:  # TensorBoard drops a step as a whole: it gets back what is kept
            for record in kept:
                if record["step"] == resumed_step:
                    self._show_again(record)

    def log_config(self, config: Config, environment: Mapping[str, Any] | None = None) -> None:
        """Keep the configuration and the `environment`, see `describe_run`, beside the numbers.

        TensorBoard gets the configuration as text and as hyperparameters, and its charts.
        """
        values = config.model_dump(mode="json")
        text = "```json\n" + json.dumps(values, indent=2) + "\n```"
        with self._tolerant():
            write_json(self.path.with_name(_CONFIG_NAME), values)
            write_json(self.path.with_name(_ENVIRONMENT_NAME), dict(environment or {}))
            self.writer.add_text("config", text, self.first_step)
            self.writer.add_custom_scalars(_CHARTS)
            # SummaryWriter.add_hparams would write them as a run of their own.
            writer: Any = self.writer._get_file_writer()  # type: ignore[no-untyped-call]
            names = _hyperparameters(values), dict.fromkeys(_METRICS)
            for summary in hparams(*names):  # type: ignore[no-untyped-call]
                writer.add_summary(summary)

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

    def log_event(self, step: int, kind: str, **details: float | Sequence[int]) -> None:
        """Something that is to be found again, such as LOSS_SPIKE, with its numbers; at once."""
        found = {
            name: _finite(value) if isinstance(value, float) else value
            for name, value in details.items()
        }
        self._show_event(step, kind, found)
        self._record(step, {EVENT: kind, **found})
        self.flush()

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
        if self.started is not None:
            record[STARTED], self.started = self.started, None
        self.buffer.append(json.dumps(record, ensure_ascii=False) + "\n")
        if time.monotonic() - self.flushed_seconds > FLUSH_SECONDS:
            self.flush()

    def _show_event(
        self, step: int, kind: str, details: Mapping[str, Any], seconds: float | None = None
    ) -> None:
        with self._tolerant():
            self.writer.add_text("events", f"{kind}: `{json.dumps(details)}`", step, seconds)

    def _show_again(self, record: Mapping[str, Any]) -> None:
        """Give TensorBoard what stands in the file: an event, or numbers by tag."""
        values = {k: v for k, v in record.items() if k not in ("step", "time", STARTED)}
        step, seconds = record["step"], record.get("time")
        if EVENT in values:
            self._show_event(step, values.pop(EVENT), values, seconds)
            return
        with self._tolerant():
            for tag, value in values.items():
                self.writer.add_scalar(tag, float(value), step, seconds)

    def _drop_after(self, step: int, is_validated: bool) -> list[dict[str, Any]]:
        """Remove what is to come again from the file; return the records that stay."""
        kept = [
            record
            for record in read_metrics(self.path)
            if record["step"] < step
            or (record["step"] == step and (is_validated or not _is_of_validation(record)))
        ]
        with atomic_write(self.path) as file:
            for record in kept:
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        return kept


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # also where half a character was cut off
        return None
    is_whole = line.endswith(b"\n") and isinstance(record, dict) and "step" in record
    return record if is_whole else None


def _is_of_validation(record: Mapping[str, Any]) -> bool:
    return any(key.startswith(_VALIDATION_TAGS) for key in record)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _hyperparameters(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The keys that decide what a model learns; TensorBoard takes numbers and words."""
    return {
        f"{section}.{key}": value if isinstance(value, bool | int | float | str) else str(value)
        for section in _HYPERPARAMETER_SECTIONS
        for key, value in values[section].items()
        if value is not None
    }


def _finite(value: float) -> float | str:
    """JSON has no infinity and no NaN; they are logged as words."""
    return value if math.isfinite(value) else str(value)
