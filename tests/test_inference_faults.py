"""Checkpoints that are broken, or being rewritten, through the doors that users take."""

import contextlib
import os
import random
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.pickle_bombs import archive, placed_bombs, seal, with_record
from tests.small_checkpoint import (
    CPU,
    Payload,
    good_checkpoint,
    refusal,
    small_config,
)
from tests.tiny import tiny_model
from tests.workspaces import Workspace
from utils.archive_records import read_records
from utils.checkpoint import load_checkpoint
from utils.config import Config
from utils.errors import CheckpointError, PipelineError
from utils.loading import load_for_inference
from utils.runs import BEST, LATEST


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return small_config(tmp_path)


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    """What torch finds in a checkpoint as training saves it."""
    return good_checkpoint(tmp_path_factory.mktemp("payload"))[1]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint as training saves it."""
    return good_checkpoint(tmp_path_factory.mktemp("good"))[0]


# Damage


def spans(content: bytes, payload: Payload, folder: Path) -> dict[str, list[range]]:
    """The bytes of a checkpoint's records: the pickle and torch's notes, weights, and the rest."""
    path = folder / "spans.zip"
    path.write_bytes(content)
    weights = [weight.numpy().tobytes() for weight in payload["model"].values()]
    found: dict[str, list[range]] = {"notes": [], "weights": [], "rest": []}
    with path.open("rb") as file:
        for record in read_records(file):
            place = range(record.start, record.start + record.size)
            is_weight = content[place.start : place.stop] in weights
            kind = "notes" if not record.holds_numbers else "weights" if is_weight else "rest"
            found[kind].append(place)
    return found


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def flips(places: list[range], count: int | None, seed: int) -> Iterator[int]:
    """Bits in every one of these ranges: `count` in each, or one in every byte."""
    chance = random.Random(seed)
    for place in filter(None, places):
        bytes_hit = place if count is None else chance.choices(place, k=count)
        yield from (8 * byte + chance.randrange(8) for byte in bytes_hit)


def test_a_flipped_bit_in_any_record_that_is_read_is_told_by_its_name(
    good: bytes, payload: Payload, config: Config, tmp_path: Path
) -> None:
    (tmp_path / BEST).write_bytes(good)
    path, places = tmp_path / LATEST, spans(good, payload, tmp_path)
    assert len(places["weights"]) == len(payload["model"])
    for bit in flips([*places["notes"], *places["weights"]], 3, seed=0):
        path.write_bytes(flipped(good, bit))
        said = refusal(path, config)
        assert " in it does not match its checksum\n" in said
        assert said.endswith(f"The newest whole one beside it is {tmp_path / BEST}")


def test_what_only_resuming_needs_is_not_read(
    good: bytes, payload: Payload, config: Config, tmp_path: Path
) -> None:
    """Damage in the optimizer or the generators is none of its concern: training finds it."""
    path, places = tmp_path / LATEST, spans(good, payload, tmp_path)
    assert len(places["rest"]) == 4
    for bit in flips(places["rest"], 3, seed=1):
        path.write_bytes(flipped(good, bit))
        _, checkpoint = load_for_inference(path, config, CPU)
        assert (checkpoint.optimizer, checkpoint.rng) == ({}, {})
        with pytest.raises(CheckpointError, match="its bytes do not match its checksum"):
            load_checkpoint(path, config)


def assert_refused_or_equal(path: Path, good: Payload, config: Config) -> bool:
    """Whether a damaged file is refused; it may load where no weight was touched."""
    try:
        _, checkpoint = load_for_inference(path, config, CPU)
    except PipelineError as error:
        assert str(error).startswith(str(path)), error  # noqa: PT017
        return True
    assert checkpoint.model.keys() == good["model"].keys()
    assert all(value.equal(good["model"][name]) for name, value in checkpoint.model.items())
    assert checkpoint.config.model == config.model
    assert (checkpoint.step, checkpoint.run_name) == (3, good["run_name"])
    return False


@pytest.mark.parametrize("is_sealed", [True, False])
def test_no_flipped_bit_anywhere_changes_what_is_loaded(
    good: bytes, payload: Payload, config: Config, tmp_path: Path, is_sealed: bool
) -> None:
    """Headers and the index too, at random places."""
    path, chance = tmp_path / LATEST, random.Random(2)
    whole = good if is_sealed else archive({"model": payload["model"]})
    for _ in range(300 if is_sealed else 100):
        path.write_bytes(flipped(whole, chance.randrange(8 * len(whole))))
        if is_sealed:
            assert_refused_or_equal(path, payload, config)
            continue
        with contextlib.suppress(PipelineError):
            _, checkpoint = load_for_inference(path, config, CPU)
            assert all(v.equal(payload["model"][k]) for k, v in checkpoint.model.items())


def test_a_header_that_moves_a_record_is_told(good: bytes, config: Config, tmp_path: Path) -> None:
    """Its length has no checksum, and a record may come to lie on another that is whole."""
    path = tmp_path / LATEST
    for place in range(9):
        at = good.index(f"archive/data/{place}FB".encode()) - 1  # the length's upper byte
        for bit in range(5):
            path.write_bytes(flipped(good, 8 * at + bit))
            assert " is damaged: " in refusal(path, config)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_flipped_byte_at_all_changes_what_is_loaded(
    good: bytes, payload: Payload, config: Config, tmp_path: Path
) -> None:
    """All bytes but those of the tensors that are left out."""
    path, left_out = tmp_path / LATEST, spans(good, payload, tmp_path)["rest"]
    edges = [0, *(edge for place in left_out for edge in (place.start, place.stop)), len(good)]
    kept = [range(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    refused = 0
    for bit in flips(kept, None, seed=3):
        path.write_bytes(flipped(good, bit))
        refused += assert_refused_or_equal(path, payload, config)
    assert refused > sum(map(len, kept)) // 2


def test_a_file_cut_anywhere_is_refused(good: bytes, config: Config, tmp_path: Path) -> None:
    path = tmp_path / LATEST
    lengths = {*range(0, len(good), len(good) // 150), *range(len(good) - 130, len(good))}
    for length in lengths:
        path.write_bytes(good[:length])
        assert " is damaged: " in refusal(path, config)


def test_a_hole_or_a_tail_is_refused(
    good: bytes, payload: Payload, config: Config, tmp_path: Path
) -> None:
    """What a full disk, a broken download or an overlapping copy leave."""
    path, place = tmp_path / LATEST, spans(good, payload, tmp_path)["weights"][0]
    for content in (
        good[: place.start] + bytes(len(place)) + good[place.stop :],  # zeros
        good[: place.start] + good[place.stop :],
        good[: place.start] + good,
        good + good[:1000],
        bytes(len(good)),
    ):
        path.write_bytes(content)
        assert " is damaged: " in refusal(path, config)


# Other things than whole checkpoints of this model


def test_names_that_leave_the_folder_write_nothing(
    payload: Payload, config: Config, tmp_path: Path
) -> None:
    """A zip file's records are read by name, never unpacked."""
    path, content = tmp_path / "a" / LATEST, archive(payload)
    path.parent.mkdir()
    for name in ("../../canary", "/tmp/../canary", "data/../../canary"):
        seal(with_record(content, name, b"x"), path)
        load_for_inference(path, config, CPU)
    assert [each.name for each in tmp_path.rglob("*")] == ["a", LATEST]


