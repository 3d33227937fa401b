"""utils/checkpoint.py and utils/runs.py: damage is found, named, and a whole file offered."""

import os
import random
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_checkpoint, tiny_config
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import Config
from utils.errors import CheckpointError
from utils.runs import BEST, LATEST, find_checkpoint, newest_whole, step_name
from utils.sealing import TRAILER_BYTES


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


KINDS = (LATEST, BEST, step_name(3))


def refusal(path: Path, config: Config) -> str:
    """What loading a damaged file says of it; fails if it loads, or if it is not named."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, config)
    assert caught.value.what.startswith(f"{path}: is damaged: ")
    return str(caught.value)


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def spoil(path: Path) -> None:
    """Flip a bit in the middle; the file's age stays."""
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(flipped(content, 8 * (len(content) // 2)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def regions(content: bytes) -> dict[str, range]:
    """The bytes of a sealed checkpoint by what they are."""
    weights = content.index(torch.full((64,), 0.5).numpy().tobytes())
    index = content.index(b"PK\1\2")
    end, trailer = content.rindex(b"PK\5\6"), len(content) - TRAILER_BYTES
    return {
        "first header": range(30),
        "pickled structure": range(content.index(b"\x80\x02}"), weights - 128),
        "weights": range(weights, weights + 256),
        "index": range(index, end),
        "end of the index": range(end, trailer - 2),
        "length of the seal": range(trailer - 2, trailer),
        "seal": range(trailer, len(content)),
    }


def write_run(folder: Path, config: Config) -> None:
    """A run's folder with three files of their own."""
    for name in KINDS:
        save_checkpoint(tiny_checkpoint(config), folder / name)


@pytest.mark.parametrize("name", KINDS)
def test_damage_anywhere_is_named_and_a_whole_file_offered(
    config: Config, tmp_path: Path, name: str
) -> None:
    write_run(tmp_path, config)
    path = tmp_path / name
    whole = path.read_bytes()
    chance = random.Random(0)
    damaged = {
        f"{region} {number}": flipped(whole, chance.choice(places) * 8 + chance.randrange(8))
        for region, places in regions(whole).items()
        for number in range(5)
    }
    for share in (0.0, 0.01, 0.3, 0.5, 0.99):
        damaged[f"cut at {share}"] = whole[: int(share * len(whole))]
    for cut in (1, 2, 50, TRAILER_BYTES - 1, TRAILER_BYTES, TRAILER_BYTES + 1, TRAILER_BYTES + 2):
        damaged[f"{cut} bytes short"] = whole[:-cut]
    damaged["longer"] = whole + b"\0"
    for where, content in damaged.items():
        path.write_bytes(content)
        offered = refusal(path, config).rpartition("The newest whole one beside it is ")[2]
        assert offered in {str(tmp_path / other) for other in KINDS if other != name}, where
        assert load_checkpoint(Path(offered), config).step == 3


def test_a_folder_stands_for_its_newest_whole_checkpoint(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [LATEST, step_name(30), BEST, step_name(10)]  # from new to old
    for age, name in enumerate(names):
        save_checkpoint(tiny_checkpoint(config), tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    save_checkpoint(tiny_checkpoint(config), tmp_path / "mine.pt")
    broken: list[str] = []
    for name in [*names, "mine.pt"]:
        assert find_checkpoint(tmp_path) == newest_whole(tmp_path) == tmp_path / name
        said = capsys.readouterr().err
        assert [other for other in names if f"{tmp_path / other}: is damaged: " in said] == broken
        spoil(tmp_path / name)
        broken.append(name)
    message = f"{tmp_path}: none of its checkpoints is whole: {', '.join(broken)}\n  Start a new"
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(tmp_path)
    hint = f"None of the others in {tmp_path} is whole either: {', '.join(broken[1:])}"
    assert hint in refusal(tmp_path / LATEST, config)


def test_what_is_offered_is_not_just_any_other_file(config: Config, tmp_path: Path) -> None:
    """Two broken files and a whole older one: the older one is offered."""
    write_run(tmp_path, config)
    for name in (LATEST, BEST):
        os.utime(tmp_path / name, (2e9, 2e9))
        spoil(tmp_path / name)
    assert refusal(tmp_path / LATEST, config).endswith(f"beside it is {tmp_path / step_name(3)}")


def test_a_flipped_weight_is_told_by_the_checksum(config: Config, tmp_path: Path) -> None:
    path = tmp_path / LATEST
    save_checkpoint(tiny_checkpoint(config), path)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 8 * whole.index(torch.full((64,), 0.5).numpy().tobytes())))
    torch.load(path, weights_only=True)  # which notices nothing
    assert "its bytes do not match its checksum" in refusal(path, config)
    assert "There is no other checkpoint in" in refusal(path, config)
    path.write_bytes(whole[:-50])
    assert "its checksum is missing" in refusal(path, config)


def write_unsealed(path: Path) -> dict[str, torch.Tensor]:
    weights = {"weight": torch.full((64,), 0.5), "bias": torch.arange(9.0)}
    torch.save({"model": weights}, path)
    return weights


def test_a_flipped_bit_in_another_programs_file_is_told_by_the_zips_own_checksum(
    config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "old.pt"
    write_unsealed(path)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 8 * whole.index(torch.full((64,), 0.5).numpy().tobytes())))
    assert "/data/0 in it does not match its checksum" in refusal(path, config)
    assert newest_whole_or_none(tmp_path) is None
    path.write_bytes(whole)
    assert newest_whole_or_none(tmp_path) == path


def newest_whole_or_none(folder: Path) -> Path | None:
    try:
        return newest_whole(folder)
    except CheckpointError:
        return None


@pytest.mark.slow
def test_every_byte_of_a_sealed_file_counts(config: Config, tmp_path: Path) -> None:
    path = tmp_path / LATEST
    save_checkpoint(tiny_checkpoint(config), path)
    whole = path.read_bytes()
    chance = random.Random(1)
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, 8 * place + chance.randrange(8)))
        refusal(path, config)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        refusal(path, config)


@pytest.mark.slow
def test_no_damage_of_an_unsealed_file_changes_a_weight(config: Config, tmp_path: Path) -> None:
    """Padding and dates in its zip headers are under no checksum, and hold nothing."""
    path = tmp_path / "old.pt"
    weights = write_unsealed(path)
    whole = path.read_bytes()
    contents = [flipped(whole, bit) for bit in range(8 * len(whole))]
    contents += [whole[:length] for length in range(len(whole))]
    refused = 0
    for content in contents:
        path.write_bytes(content)
        try:
            loaded = load_checkpoint(path, config)
        except CheckpointError:
            refused += 1
            continue
        assert all(loaded.model[name].equal(value) for name, value in weights.items())
    assert refused > len(contents) // 2
