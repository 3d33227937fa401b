"""train.py: the loop, its logs and checkpoints, and exact resuming."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

import train
import utils.checkpoint as checkpoint_module
from dataloader import create_simple_train_val_dataloaders
from model import create_model
from tests.conftest import REPOSITORY
from tests.small_text import write_cleaned
from tests.states import assert_same, run_of, state_of
from tests.test_logging_utils import order_event_files
from tests.workspaces import Workspace, WorkspaceMaker
from utils.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from utils.config_file import load_config
from utils.errors import (
    BusyError,
    CheckpointError,
    DatasetError,
    DeviceError,
    Interrupted,
    TrainingError,
    UsageError,
)
from utils.files import sole_writer
from utils.logging_utils import DualLogger, metrics_path, read_metrics
from utils.runs import BEST, LATEST
from utils.token_files import DatasetMetadata, read_metadata, write_metadata
from utils.training.recorder import Recorder
from utils.training.saver import CheckpointSaver
from utils.training.step import TrainStep
from utils.training.validation import Validator


def is_same(left: Any, right: Any) -> bool:
    try:
        assert_same(left, right)
    except AssertionError:
        return False
    return True


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Arrange for something to happen during a given optimizer step.

    Steps also draw from Python's and NumPy's generators, as a user's own code might, so that
    these states have an effect to lose.
    """
    actions: dict[int, Callable[[], None]] = {}
    original = train.Trainer._step

    def step(self: train.Trainer, batches: Any) -> None:
        original(self, batches)
        random.random()
        np.random.rand()
        actions.pop(self.position.step, lambda: None)()

    monkeypatch.setattr(train.Trainer, "_step", step)
    return actions.__setitem__


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run_cut_after_six_steps(workspace: Workspace, after_step: Callable[..., None]) -> Path:
    after_step(6, interrupt)
    with pytest.raises(Interrupted):
        train_in(workspace)
    return run_of(workspace)


def train_in(workspace: Workspace, *arguments: str, device: str = "cpu") -> None:
    train.main(["--config", str(workspace.config_path), "--device", device, *arguments])


@pytest.fixture(
    params=[(1, "muon"), (4, "adamw")],
    ids=["muon, no accumulation", "adamw, accumulation 4"],
)
def reference(
    request: pytest.FixtureRequest,
    make_workspace: WorkspaceMaker,
    after_step: Callable[..., None],
) -> tuple[dict[str, Any], tuple[str, ...], list[tuple[int, str, Any]]]:
    """The end of an uninterrupted run, the flags that made it, and its log."""
    workspace = make_workspace()
    accumulation, optimizer = request.param
    flags = (
        "--set",
        f"training.gradient_accumulation_steps={accumulation}",
        "--set",
        f"training.batch_size={workspace.batch_size(accumulation)}",
        "--set",
        f"training.optimizer={optimizer}",
    )
    train_in(workspace, *flags)
    return state_of(run_of(workspace) / LATEST, workspace), flags, log_of(workspace)


def log_of(workspace: Workspace) -> list[tuple[int, str, Any]]:
    """Every logged value that does not depend on the clock."""
    path = metrics_path(workspace.config.paths.log_dir, run_of(workspace).name)
    return [
        (record["step"], tag, value)
        for record in read_metrics(path)
        for tag, value in record.items()
        if tag.startswith(("train/", "val/", "samples/"))
    ]