def test_a_compressed_file_is_refused(payload: Payload, config: Config, tmp_path: Path) -> None:
    """Which a memory map cannot show, and which may be a million times what it seems."""
    path = tmp_path / "a.pt"
    path.write_bytes(with_record(archive(payload), "data/0", bytes(44), zipfile.ZIP_DEFLATED))
    assert "is damaged: archive/data.pkl in it is compressed" in refusal(path, config)


def test_two_tensors_may_share_their_numbers(config: Config, tmp_path: Path) -> None:
    path, one = tmp_path / "a.pt", torch.arange(300.0)
    weights = dict(tiny_model(config).state_dict())
    names = [name for name, value in weights.items() if value.shape == (8,)]
    weights |= {name: one[index : index + 8] for index, name in enumerate(names)}
    torch.save(weights, path)
    _, checkpoint = load_for_inference(path, config, CPU)
    assert all(checkpoint.model[name].equal(weights[name]) for name in names)
    content = path.read_bytes()
    path.write_bytes(flipped(content, 8 * (content.index(one.numpy().tobytes()) + 1100)))
    assert "does not match its checksum" in refusal(path, config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "is damaged: it is cut off, or no checkpoint at all"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (os.mkfifo, "is no file, but a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "is no file, but a pipe or a device"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic l"),
        (lambda path: path.symlink_to("absent"), "no such checkpoint"),
        (lambda path: None, "no such checkpoint"),
        (lambda path: path.write_text("{}"), "is damaged: it is cut off, or no checkpoint at all"),
    ],
)
def test_what_is_no_checkpoint_is_named(
    make: Callable[[Path], object], message: str, config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    make(path)
    assert refusal(path, config).startswith(f"{path}: {message}")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read_is_named(good: bytes, config: Config, tmp_path: Path) -> None:
    path = tmp_path / LATEST
    path.write_bytes(good)
    path.chmod(0)
    assert refusal(path, config) == f"{path}: cannot be read: Permission denied"


# Training writes while it is read

WRITER = """
    import sys
    from pathlib import Path
    from tests.small_checkpoint import checkpoint_of, small_config
    from utils.checkpoint import save_checkpoint

    latest, best = Path(sys.argv[1]), Path(sys.argv[2])
    config = small_config(latest.parent)
    checkpoints = [checkpoint_of(config, mark) for mark in (1.0, 2.0)]
    for number in range(10**9):
        checkpoint = checkpoints[number % 2]
        checkpoint.progress = {"step": number % 2 + 1, "validation_loss": None}
        save_checkpoint(checkpoint, latest, [best] if number % 3 == 0 else [])
        if number == 1:
            print("writing", flush=True)
"""


def test_a_checkpoint_that_training_rewrites_is_never_seen_torn(
    config: Config, tmp_path: Path
) -> None:
    latest, best = tmp_path / LATEST, tmp_path / BEST
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(latest), str(best)]
    seen, files = [], set()
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            for number in range(200):
                path = best if number % 4 == 0 else latest
                model, checkpoint = load_for_inference(path, config, CPU)
                assert checkpoint.step is not None
                assert all((weight == checkpoint.step).all() for weight in model.parameters())
                seen.append(checkpoint.step)
                files.add(path.stat().st_ino)
        finally:
            writer.kill()
    assert len(seen) == 200
    assert set(seen) == {1, 2}
    assert len(files) > 3  # it was rewritten all the while


