"""utils/checkpoint.py: nothing torn, nothing damaged, nothing foreign, and no code from files."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import utils.checkpoint as checkpoint_module
from tests.conftest import REPOSITORY
from tests.tiny import tiny_config, tiny_model
from utils.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from utils.config import Config
from utils.device import rng_state
from utils.errors import CheckpointError, ConfigError

REQUIRED = (
    "config",
    "model",
    "optimizer",
    "scheduler",
    "rng",
    "progress",
    "metrics",
    "tokenizer_sha256",
    "dataset_fingerprint",
    "run_name",
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


def small_checkpoint(config: Config, mark: float = 0.5) -> Checkpoint:
    """Every field filled, a few kilobytes; all numbers of the weights are `mark`."""
    return Checkpoint(
        config=config,
        model={"weight": torch.full((8, 8), mark), "bias": torch.full((8,), mark)},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        scheduler={"steps_taken": 3},
        rng=rng_state(torch.device("cpu")),
        progress={"step": 3, "validation_loss": 2.5},
        metrics={"losses": [1.0, float("inf")], "best_step": None},
        tokenizer_sha256="a" * 64,
        dataset_fingerprint="b" * 64,
        run_name="run_2026_11_22_10_00",
    )


def payload_of(path: Path) -> dict[str, Any]:
    payload: dict[str, Any] = torch.load(path, weights_only=True)
    return payload


def seal(payload: dict[str, Any], path: Path) -> None:
    """Write any payload as our program would, checksum and all."""
    with path.open("w+b") as file:
        writer = checkpoint_module._HashingWriter(file)
        torch.save(payload, writer)  # type: ignore[arg-type]
        writer.finish()


def test_what_is_saved_is_what_is_loaded(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint_latest.pt"
    saved = small_checkpoint(config)
    save_checkpoint(saved, path)
    loaded = load_checkpoint(path, tiny_config(model={"num_layers": 1}))
    assert loaded.config == config
    assert loaded.name == str(path)
    assert (loaded.step, loaded.validation_loss) == (3, 2.5)
    assert loaded.model.keys() == saved.model.keys()
    assert all(value.equal(saved.model[name]) for name, value in loaded.model.items())
    assert loaded.rng["torch"].equal(saved.rng["torch"])
    assert loaded.rng["numpy"][1].equal(saved.rng["numpy"][1])
    assert loaded.rng["python"] == saved.rng["python"]
    for name in ("scheduler", "progress", "metrics", "tokenizer_sha256", "run_name"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.dataset_fingerprint == saved.dataset_fingerprint
    assert loaded.versions["torch"] == str(torch.__version__)
    assert time.strptime(loaded.saved_at, "%Y-%m-%dT%H:%M:%S%z").tm_year >= 2026
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_git_commit_is_noted_where_there_is_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    save_checkpoint(small_checkpoint(config), path)
    assert load_checkpoint(path, config).git_commit == git.stdout.strip()
    monkeypatch.setenv("PATH", "")
    save_checkpoint(small_checkpoint(config), path)
    assert load_checkpoint(path, config).git_commit == ""


def test_the_file_is_one_that_torch_and_zip_tools_read(config: Config, tmp_path: Path) -> None:
    save_checkpoint(small_checkpoint(config), tmp_path / "a.pt")
    assert payload_of(tmp_path / "a.pt")["format_version"] == checkpoint_module.FORMAT_VERSION
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert b"sha256" in archive.comment


def test_more_names_are_hard_links_that_later_saves_leave_alone(
    config: Config, tmp_path: Path
) -> None:
    latest, best, step = (tmp_path / f"{name}.pt" for name in ("latest", "best", "step_1"))
    best.write_bytes(b"an older best")
    save_checkpoint(small_checkpoint(config, 1.0), latest, [best, step])
    assert latest.stat().st_ino == best.stat().st_ino == step.stat().st_ino
    save_checkpoint(small_checkpoint(config, 2.0), latest)
    marks = [load_checkpoint(p, config).model["bias"][0].item() for p in (latest, best, step)]
    assert marks == [2.0, 1.0, 1.0]
    assert len(list(tmp_path.iterdir())) == 3


# Damage


def is_refused_by_name(path: Path, config: Config) -> bool:
    """Whether loading says that this file is damaged; False if it loads."""
    try:
        load_checkpoint(path, config)
    except CheckpointError as error:
        is_named = error.what.startswith(f"{path}: ")
        return is_named and ("is damaged" in error.what or "holds objects" in error.what)
    return False


def check_damage(config: Config, folder: Path, tries: int) -> None:
    """Flip random bits, every bit of the trailer's ends, and cut anywhere: all is refused."""
    path = folder / "checkpoint_latest.pt"
    save_checkpoint(small_checkpoint(config), path)
    whole = path.read_bytes()
    chance = random.Random(0)
    trailer = checkpoint_module._TRAILER_BYTES + 2
    bits = chance.sample(range(8 * len(whole)), tries)
    bits += chance.sample(range(8 * (len(whole) - trailer), 8 * len(whole)), tries // 4)
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert is_refused_by_name(path, config), f"bit {bit} of {8 * len(whole)}"
    lengths = chance.sample(range(len(whole)), tries)
    for length in [*lengths, 0, 1, *range(len(whole) - trailer - 2, len(whole), 8)]:
        path.write_bytes(whole[:length])
        assert is_refused_by_name(path, config), f"{length} of {len(whole)} bytes"
    path.write_bytes(whole + b"\0")
    assert is_refused_by_name(path, config)
    path.write_bytes(whole)
    assert not is_refused_by_name(path, config)


def test_damage_is_refused(config: Config, tmp_path: Path) -> None:
    check_damage(config, tmp_path, 200)


@pytest.mark.slow
def test_much_damage_is_refused(config: Config, tmp_path: Path) -> None:
    check_damage(config, tmp_path, 5000)


def test_a_flipped_bit_is_told_by_the_checksum(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_latest.pt"
    save_checkpoint(small_checkpoint(config), path, [tmp_path / "checkpoint_best.pt"])
    whole = path.read_bytes()
    content = bytearray(whole)
    content[content.index(torch.full((8,), 0.5).numpy().tobytes())] ^= 1  # in a weight
    path.unlink()
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # which notices nothing
    message = (
        r"latest\.pt: is damaged: its bytes do not match its checksum\n"
        r"  Others in .*: checkpoint_best\.pt"
    )
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, config)
    path.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match="is damaged: its checksum is missing"):
        load_checkpoint(path, config)