def test_resuming_after_any_step_is_the_uninterrupted_run(
    reference: Any, make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    """Twelve steps over two epochs, cut in warm-up, mid-epoch, at its edge and at validations."""
    expected, flags, expected_log = reference
    for cut in range(1, 12):
        workspace = make_workspace()
        after_step(cut, interrupt)
        with pytest.raises(Interrupted, match=f"stopped at step {cut}, saved"):
            train_in(workspace, *flags)
        train_in(workspace, *flags, "--resume", str(run_of(workspace)))
        assert_same(state_of(run_of(workspace) / LATEST, workspace), expected, f"cut at {cut}")
        assert log_of(workspace) == expected_log, f"cut at {cut}"


@pytest.mark.parametrize(
    ("kind", "method", "call"),
    [
        (Recorder, "__enter__", 1),
        *(
            (kind, method, call)
            for kind, method in [
                (TrainStep, "gradients"),
                (Validator, "_sample"),
                (Validator, "validate"),
                (CheckpointSaver, "save"),
                (Recorder, "write_report"),
            ]
            for call in (1, 3)
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_resuming_after_an_interrupt_anywhere_within_a_step_is_the_uninterrupted_run(
    kind: type,
    method: str,
    call: int,
    make_workspace: WorkspaceMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal comes as the method returns: after a validation, after a save, and so on."""
    whole, cut = make_workspace(), make_workspace()
    train_in(whole)
    original, calls = getattr(kind, method), itertools.count(1)

    def interrupted(self: Any, *args: Any) -> Any:
        result = original(self, *args)
        if next(calls) == call:
            interrupt()
        return result

    monkeypatch.setattr(kind, method, interrupted)
    with pytest.raises(Interrupted):
        train_in(cut)
    train_in(cut, "--resume", str(run_of(cut)))
    assert_same(state_of(run_of(cut) / LATEST, cut), state_of(run_of(whole) / LATEST, whole))
    assert log_of(cut) == log_of(whole)


def test_two_cuts_in_a_row(
    reference: Any, make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    expected, flags, expected_log = reference
    workspace = make_workspace()
    after_step(4, interrupt)
    after_step(5, interrupt)
    with pytest.raises(Interrupted):
        train_in(workspace, *flags)
    with pytest.raises(Interrupted):
        train_in(workspace, *flags, "--resume", str(run_of(workspace)))
    train_in(workspace, *flags, "--resume", str(run_of(workspace) / LATEST))
    assert_same(state_of(run_of(workspace) / LATEST, workspace), expected)
    assert log_of(workspace) == expected_log


def fresh(checkpoint: Checkpoint, state: str, start: Checkpoint) -> None:
    """Put one state back to what it was before training."""
    section, _, key = state.partition(".")
    if key:
        getattr(checkpoint, section)[key] = getattr(start, section)[key]
    else:
        setattr(checkpoint, section, getattr(start, section))


@pytest.mark.parametrize(
    "state",
    [
        "model",
        "optimizer",
        "scheduler",
        "rng.torch",
        "rng.python",
        "rng.numpy",
        "progress.step",
        "progress.validated_step",
        "progress.validation_loss",
        "metrics.losses",
        "metrics.gradient_norms",
        "metrics.tokens_seen",
        "metrics.best_loss",
        "metrics.best_step",
        "metrics.validations_since_best",
        "metrics.guard",
    ],
)
def test_every_saved_state_is_needed(
    state: str, make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    """The negative control: forgetting any one state changes how the run ends."""
    workspace = make_workspace()
    starts: list[Checkpoint] = []
    flags = ("--set", "training.learning_rate=2.0") if "since_best" in state else ()

    def remember() -> None:
        path = run_of(workspace) / LATEST
        starts.append(load_checkpoint(path, workspace.config))

    after_step(1, remember)  # what is on disk then was saved before the first step
    after_step(8, interrupt)
    with pytest.raises(Interrupted):
        train_in(workspace, *flags)
    path = run_of(workspace) / LATEST
    whole = path.read_bytes()
    results = []
    for forget in (False, True):
        path.write_bytes(whole)
        checkpoint = load_checkpoint(path, workspace.config)
        if forget:
            fresh(checkpoint, state, starts[0])
            save_checkpoint(checkpoint, path)
        after_step(9, interrupt)
        with suppress(Interrupted):
            train_in(workspace, *flags, "--resume", str(path))
        results.append(state_of(path, workspace))
    assert not is_same(*results)


def test_what_a_run_leaves(make_workspace: WorkspaceMaker, capsys: Any) -> None:
    workspace = make_workspace(checkpoint_interval_steps=2, keep_step_checkpoints=2)
    train_in(workspace, "--name", "try.1")
    run = run_of(workspace)
    assert run.name.endswith("_try.1")
    assert {path.name for path in run.glob("*.pt")} == {
        LATEST,
        BEST,
        "checkpoint_step_10.pt",
        "checkpoint_step_12.pt",
    }
    log_dir = workspace.config.paths.log_dir
    records = read_metrics(metrics_path(log_dir, run.name))
    losses = [record["val/loss"] for record in records if "val/loss" in record]
    assert losses[-1] < losses[0]
    assert any("samples/1" in record for record in records)
    assert list((log_dir / "tensorboard" / run.name).glob("events.*"))
    saved = json.loads((log_dir / "raw_metrics" / run.name / "config.json").read_text())
    assert saved["training"]["checkpoint_interval_steps"] == 2
    said = capsys.readouterr()
    assert not said.out
    assert "validation loss" in said.err
    assert f"python Inference.py --run {run.name}" in said.err
    best = load_checkpoint(run / BEST, workspace.config)
    assert best.validation_loss == min(losses)


def test_a_finished_run_has_nothing_to_resume(make_workspace: WorkspaceMaker, capsys: Any) -> None:
    workspace = make_workspace()
    train_in(workspace)
    before = state_of(run_of(workspace) / LATEST, workspace)
    train_in(workspace, "--resume", str(run_of(workspace)))
    assert_same(state_of(run_of(workspace) / LATEST, workspace), before)
    assert "finished after 12 steps" in capsys.readouterr().err


def test_more_epochs_are_said_aloud(make_workspace: WorkspaceMaker, capsys: Any) -> None:
    workspace = make_workspace()
    train_in(workspace)
    more = ("--set", "training.epochs=3", "--set", "training.weight_decay=0.2")
    train_in(workspace, *more, "--resume", str(run_of(workspace)))
    said = capsys.readouterr().err
    assert "training.epochs was 2, is now 3" in said
    assert "total_steps of the learning rate was 12, is now 18" in said
    assert "training.weight_decay was 0.0, is now 0.2" in said
    assert state_of(run_of(workspace) / LATEST, workspace)["progress"]["step"] == 18


def test_early_stopping(make_workspace: WorkspaceMaker, capsys: Any) -> None:
    workspace = make_workspace(
        early_stopping_patience=2, early_stopping_min_delta=100.0, max_steps=12
    )
    train_in(workspace)
    assert "stopped early after 6 steps" in capsys.readouterr().err


def test_accumulation_is_a_larger_batch(make_workspace: WorkspaceMaker) -> None:
    """Four batches of 2 and one of 8 give the same gradients, so the same losses, nearly."""
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        workspace = make_workspace(
            batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=5
        )
        train_in(workspace, "--set", "model.dropout=0", "--set", "model.attention_dropout=0")
        results.append(state_of(run_of(workspace) / LATEST, workspace))
    assert results[0]["metrics"]["losses"] == pytest.approx(results[1]["metrics"]["losses"], 1e-4)


def test_gradients_are_clipped(make_workspace: WorkspaceMaker) -> None:
    """What reaches the optimizer has the configured norm at most."""
    workspace = make_workspace(max_grad_norm=0.01, max_steps=1, optimizer="adamw")
    norms = []
    step = torch.optim.AdamW.step

    def note(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm().item())
        return step(optimizer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", note)
        train_in(workspace)
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_the_logged_validation_loss_is_that_of_the_saved_model(
    make_workspace: WorkspaceMaker,
) -> None:
    """Recomputed over all held-out windows, one by one, without dropout."""
    workspace = make_workspace(max_validation_batches=None, batch_size=7, max_steps=2)
    train_in(workspace)
    checkpoint = load_checkpoint(run_of(workspace) / LATEST, workspace.config)
    model = create_model(checkpoint.config).eval()
    load_weights(model, checkpoint.model, checkpoint.name)
    _, val_loader, info = create_simple_train_val_dataloaders(
        batch_size=1, config=workspace.config, device="cpu", verbose=False
    )
    losses = [model(window, labels=window)["loss"].item() for window in val_loader]
    assert info["val_size"] % 7, "the last batch is a smaller one"
    assert checkpoint.validation_loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_an_outrun_checkpoint_goes_on_in_a_new_run(
    make_workspace: WorkspaceMaker, capsys: Any
) -> None:
    workspace = make_workspace(checkpoint_interval_steps=6)
    train_in(workspace)
    old = run_of(workspace)
    before = {path.name: path.read_bytes() for path in old.glob("*.pt")}
    log = metrics_path(workspace.config.paths.log_dir, old.name)
    logged = log.read_bytes()
    train_in(workspace, "--resume", str(old / "checkpoint_step_6.pt"))
    assert "in a new run: the old one stays as it is" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in old.glob("*.pt")} == before
    assert log.read_bytes() == logged
    (new,) = set(workspace.config.paths.checkpoint_dir.iterdir()) - {old}
    assert_same(state_of(new / LATEST, workspace), state_of(old / LATEST, workspace))
    steps = [record["step"] for record in read_metrics(log.parent.parent / new.name / log.name)]
    assert min(steps) == 7


def test_a_copied_run_has_logs_of_its_own(
    make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    workspace = make_workspace()
    run = run_cut_after_six_steps(workspace, after_step)
    log = metrics_path(workspace.config.paths.log_dir, run.name)
    logged = log.read_bytes()
    copy = run.with_name("branch")
    shutil.copytree(run, copy)
    train_in(workspace, "--resume", str(copy))
    assert log.read_bytes() == logged
    assert metrics_path(workspace.config.paths.log_dir, "branch").exists()


def test_a_copy_elsewhere_leaves_the_logs_of_the_run_alone(
    make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    workspace = make_workspace()
    run = run_cut_after_six_steps(workspace, after_step)
    copy = workspace.folder / "backup" / run.name
    shutil.copytree(run, copy)
    train_in(workspace, "--resume", str(run))
    log = metrics_path(workspace.config.paths.log_dir, run.name)
    logged = log.read_bytes()
    train_in(workspace, "--resume", str(copy))
    assert log.read_bytes() == logged
    assert len(list(workspace.config.paths.checkpoint_dir.iterdir())) == 2


def test_an_interrupt_before_the_first_step_of_a_branch_saves_it(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(checkpoint_interval_steps=5)
    train_in(workspace)
    old = run_of(workspace)
    with monkeypatch.context() as patch:
        patch.setattr(DualLogger, "log_config", lambda *_: interrupt())
        with pytest.raises(Interrupted, match="stopped at step 5, saved"):
            train_in(workspace, "--resume", str(old / "checkpoint_step_5.pt"))
    (new,) = set(workspace.config.paths.checkpoint_dir.iterdir()) - {old}
    assert load_checkpoint(new / LATEST, workspace.config).step == 5


def test_resuming_by_a_relative_path_keeps_the_name_of_the_run(
    make_workspace: WorkspaceMaker,
    after_step: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = make_workspace()
    run = run_cut_after_six_steps(workspace, after_step)
    monkeypatch.chdir(run)
    train_in(workspace, "--resume", LATEST)
    assert load_checkpoint(run / LATEST, workspace.config).run_name == run.name
    records = read_metrics(metrics_path(workspace.config.paths.log_dir, run.name))
    assert max(record["step"] for record in records) == 12


def test_a_crash_between_best_and_latest_is_made_good(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best is written first: whatever a crash leaves, the resumed run writes both again."""
    workspace = make_workspace()
    link = checkpoint_module._link

    def crash(source: Path, target: Path) -> None:
        if target.name == LATEST and load_checkpoint(source, workspace.config).step == 6:
            raise KeyboardInterrupt
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "_link", crash)
        with pytest.raises(KeyboardInterrupt):
            train_in(workspace)
    run = run_of(workspace)
    assert load_checkpoint(run / BEST, workspace.config).step == 6
    train_in(workspace, "--resume", str(run))
    best = load_checkpoint(run / BEST, workspace.config)
    latest = load_checkpoint(run / LATEST, workspace.config)
    assert best.step == latest.metrics["best_step"]
    assert best.validation_loss == latest.metrics["best_loss"]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()  # the old file may be open, as memory that tensors are in
    path.write_bytes(content)


def test_a_broken_latest_is_named_and_the_run_goes_on_from_the_one_before(
    make_workspace: WorkspaceMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(checkpoint_interval_steps=5)
    train_in(workspace)
    run = run_of(workspace)
    expected, log = state_of(run / LATEST, workspace), log_of(workspace)
    (run / BEST).unlink()
    flip_a_bit(run / LATEST)
    with pytest.raises(
        CheckpointError, match=rf"{LATEST}: is damaged: .*\n.*checkpoint_step_10\.pt"
    ):
        train_in(workspace, "--resume", str(run / LATEST))
    capsys.readouterr()
    train_in(workspace, "--resume", str(run))
    said = capsys.readouterr().err
    assert f"{run / LATEST}: is damaged: " in said
    assert "Resume  after step 10" in said
    assert_same(state_of(run / LATEST, workspace), expected)
    assert log_of(workspace) == log


def test_a_save_that_fails_ends_the_run_with_what_was_wrong(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace()
    calls = itertools.count()

    def full(*args: Any) -> None:
        if next(calls) == 2:
            raise CheckpointError("the disk is full", "Free some space.")
        save_checkpoint(*args)

    monkeypatch.setattr("utils.training.saver.save_checkpoint", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        train_in(workspace)
    assert load_checkpoint(run_of(workspace) / LATEST, workspace.config).step == 3


def test_reports_of_runs_can_be_asked_for_and_compared(
    make_workspace: WorkspaceMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(max_steps=2)
    train_in(workspace, "--name", "first")
    first = run_of(workspace).name
    train_in(workspace, "--name", "second", "--compare", first)
    (second,) = {p.name for p in workspace.config.paths.checkpoint_dir.iterdir()} - {first}
    report = metrics_path(workspace.config.paths.log_dir, second).with_name("report.html")
    assert first in report.read_text()
    report.unlink()
    capsys.readouterr()
    train.main(["--config", str(workspace.config_path), "--report", second])  # no GPU is asked for
    assert capsys.readouterr().out == f"{report}\n"
    assert first not in report.read_text()
    with pytest.raises(UsageError, match="none: no run of this name has logs"):
        train_in(workspace, "--compare", "none")


def test_logs_that_cannot_be_written_do_not_end_training(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    workspace = make_workspace()

    def full(self: Any, lines: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DualLogger, "_append", full)
    train_in(workspace)
    assert state_of(run_of(workspace) / LATEST, workspace)["progress"]["step"] == 12
    assert capsys.readouterr().err.count("No space left on device); training on") == 1


def test_an_interrupt_saves_even_if_nobody_reads_what_is_said(
    make_workspace: WorkspaceMaker,
) -> None:
    """Ctrl-C under `train.py 2>&1 | tee log` ends tee as well."""
    workspace = make_workspace(epochs=10_000, early_stopping_patience=10_000)
    script = [sys.executable, "train.py", "--config", str(workspace.config_path), "--device", "cpu"]
    with subprocess.Popen(script, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step 3:"):
            pass
        process.stderr.close()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    step = load_checkpoint(run_of(workspace) / LATEST, workspace.config).step
    assert step is not None
    assert step >= 3


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_resumed_run_does_not_hold_on_to_the_file_it_came_from(
    make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    """Deleted and still mapped, it would take room on the disk until the run ends."""
    workspace = make_workspace()
    run = run_cut_after_six_steps(workspace, after_step)
    mapped: list[bool] = []

    def look() -> None:
        mapped.append(str(run) in Path("/proc/self/maps").read_text())

    after_step(7, look)
    after_step(10, look)
    train_in(workspace, "--resume", str(run))
    assert mapped == [False, False]
    checkpoint = load_checkpoint(run / LATEST, workspace.config)
    look()
    assert mapped.pop(), "one that lives is not seen"
    assert checkpoint.model


def test_a_run_from_a_folder_that_can_only_be_read_goes_on_in_a_new_one(
    make_workspace: WorkspaceMaker,
    after_step: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace = make_workspace()
    old = run_cut_after_six_steps(workspace, after_step)
    before = {path.name: path.read_bytes() for path in old.glob("*")}

    @contextmanager
    def refusing(folder: Path, *arguments: Any) -> Iterator[None]:
        if folder == old:  # root, who may run the tests, could write to any folder
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        with sole_writer(folder, *arguments):
            yield

    monkeypatch.setattr("utils.training.run_place.sole_writer", refusing)
    train_in(workspace, "--resume", str(old))
    assert "in a new run: the old one stays as it is" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in old.glob("*")} == before
    (new,) = set(workspace.config.paths.checkpoint_dir.iterdir()) - {old}
    assert load_checkpoint(new / LATEST, workspace.config).step == 12


def test_temporaries_of_others_beside_a_checkpoint_stay(
    make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    workspace = make_workspace()
    run = run_cut_after_six_steps(workspace, after_step)
    downloads = workspace.folder / "Downloads"
    downloads.mkdir()
    shutil.copy(run / LATEST, downloads / "x.pt")
    download = downloads / ".film.mp4.tmp"
    download.write_bytes(b"half of it")
    train_in(workspace, "--resume", str(downloads / "x.pt"))
    assert download.exists()


def test_too_little_room_is_told_before_anything_is_made(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace()
    usage = shutil.disk_usage(workspace.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    monkeypatch.setattr(train, "prepare", lambda *_: pytest.fail("it compiles first"))
    with pytest.raises(CheckpointError, match=r"checkpoints need .* kB more, 100\.0 kB are free"):
        train_in(workspace)
    assert not workspace.config.paths.checkpoint_dir.exists()
    assert not workspace.config.paths.log_dir.exists()


@pytest.mark.parametrize("at_its_end", [False, True])
def test_a_fault_of_the_report_is_told_and_ends_nothing(
    at_its_end: bool,
    make_workspace: WorkspaceMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace = make_workspace()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("no width")

    monkeypatch.setattr("utils.training.recorder.write_run_report", broken)
    if at_its_end:
        monkeypatch.setattr(TrainStep, "gradients", lambda *_: [][0])
        with pytest.raises(IndexError):
            train_in(workspace)
    else:
        train_in(workspace)
        assert state_of(run_of(workspace) / LATEST, workspace)["progress"]["step"] == 12
    said = capsys.readouterr().err
    assert "warning: the run's report cannot be written: ZeroDivisionError: no width" in said


def test_a_run_that_cannot_be_compared_is_told_at_once(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(max_steps=1)
    metrics_path(workspace.config.paths.log_dir, "odd").parent.mkdir(parents=True)

    def broken(runs: Any) -> None:
        raise ValueError("no number: 'two'")

    monkeypatch.setattr("utils.training.recorder.comparison_section", broken)
    message = r"--compare odd: its logs in .*odd cannot be drawn: ValueError: no number: 'two'\n"
    with pytest.raises(UsageError, match=message):
        train_in(workspace, "--compare", "odd")
    assert not workspace.config.paths.checkpoint_dir.exists()


def test_a_validation_cut_and_then_lost_is_logged_once(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it validated, resumed, killed before that was saved, and resumed again."""
    order_event_files(monkeypatch)
    whole, cut = make_workspace(), make_workspace()
    train_in(whole)
    with monkeypatch.context() as patch:
        original = Validator.validate

        def cut_short(self: Validator, should_stop: Callable[[], bool]) -> bool:
            if self.state.position.step == 3:
                interrupt()
            return original(self, should_stop)

        patch.setattr(Validator, "validate", cut_short)
        with pytest.raises(Interrupted, match="stopped at step 3"):
            train_in(cut)
    saved = (run_of(cut) / LATEST).read_bytes()
    with monkeypatch.context() as patch:

        def killed(self: CheckpointSaver, *_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(CheckpointSaver, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_in(cut, "--resume", str(run_of(cut)))
    assert (run_of(cut) / LATEST).read_bytes() == saved
    assert [entry[:2] for entry in log_of(cut)].count((3, "val/loss")) == 1, "nothing to double"
    train_in(cut, "--resume", str(run_of(cut)))
    assert log_of(cut) == log_of(whole)
    for tag in ("train/loss", "val/loss"):
        assert tensorboard_points(cut, tag) == tensorboard_points(whole, tag)


def tensorboard_points(workspace: Workspace, tag: str) -> list[tuple[int, float]]:
    folder = workspace.config.paths.log_dir / "tensorboard" / run_of(workspace).name
    events = event_accumulator.EventAccumulator(str(folder)).Reload().Scalars(tag)
    return [(event.step, event.value) for event in events]


def test_refusals(make_workspace: WorkspaceMaker) -> None:
    workspace = make_workspace()
    with pytest.raises(UsageError, match=r"--name 'a/b' may have only letters"):
        train_in(workspace, "--name", "a/b")
    with pytest.raises(UsageError, match="--name is for a new run"):
        train_in(workspace, "--name", "b", "--resume", "a")
    with pytest.raises(TrainingError, match=r"an epoch has \d+ batches, fewer than gradient_acc"):
        train_in(workspace, "--set", "training.gradient_accumulation_steps=50")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train_in(workspace, "--resume", str(workspace.folder / "none.pt"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=r"no CUDA GPU .*\n.*--device cpu"):
            train.main(["--config", str(workspace.config_path)])
    assert not workspace.config.paths.checkpoint_dir.exists()


def test_a_run_folder_has_one_writer(make_workspace: WorkspaceMaker) -> None:
    workspace = make_workspace()
    train_in(workspace, "--set", "training.max_steps=1")
    script = [sys.executable, "train.py", "--config", str(workspace.config_path), "--device", "cpu"]
    with sole_writer(run_of(workspace), "training in"):
        second = subprocess.run(
            [*script, "--resume", str(run_of(workspace))],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode == BusyError.exit_code
    assert "another process is training in this folder" in second.stderr


def test_a_dataset_of_another_tokenizer_is_refused(
    make_workspace: WorkspaceMaker,
) -> None:
    workspace = make_workspace(own_dataset=True)
    dataset_dir = workspace.config.paths.dataset_dir
    metadata = read_metadata(dataset_dir)
    recipe = metadata.recipe.model_copy(update={"tokenizer_sha256": "0" * 64})
    write_metadata(dataset_dir, DatasetMetadata.of(recipe, metadata.files))
    with pytest.raises(DatasetError, match="made with another tokenizer than the one in"):
        train_in(workspace)


def test_a_text_that_changed_since_is_named_with_the_command(
    make_workspace: WorkspaceMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(own_dataset=True)
    train_in(workspace, "--set", "training.max_steps=1")
    assert "cleaned again" not in capfd.readouterr().err
    write_cleaned(workspace.config.paths.cleaned_dir, "part_0", ["Other text.\nAltogether."])
    train_in(workspace, "--set", "training.max_steps=1")
    said = capfd.readouterr().err
    assert "warning: cleaned again since the dataset was made from it: part_0;" in said
    assert "`python dataset_prep.py` brings it up to date" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(
    number: int, code: int, make_workspace: WorkspaceMaker
) -> None:
    workspace = make_workspace(epochs=10_000, early_stopping_patience=10_000)
    script = [sys.executable, "train.py", "--config", str(workspace.config_path), "--device", "cpu"]
    with subprocess.Popen(script, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 6:"):
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.returncode == code
    assert "saved" in rest
    assert f"python train.py --resume {run_of(workspace) / LATEST}" in rest
    step = load_checkpoint(run_of(workspace) / LATEST, load_config(workspace.config_path)).step
    assert step is not None
    assert step >= 6


def whole_and_resumed_on_a_gpu(
    workspaces: list[Workspace], after_step: Callable[..., None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ends of an uninterrupted run and of one cut after seven steps, each in its workspace."""
    whole, cut = workspaces
    train_in(whole, device="cuda")
    after_step(7, interrupt)
    with pytest.raises(Interrupted):
        train_in(cut, device="cuda")
    train_in(cut, "--resume", str(run_of(cut)), device="cuda")
    return (
        state_of(run_of(whole) / LATEST, whole),
        state_of(run_of(cut) / LATEST, cut),
    )


@pytest.mark.cuda
@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
def test_resuming_on_a_gpu_continues_the_run(
    compiles: bool, make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    """In bf16 two runs are never the same to the bit there; the random states are."""
    whole, resumed = whole_and_resumed_on_a_gpu(
        [make_workspace(compile=compiles) for _ in range(2)], after_step
    )
    assert torch.equal(whole["rng"]["cuda"], resumed["rng"]["cuda"])
    assert whole["metrics"]["losses"] == pytest.approx(resumed["metrics"]["losses"], abs=0.05)
    assert whole["scheduler"] == resumed["scheduler"]


@pytest.mark.cuda
def test_resuming_on_a_gpu_is_exact_with_deterministic_algorithms(
    make_workspace: WorkspaceMaker, after_step: Callable[..., None]
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        whole, resumed = whole_and_resumed_on_a_gpu(
            [make_workspace(compile=False, precision="fp32") for _ in range(2)], after_step
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(resumed, whole)