# The script


def answer_of(workspace: Workspace, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    options = ["--config", str(workspace.config_path), "--device", "cpu", "--max-length", "2"]
    return subprocess.run(
        [sys.executable, "Inference.py", "--prompt", "x", "--checkpoint", checkpoint, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_inference_py_refuses_by_name(
    prepared_workspace: Workspace, payload: Payload, good: bytes, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    files = {
        "bomb.pt": archive(placed_bombs(canary, payload)["as the last weight"]),
        "cut.pt": good[:-200],
        "flipped.pt": flipped(good, 8 * spans(good, payload, tmp_path)["weights"][0].start),
        "other tokenizer.pt": good,
        "empty.pt": b"",
    }
    says = {
        "bomb.pt": "nothing in it was run",
        "cut.pt": "is damaged: it is cut off, or no checkpoint at all",
        "flipped.pt": "in it does not match its checksum",
        "other tokenizer.pt": "was trained with another tokenizer (SHA-256 aaaaaaaaaaaaaaaa)",
        "empty.pt": "is damaged: it is cut off, or no checkpoint at all",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        result = answer_of(prepared_workspace, path)
        assert result.returncode == 1
        assert result.stdout == ""
        assert f"error: {path}: " in result.stderr
        assert says[name] in result.stderr
        assert "Traceback" not in result.stderr
        assert "fault of the program" not in result.stderr
    assert not canary.exists()
