"""utils/runs.py: one folder per run, what stands in it and in which order."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utils.errors import CheckpointError
from utils.runs import (
    BEST,
    LATEST,
    find_checkpoint,
    find_in_run,
    find_run,
    list_checkpoints,
    list_runs,
    new_run_folder,
    other_checkpoints,
    prune_step_checkpoints,
    step_name,
)


def write(path: Path, modified_seconds: float = 1000.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    os.utime(path, (modified_seconds, modified_seconds))
    return path


def names_in(folder: Path) -> list[str]:
    return [file.path.name for file in list_checkpoints(folder)]


def test_names_are_those_of_the_specification() -> None:
    assert (LATEST, BEST) == ("checkpoint_latest.pt", "checkpoint_best.pt")
    assert step_name(12_000) == "checkpoint_step_12000.pt"


def test_a_run_folder_is_named_after_the_minute(tmp_path: Path) -> None:
    before = time.strftime("run_%Y_%m_%d_%H_%M")
    folder = new_run_folder(tmp_path / "checkpoints", None)
    after = time.strftime("run_%Y_%m_%d_%H_%M")
    assert folder.is_dir()
    assert folder.name in (before, after)
    assert folder.parent == tmp_path / "checkpoints"
    named = new_run_folder(tmp_path, "lr_1e3")
    assert re.fullmatch(r"run_\d{4}(_\d\d){4}_lr_1e3", named.name)


def test_many_starts_in_one_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(50) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "x"), range(50)))
    assert len(set(folders)) == 50
    assert all(folder.is_dir() for folder in folders)


def test_a_name_used_a_thousand_times_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object, **__: object) -> None:
        raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", taken)
    with pytest.raises(CheckpointError, match=r"a thousand runs named run_.*_x\n  Give a --name"):
        new_run_folder(tmp_path, "x")


def test_checkpoints_are_listed_latest_best_steps_others(tmp_path: Path) -> None:
    steps = [step_name(step) for step in (900, 1000, 50)]
    for name in (*steps, "model.pt", BEST, "checkpoint_step_x.pt", LATEST):
        write(tmp_path / name)
    for name in (".checkpoint_latest.pt.x7f.tmp", "notes.txt", "model.pth"):
        write(tmp_path / name)
    (tmp_path / "folder.pt").mkdir()
    assert names_in(tmp_path) == [
        LATEST,
        BEST,
        "checkpoint_step_1000.pt",
        "checkpoint_step_900.pt",
        "checkpoint_step_50.pt",
        "checkpoint_step_x.pt",
        "model.pt",
    ]
    described = list_checkpoints(tmp_path)[2]
    assert (described.kind, described.step) == ("step", 1000)
    assert (described.size_bytes, described.modified_seconds) == (5, 1000.0)
    assert list_checkpoints(tmp_path / "absent") == []


def test_runs_are_listed_newest_first_and_the_base_folder_if_it_is_flat(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "absent") == []
    assert list_runs(tmp_path) == []
    write(tmp_path / "run_old" / LATEST, 100.0)
    write(tmp_path / "run_new" / LATEST, 50.0)
    write(tmp_path / "run_new" / step_name(5), 300.0)
    (tmp_path / "run_empty").mkdir()
    write(tmp_path / "stray file")
    assert [run.path.name for run in list_runs(tmp_path)] == ["run_new", "run_old"]
    assert [run.modified_seconds for run in list_runs(tmp_path)] == [300.0, 100.0]
    write(tmp_path / BEST, 200.0)
    runs = list_runs(tmp_path)
    assert [run.path.name for run in runs] == ["run_new", tmp_path.name, "run_old"]
    assert [run.is_flat for run in runs] == [False, True, False]


def test_old_step_checkpoints_go_by_age_not_by_number(tmp_path: Path) -> None:
    for step, modified in ((3000, 10.0), (2000, 20.0), (100, 30.0), (200, 40.0)):
        write(tmp_path / step_name(step), modified)
    write(tmp_path / LATEST, 1.0)
    write(tmp_path / BEST, 1.0)
    write(tmp_path / "mine.pt", 1.0)
    prune_step_checkpoints(tmp_path, keep=4)
    assert len(names_in(tmp_path)) == 7
    prune_step_checkpoints(tmp_path, keep=2)
    assert names_in(tmp_path) == [LATEST, BEST, step_name(200), step_name(100), "mine.pt"]


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    best = write(tmp_path / "run" / BEST)
    write(tmp_path / "run" / LATEST)
    assert find_checkpoint(best) == best


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pt"
    with pytest.raises(CheckpointError, match=f"{absent}: no such checkpoint\n  There is no other"):
        find_checkpoint(absent)
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\n  Name a run folder or"):
        find_checkpoint(tmp_path)
    for step in range(9):
        write(tmp_path / step_name(step))
    listed = ", ".join(step_name(step) for step in range(8, 2, -1))
    message = f"no such checkpoint\n  Others in {tmp_path}: {listed}$"
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(absent)
    assert step_name(8) not in other_checkpoints(tmp_path / step_name(8))


def test_a_run_is_found_by_name_by_path_and_as_the_latest(tmp_path: Path) -> None:
    write(tmp_path / "base" / "run_old" / LATEST, 100.0)
    write(tmp_path / "base" / "run_new" / LATEST, 200.0)
    write(tmp_path / "elsewhere" / "mine.pt")
    base = tmp_path / "base"
    assert find_run(base, "latest").path == base / "run_new"
    assert find_run(base, "run_old").path == base / "run_old"
    found = find_run(base, str(tmp_path / "elsewhere"))
    assert [file.path.name for file in found.checkpoints] == ["mine.pt"]
    assert not found.is_flat
    write(base / BEST, 50.0)
    assert find_run(base, str(base)).is_flat
    message = "run_x: no training run of .*\n  Runs, newest first: run_new, run_old, base"
    with pytest.raises(CheckpointError, match=message):
        find_run(base, "run_x")


def test_without_a_run_the_way_to_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"latest: no training .*\n  Train a model first"):
        find_run(tmp_path, "latest")


def test_a_checkpoint_of_a_run_is_found_by_name_step_or_kind(tmp_path: Path) -> None:
    for name in (LATEST, BEST, step_name(20), "mine.pt"):
        write(tmp_path / name)
    run = find_run(tmp_path, str(tmp_path))
    for name, expected in (
        ("latest", LATEST),
        ("best", BEST),
        ("20", step_name(20)),
        ("mine.pt", "mine.pt"),
        (step_name(20), step_name(20)),
    ):
        assert find_in_run(run, name) == tmp_path / expected
    for name in ("other", "step", "2"):
        message = f"has no checkpoint '{name}'\n  It has {LATEST}, {BEST}, {step_name(20)}, mine.pt"
        with pytest.raises(CheckpointError, match=message):
            find_in_run(run, name)