def test_a_flipped_bit_in_an_older_programs_file_is_told_by_the_zips_own_checksum(
    config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "old.pt"
    torch.save({"weight": torch.full((64,), 0.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((64,), 0.5).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: .*/data/0 in it does not match its ch"):
        load_checkpoint(path, config)


# Files of others


def write_foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")


def write_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/version", "3\n")


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScr")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "is damaged: it is cut off, or no checkpoint at all"),
        (lambda path: path.write_text("hello\n" * 99), "is damaged: it is cut off, or no checkpoi"),
        (lambda path: save_file({"a": torch.ones(3)}, path), "is damaged: it is cut off, or no ch"),
        (write_foreign_zip, r"is damaged: torch cannot read it \(.+\)"),
        (write_torchscript, "holds objects other than tensors and plain values"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: None, r"no such checkpoint\n  There is no other checkpoint in "),
        (lambda path: torch.save([torch.ones(3)], path), "holds a list, not a checkpoint"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor, not a checkpoint"),
        (lambda path: torch.save({}, path), "holds no model weights$"),
        (lambda path: torch.save({"model": 3}, path), "holds no model weights$"),
        (
            lambda path: torch.save({"weights": {"a": torch.ones(3)}}, path),
            "holds no model weights: 'weights' is no tensor\n  Known layouts are ours, and weights"
            " alone or under model_state_dict, model, state_dict",
        ),
    ],
)
def test_foreign_files_are_is_refused_by_name(
    config: Config, tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(CheckpointError, match=rf"model\.pt: {message}"):
        load_checkpoint(path, config)


def test_a_file_that_may_not_be_read_is_named(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read: Permission denied"):
        load_checkpoint(tmp_path / "a.pt", config)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_file_of_ours_without_a_key_is_refused(config: Config, tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(small_checkpoint(config), path)
    payload = payload_of(path)
    del payload[key]
    seal(payload, path)
    with pytest.raises(CheckpointError, match=rf"a\.pt: has no {key}\n"):
        load_checkpoint(path, config)


def test_every_field_but_the_notes_is_required() -> None:
    notes = {"name", "git_commit", "versions", "saved_at"}
    assert {field.name for field in fields(Checkpoint)} - notes == set(REQUIRED)


@pytest.mark.parametrize("version", [0, 2, "next"])
def test_another_format_is_refused(config: Config, tmp_path: Path, version: object) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(small_checkpoint(config), path)
    seal({**payload_of(path), "format_version": version}, path)
    message = f"has checkpoint format {version}, this program reads 1\n  Use the version of the pro"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, config)


def test_a_configuration_that_this_program_does_not_know_is_refused(
    config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(small_checkpoint(config), path)
    payload = payload_of(path)
    payload["config"]["model"]["hiden_size"] = 3
    seal(payload, path)
    with pytest.raises(ConfigError, match=r"a\.pt \(its config\) has 1 problem:(.|\n)*hiden_size"):
        load_checkpoint(path, config)


@pytest.mark.parametrize("key", [None, "model", "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_older_layouts_load_as_bare_weights(
    config: Config, tmp_path: Path, key: str | None, prefix: str
) -> None:
    model = tiny_model(config)
    weights = OrderedDict((prefix + name, value) for name, value in model.state_dict().items())
    content = weights if key is None else {key: weights, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "old.pt")
    loaded = load_checkpoint(tmp_path / "old.pt", config)
    assert loaded.config is config
    assert loaded.step is None
    assert loaded.validation_loss is None
    assert loaded.progress == {}
    copy = tiny_model(config, seed=1)
    load_weights(copy, loaded.model, loaded.name)
    assert all(value.equal(copy.state_dict()[name]) for name, value in model.state_dict().items())


# Pickle bombs


class Bomb:
    """Runs `function(*arguments)` in whoever unpickles it carelessly."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Custom:
    pass


def bombs(canary: Path) -> dict[str, Any]:
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    weights = {"weight": torch.ones(3)}
    return {
        "os.system": Bomb(os.system, touch),
        "eval": Bomb(eval, python),
        "exec": Bomb(exec, python),
        "popen": Bomb(subprocess.check_output, ["touch", str(canary)]),
        "getattr": Bomb(getattr, Bomb(os.system, touch), "real"),
        "open": Bomb(open, str(canary), "w"),
        "nested": {"model": weights, "progress": {"deep": [1, (2, Bomb(os.system, touch))]}},
        "as a key": {"model": {("x", Bomb(os.system, touch)): torch.ones(3)}},
        "beside ours": {"format_version": 1, "model": weights, "rng": Bomb(eval, python)},
        "custom object": {"model": weights, "extra": Custom()},
        "module": nn.Linear(2, 2),
    }


BOMBS = sorted(bombs(Path()))


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_file_is_run(config: Config, tmp_path: Path, kind: str, is_zip: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bomb.pt"
    torch.save(bombs(canary)[kind], path, _use_new_zipfile_serialization=is_zip)
    words = "holds objects other than .*; nothing in it was run" if is_zip else "is damaged"
    with pytest.raises(CheckpointError, match=rf"bomb\.pt: {words}"):
        load_checkpoint(path, config)
    assert not canary.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_nothing_in_a_file_that_bears_our_checksum_is_run(
    config: Config, tmp_path: Path, kind: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "bomb.pt"
    seal(bombs(canary)[kind], path)
    with pytest.raises(CheckpointError, match=r"bomb\.pt: holds objects other than tensors"):
        load_checkpoint(path, config)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["os.system", "eval", "nested"])
def test_the_bombs_are_live(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    torch.save(bombs(canary)[kind], tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert canary.exists()


# Crashes, full disks, readers beside writers

SAVE_FOR_EVER = """
    import itertools, os, sys
    from pathlib import Path
    import torch
    from tests.tiny import tiny_config
    from utils.checkpoint import Checkpoint, save_checkpoint

    def save_for_ever(folder):
        names = [folder / "checkpoint_best.pt", folder / "checkpoint_step_1.pt"]
        for number in itertools.count():
            weights = {"weight": torch.full((100_000,), float(number))}
            checkpoint = Checkpoint(tiny_config(folder), weights, progress={"step": number})
            save_checkpoint(checkpoint, folder / "checkpoint_latest.pt", names)
            print(number, flush=True)

    for line in sys.stdin:  # each folder in a child of its own, so that all is imported only once
        if (child := os.fork()) == 0:
            save_for_ever(Path(line.strip()))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
"""


class Saver:
    """A process that saves checkpoints into one folder after another, until it is killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAVE_FOR_EVER)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder: Path) -> None:
        """Return when the first save is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        self.child = int(self._line())
        self._line()

    def kill(self) -> int:
        """The number of the last save that was reported."""
        os.kill(self.child, signal.SIGKILL)
        saved = 0
        while (line := self._line()) != "dead\n":
            saved = int(line)
        return saved

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def saver() -> Iterator[Saver]:
    saver = Saver()
    with saver.process:
        yield saver


def test_kill_9_at_any_moment_leaves_every_name_whole(
    config: Config, tmp_path: Path, saver: Saver
) -> None:
    chance, stale = random.Random(1), 0
    for attempt in range(30):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        saver.start(folder)
        time.sleep(chance.uniform(0.0, 0.08))
        saved = saver.kill()
        stale += len(list(folder.glob(".*.tmp")))
        for name in ("latest", "best", "step_1"):
            loaded = load_checkpoint(folder / f"checkpoint_{name}.pt", config)
            assert loaded.step is not None
            assert loaded.step >= saved
            assert (loaded.model["weight"] == loaded.step).all()
    assert stale > 3  # some died in the middle of a save


def test_a_reader_never_sees_a_torn_file(config: Config, tmp_path: Path, saver: Saver) -> None:
    saver.start(tmp_path)
    steps = []
    for _ in range(100):
        loaded = load_checkpoint(tmp_path / "checkpoint_latest.pt", config)
        assert loaded.step is not None
        assert (loaded.model["weight"] == loaded.step).all()
        steps.append(loaded.step)
    saver.kill()
    assert steps == sorted(steps)
    assert len(set(steps)) > 10  # it was rewritten all the while


def test_a_file_that_changes_between_every_two_looks_is_given_up(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(small_checkpoint(config), path)
    load = torch.load

    def load_and_replace(*arguments: Any, **options: Any) -> Any:
        payload = load(*arguments, **options)
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
        return payload

    monkeypatch.setattr(torch, "load", load_and_replace)
    with pytest.raises(CheckpointError, match=r"a\.pt: is being replaced faster than it can be r"):
        load_checkpoint(path, config)


SAVE_WITH_FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    import torch
    from tests.tiny import tiny_config
    from utils.checkpoint import Checkpoint, save_checkpoint
    from utils.errors import CheckpointError

    path, failures = Path(sys.argv[1]), []
    checkpoint = Checkpoint(tiny_config(path.parent), {"weight": torch.ones(100_000)})
    save_checkpoint(checkpoint, path)
    size = path.stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing too much then fails, as on a full disk
    checkpoint.model = {"weight": torch.zeros(100_000)}
    for missing in (size, size - 1, size - 5000, size // 2, 9000, 3000, 200, 96, 95, 1):
        limit = size - missing
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save_checkpoint(checkpoint, path)
        except CheckpointError as error:
            failures.append(limit)
            message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
    print(len(failures), message)
"""


def test_a_full_disk_leaves_the_old_file_and_says_so(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_latest.pt"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SAVE_WITH_FULL_DISK), str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    count, message = result.stdout.split(" ", 1)
    assert count == "10"
    assert f"{path}: could not be saved: File too large" in message
    assert "The checkpoints saved before are intact" in message
    assert "takes about 4" in message  # hundred kB
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert (load_checkpoint(path, config).model["weight"] == 1).all()


def test_a_folder_that_cannot_be_written_is_named(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file/a\.pt: could not be saved: File exists"):
        save_checkpoint(small_checkpoint(config), tmp_path / "file" / "a.pt")
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match=r"a\.pt: could not be saved: No such file or direc"):
        save_checkpoint(small_checkpoint(config), path, [tmp_path / "absent" / "b.pt"])
    assert load_checkpoint(path, config).step == 3


def test_a_mistake_of_ours_is_not_called_a_full_disk(config: Config, tmp_path: Path) -> None:
    checkpoint = small_checkpoint(config)
    checkpoint.metrics = {"a lambda": lambda: None}
    with pytest.raises((AttributeError, TypeError, RuntimeError, ValueError)) as caught:
        save_checkpoint(checkpoint, tmp_path / "a.pt")
    assert "lambda" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Weights into models


def test_weights_that_do_not_fit_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    good = model.state_dict()
    before = {name: value.clone() for name, value in good.items()}
    hint = "\n  It was made by another program or with another model section"
    for weights, message in (
        ({k: v for k, v in good.items() if k != "0.bias"}, "0.bias is missing"),
        ({**good, "2.bias": torch.ones(1)}, "2.bias is unknown"),
        ({**good, "1.bias": torch.ones(5)}, r"1.bias is \(5,\), not \(4,\)"),
        (
            {**good, "1.bias": torch.ones(4).char()},
            "1.bias holds torch.int8, not floating point nu",
        ),
        (
            {"a": torch.ones(1)},
            "0.weight is missing, 0.bias is missing, 1.weight is missing and 2 more",
        ),
    ):
        expected = rf"a\.pt: its weights do not fit the model: {message}.*{hint}"
        with pytest.raises(CheckpointError, match=expected):
            load_weights(model, weights, "a.pt")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    load_weights(model, {name: torch.ones_like(value) for name, value in good.items()}, "a.pt")
    assert all((parameter == 1).all() for parameter in model.parameters())
