"""Trainings to a validation loss, each in its own process: nanoGPT's and ours."""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from bench.measure import REPOSITORY
from bench.nanogpt import LOG_STEPS, PEER
from bench.training_runs import Launch, child_environment, write_config
from dataloader import DatasetInfo
from utils.config import Config
from utils.config_file import override
from utils.errors import TrainingError
from utils.metrics import STEP_MS, VALIDATION_LOSS
from utils.terminal import say

NEVER = 10**9  # steps between what shall not happen
LAST_CHARACTERS = 2_000  # shown of what a process said that failed


class Run(NamedTuple):
    """One training, and what it logged. Times are seconds since the epoch."""

    recipe: str
    settings: dict[str, object]  # of the recipe, by dotted keys
    seed: int
    environment: dict[str, str]  # as `environment_of` found it
    dataset: str  # its fingerprint
    windows: int  # that it is validated on
    step_tokens: int
    began: float  # the process
    records: list[dict[str, Any]]  # every LOG_STEPS steps, and every validation

    @property
    def gpu(self) -> str:
        """The name of the GPU, or of the processor where it trains without one."""
        return self.environment.get("GPU", self.environment["processor"])

    @property
    def validations(self) -> list[tuple[int, float]]:
        """Step and loss, from the first step on."""
        found = [(r["step"], r[VALIDATION_LOSS]) for r in self.records if VALIDATION_LOSS in r]
        return [(step, float(loss)) for step, loss in found if step > 0]

    @property
    def final_loss(self) -> float:
        return self.validations[-1][1]

    def first_at(self, target: float) -> int | None:
        """The step of the first validation at or below `target`."""
        return next((step for step, loss in self.validations if loss <= target), None)

    def training_seconds(self, step: int) -> float:
        """What `step` steps took, without start-up, compiling and validating.

        The first stretch of steps, in which a model may still compile, counts like the others'
        mean.
        """
        spans = [(r["step"], r[STEP_MS]) for r in self.records if STEP_MS in r]
        later = [span for _, span in spans[1:]]
        usual = mean(later) if later else spans[0][1]
        counted = [usual] + [span for end, span in spans[1:] if end <= step]
        return float(mean(counted)) * step / 1e3

    def clock_seconds(self, step: int) -> float:
        """From the start of the process to the end of the validation at `step`: all included."""
        times = [r["time"] for r in self.records if VALIDATION_LOSS in r and r["step"] == step]
        return float(times[0]) - self.began

    def line(self) -> str:
        """For people, as soon as it ended."""
        last = self.validations[-1][0]
        losses = ", ".join(f"{step:,}: {loss:.4f}" for step, loss in self.validations)
        return (
            f"{self.recipe}, seed {self.seed}: {losses}; {self.training_seconds(last):.1f} s of"
            f" steps, {self.clock_seconds(last):.1f} s in all"
        )


Logged = tuple[float, list[dict[str, Any]]]  # when the process began, and its records


class Bounds(NamedTuple):
    """What all trainings of one comparison share."""

    config: Config  # dataset, shape and batch; no dropout
    device: str
    environment: dict[str, str]
    data: DatasetInfo
    windows: int  # to validate on, at most
    our_interval: int  # steps between our validations
    peer_steps: int
    peer_interval: int
    peer_folder: Path | None
    peer_vocab: int | None


def planned(bounds: Bounds, recipe: str, settings: Mapping[str, object], seed: int) -> Run:
    """A training that is still to be done: all but what it logs. `settings` are dotted keys."""
    training = override(bounds.config, settings).training
    rows = training.batch_size
    return Run(
        recipe,
        dict(settings),
        seed,
        bounds.environment,
        bounds.data["dataset_fingerprint"],
        min(whole_batches(bounds.windows, rows) * rows, bounds.data["val_size"]),
        rows * training.gradient_accumulation_steps * bounds.data["window"],
        began=0.0,
        records=[],
    )


def train(bounds: Bounds, plan: Run, gpu: str | None) -> Run:
    """Do what was planned, on a GPU as CUDA_VISIBLE_DEVICES names it. Raises TrainingError."""
    began, records = (run_nanogpt if plan.recipe == PEER else run_ours)(bounds, plan, gpu)
    return plan._replace(began=began, records=records)


def whole_batches(windows: int, rows: int) -> int:
    """How many batches of `rows` are validated on; at least one."""
    return max(windows // rows, 1)


def run_ours(bounds: Bounds, plan: Run, gpu: str | None) -> Logged:
    """Train through train.py."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        changes = our_settings(bounds, {**plan.settings, "training.seed": plan.seed})
        write_config(bounds.config, folder, changes)
        found = Launch(folder, bounds.device, gpu).run()
    kept = (STEP_MS, VALIDATION_LOSS)
    records = [
        {key: record[key] for key in ("step", "time", *kept) if key in record}
        for record in found.records
        if any(key in record for key in kept)
    ]
    return found.began, records


def our_settings(bounds: Bounds, settings: Mapping[str, object]) -> dict[str, object]:
    """A recipe with what makes its logs comparable: intervals, windows, no early end, no samples.

    A recipe that does not say how many steps it takes has as many as nanoGPT.
    """
    changes: dict[str, object] = {
        "training.max_steps": bounds.peer_steps,
        "training.log_interval_steps": LOG_STEPS,
        "training.metrics_window_steps": LOG_STEPS,
        "training.checkpoint_interval_steps": NEVER,
        "training.early_stopping_patience": NEVER,
        "training.sample_prompts": [],
        **settings,
    }
    training = override(bounds.config, changes).training
    rows = training.batch_size
    epoch = bounds.data["train_size"] // rows // training.gradient_accumulation_steps
    assert training.max_steps is not None
    return {
        **changes,
        "training.epochs": math.ceil(training.max_steps / max(epoch, 1)),
        "training.validation_interval_epochs": bounds.our_interval / max(epoch, 1),
        "training.max_validation_batches": whole_batches(bounds.windows, rows),
    }


def run_nanogpt(bounds: Bounds, plan: Run, gpu: str | None) -> Logged:
    """Train nanoGPT through bench/nanogpt.py; says each validation as it comes."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as errors:
        config_path = write_config(bounds.config, Path(place), {})
        command = [sys.executable, "-m", "bench.nanogpt", "--config", str(config_path)]
        options = {
            "nanogpt": bounds.peer_folder,
            "nanogpt-vocab": bounds.peer_vocab,
            "device": bounds.device,
            "seed": plan.seed,
            "steps": bounds.peer_steps,
            "every": bounds.peer_interval,
            "windows": bounds.windows,
        }
        command += [f"--{key}={value}" for key, value in options.items() if value is not None]
        began = time.time()
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=REPOSITORY,
            env=child_environment(gpu),
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
        try:
            assert process.stdout is not None
            records = []
            with process.stdout as lines:
                for record in map(json.loads, lines):
                    records.append(record)
                    if loss := record.get(VALIDATION_LOSS):
                        say(f"{PEER}, seed {plan.seed}, step {record['step']:,}: {loss:.4f}")
            code = process.wait()
        finally:
            process.kill()
        if code:
            errors.seek(0)
            raise TrainingError(f"{PEER} ended with {code}:\n{errors.read()[-LAST_CHARACTERS:]}")
    return began, records
