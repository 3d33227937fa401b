"""train.py under kill -9, signals, damage and full disks: no run is lost, and none ends otherwise.

Each ends as the run that nothing happened to, to the bit, weights, optimizer, random states, logs
and all.
"""

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.faulty_training import Forge, Life
from tests.states import assert_same, run_of, state_of
from tests.workspaces import Workspace, WorkspaceMaker
from utils.checkpoint import load_checkpoint
from utils.logging_utils import metrics_path, read_metrics
from utils.runs import LATEST, list_checkpoints, newest_whole, step_name

pytestmark = pytest.mark.slow

KILLS, KILLS_IN_SAVES = 100, 30
WRITING = "utils.sealing:SealingWriter._write_part"
WRITES = 524  # a save
# Functions that a save calls, and which calls of them to die before, in three saves.
PARTS_OF_SAVES = [
    *((WRITING, number) for number in range(1, 3 * WRITES, WRITES // 7)),
    *((name, n) for name in ("os:fsync", "os:link", "pathlib:Path.replace") for n in range(1, 8)),
]


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    with Forge() as forge:
        yield forge


@pytest.fixture(scope="module")
def make_run(
    tmp_path_factory: pytest.TempPathFactory, prepared_workspace: Workspace
) -> Callable[[], Workspace]:
    """Makes workspaces for one and the same run, of twelve steps, each of two batches."""
    make_workspace = WorkspaceMaker(tmp_path_factory.mktemp("runs"), prepared_workspace)
    batch_size = make_workspace().batch_size(2)
    return lambda: make_workspace(
        batch_size=batch_size,
        gradient_accumulation_steps=2,
        checkpoint_interval_steps=2,
        keep_step_checkpoints=2,
    )


@dataclass(frozen=True)
class Outcome:
    state: dict[str, Any]
    log: list[tuple[int, str, Any]]
    seconds: float = 0.0


def outcome(workspace: Workspace) -> Outcome:
    """How a run ended: its last state, and all it logged that does not depend on the clock."""
    run = run_of(workspace)
    log = [
        (record["step"], tag, value)
        for record in read_metrics(metrics_path(workspace.config.paths.log_dir, run.name))
        for tag, value in record.items()
        if tag.startswith(("train/", "val/", "samples/"))
    ]
    return Outcome(state_of(run / LATEST, workspace), log)


@pytest.fixture(scope="module")
def expected(forge: Forge, make_run: Callable[[], Workspace]) -> Outcome:
    """The outcome of the run that nothing happens to."""
    workspace = make_run()
    life = forge.train(workspace)
    assert life.exit_code == 0, life.said
    return replace(outcome(workspace), seconds=life.seconds)


def resume(forge: Forge, workspace: Workspace, **more: Any) -> Life:
    return forge.train(workspace, "--resume", str(run_of(workspace)), **more)


def assert_resumes_to(expected: Outcome, forge: Forge, workspace: Workspace) -> Life:
    life = resume(forge, workspace)
    assert life.exit_code == 0, life.said
    ended = outcome(workspace)
    assert_same(ended.state, expected.state)
    assert ended.log == expected.log
    return life


def step_on_disk(workspace: Workspace) -> int | None:
    """The step to resume from, or None if there is no checkpoint yet."""
    runs = workspace.config.paths.checkpoint_dir
    if not runs.exists() or not any(list_checkpoints(run) for run in runs.iterdir()):
        return None
    return load_checkpoint(newest_whole(run_of(workspace)), workspace.config).step


def start_over(workspace: Workspace) -> None:
    """Delete what a run left that died before its first checkpoint."""
    for folder in (workspace.config.paths.checkpoint_dir, workspace.config.paths.log_dir):
        shutil.rmtree(folder, ignore_errors=True)


def train_with_kills(
    forge: Forge, workspace: Workspace, chance: random.Random, run_seconds: float
) -> tuple[int, int]:
    """Train to the end through kills; returns how many, and how many of them in a save."""
    kills = kills_in_saves = 0
    known: int | None = None  # the step on disk
    while True:
        if known is None:
            start_over(workspace)
        arguments = () if known is None else ("--resume", str(run_of(workspace)))
        is_in_save = chance.random() < 0.5
        if is_in_save:
            fault = (*chance.choice(PARTS_OF_SAVES), "kill")
            life = forge.train(workspace, *arguments, faults=[fault])
        else:
            delay_seconds = chance.uniform(0, run_seconds)
            life = forge.train(workspace, *arguments, kill_after_seconds=delay_seconds)
        assert "is damaged" not in life.said
        if life.exit_code == 0:
            return kills, kills_in_saves
        assert life.exit_code == -signal.SIGKILL, life.said
        kills += 1
        kills_in_saves += is_in_save
        # One save may be under way; the one before it is done.
        before, known = known, step_on_disk(workspace)
        assert known in [before, *life.saves][-2:], life


@pytest.mark.timeout(3000)
def test_a_hundred_kills_at_random_moments(
    forge: Forge, make_run: Callable[[], Workspace], expected: Outcome
) -> None:
    chance = random.Random(4)
    kills = kills_in_saves = 0
    while kills < KILLS or kills_in_saves < KILLS_IN_SAVES:
        workspace = make_run()
        more, more_in_saves = train_with_kills(forge, workspace, chance, expected.seconds)
        kills, kills_in_saves = kills + more, kills_in_saves + more_in_saves
        assert_same(outcome(workspace).state, expected.state)
        assert outcome(workspace).log == expected.log


SIGNALS = [("SIGINT", 130), ("SIGTERM", 143)]
# What a run of twelve steps calls, and which calls of it a signal comes before.
PLACES = [
    ("step", "utils.optimizer:Optimizers.step", (1, 5, 11)),
    ("between two batches", "torch:Tensor.backward", (2, 10, 18)),
    ("step's end", "utils.scheduler:Scheduler.step", (2, 3, 6)),
    ("validation", "utils.training.validation:evaluate", (1, 2, 4)),
    ("sampling", "model:LanguageModel.generate", (1, 2, 4)),
    ("copying", "utils.training.saver:HostCopy.__call__", (1, 3, 7)),
    ("writing", WRITING, (1, WRITES + 250, 5 * WRITES + 9)),
    ("linking", "os:link", (1, 3, 8)),
    ("pruning", "utils.training.saver:prune_step_checkpoints", (1, 3, 7)),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "code"), SIGNALS)
@pytest.mark.parametrize(
    ("function", "calls"), [place[1:] for place in PLACES], ids=[place[0] for place in PLACES]
)
def test_a_signal_saves_at_that_step(
    forge: Forge,
    make_run: Callable[[], Workspace],
    expected: Outcome,
    function: str,
    calls: tuple[int, ...],
    name: str,
    code: int,
) -> None:
    for call in calls:
        workspace = make_run()
        life = forge.train(workspace, faults=[(function, call, name)])
        assert life.exit_code == code, life.said
        step = life.steps[-1] if life.steps else 0
        assert f"stopped at step {step}, saved" in life.said
        assert step < 12
        assert step_on_disk(workspace) == step
        assert_resumes_to(expected, forge, workspace)


@pytest.mark.parametrize(("name", "code"), SIGNALS)
def test_a_signal_at_start_up_leaves_the_run_as_it_was(
    forge: Forge, make_run: Callable[[], Workspace], expected: Outcome, name: str, code: int
) -> None:
    """What there is to lose then is the run to be resumed. SIGTERM needs no handler to end us."""
    workspace = make_run()
    forge.train(workspace, faults=[("utils.scheduler:Scheduler.step", 5, "SIGINT")])
    latest = run_of(workspace) / LATEST
    saved = latest.read_bytes()
    for function in (
        "utils.training.run_place:load_checkpoint",
        "train:create_simple_train_val_dataloaders",
        "train:create_model",
        "utils.logging_utils:DualLogger.log_config",
    ):
        life = resume(forge, workspace, faults=[(function, 1, name)])
        assert life.exit_code in (code, 128 - code), life.said
        assert life.steps == []
        assert latest.read_bytes() == saved
    assert_resumes_to(expected, forge, workspace)


@pytest.mark.parametrize("name", ["SIGINT twice", "SIGTERM twice"])
@pytest.mark.parametrize(
    ("function", "call"), [(WRITING, WRITES + 250), ("os:fsync", 4), ("os:link", 2)]
)
def test_a_second_signal_quits_at_once(
    forge: Forge,
    make_run: Callable[[], Workspace],
    expected: Outcome,
    function: str,
    call: int,
    name: str,
) -> None:
    """The second save, which would take a minute, is given up; the first one stands."""
    workspace = make_run()
    life = forge.train(workspace, faults=[(function, call, name)])
    assert life.exit_code in (130, -signal.SIGINT, -signal.SIGTERM), life.said
    assert "saved" not in life.said
    assert life.saves == [0, 2]
    assert step_on_disk(workspace) == 0
    assert_resumes_to(expected, forge, workspace)


def test_a_disk_that_fills_up_ends_a_run_that_can_be_resumed(
    forge: Forge, make_run: Callable[[], Workspace], expected: Outcome
) -> None:
    for save in (1, 2, 6):
        workspace = make_run()
        fault = ("utils.training.saver:HostCopy.__call__", save, "full disk")
        life = forge.train(workspace, faults=[fault])
        assert life.exit_code == 1, life.said
        assert "could not be saved: File too large" in life.said
        assert "A checkpoint of this run takes about" in life.said
        assert not list(run_of(workspace).glob(".*.tmp"))
        if save > 1:
            assert step_on_disk(workspace) == life.saves[save - 2]
            assert_resumes_to(expected, forge, workspace)


def test_a_disk_that_is_full_already_is_told_before_training(
    forge: Forge, make_run: Callable[[], Workspace]
) -> None:
    life = forge.train(make_run(), free_bytes=100_000)
    assert life.exit_code == 1
    assert "MB more, 100.0 kB are free there" in life.said
    assert life.steps == life.saves == []


@pytest.mark.parametrize("damage", ["flipped bit", "cut"])
def test_a_run_whose_latest_checkpoint_is_damaged_goes_on_from_the_newest_whole_one(
    forge: Forge, make_run: Callable[[], Workspace], expected: Outcome, damage: str
) -> None:
    workspace = make_run()
    forge.train(workspace, faults=[("utils.scheduler:Scheduler.step", 7, "SIGINT")])
    latest = run_of(workspace) / LATEST
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    latest.write_bytes(content if damage == "flipped bit" else content[: len(content) // 2])
    named = forge.train(workspace, "--resume", str(latest))
    assert named.exit_code == 1
    assert f"The newest whole one beside it is {latest.parent / step_name(6)}" in named.said
    life = assert_resumes_to(expected, forge, workspace)
    assert f"{latest}: is damaged" in life.said
    assert life.steps[0] == 7
