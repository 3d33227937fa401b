"""utils/sides.py: tokens and windows of both sides, whatever the sizes of files and chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_tokens import RECIPE, make_dataset
from utils import sides
from utils.errors import DatasetError
from utils.sides import Side, load_sides, reading_bytes, split_sides
from utils.token_files import DatasetMetadata, documents_path_of, read_stream

CPU = torch.device("cpu")
SIZES = [(30,), (20, 0, 35), (1, 60, 2, 3, 40, 0), (9, 8, 7, 6, 5, 4, 3, 2, 1)]


def plainly(folder: Path, metadata: DatasetMetadata, side: Side) -> tuple[Tensor, Tensor]:
    """All files in memory, one stretch after the other."""
    tokens: list[int] = []
    starts: list[int] = []
    for file, spans in zip(metadata.files, side.spans, strict=True):
        stream, _ = read_stream(folder, metadata, file)
        starts += (spans.window_starts + len(tokens)).tolist()
        for begin, end in zip(spans.begins, spans.ends, strict=True):
            tokens += stream[begin:end].tolist()
    return torch.tensor(tokens, dtype=torch.uint16), torch.tensor(starts)


def check(folder: Path, metadata: DatasetMetadata, seed: int, device: torch.device) -> None:
    train, val = split_sides(folder, metadata, 0.3, seed)
    loaded = load_sides(folder, metadata, [(train, device), (val, CPU)])
    for side, (stream, starts) in zip((train, val), loaded, strict=True):
        expected_stream, expected_starts = plainly(folder, metadata, side)
        assert stream.dtype == torch.uint16
        assert torch.equal(stream.cpu().view(torch.int16), expected_stream.view(torch.int16))
        assert torch.equal(starts.cpu(), expected_starts)
        assert len(stream) == side.tokens
        assert len(starts) == side.windows
        assert side.memory_bytes == stream.nbytes + starts.nbytes


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 24])
def test_sides_are_what_copying_stretch_by_stretch_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], chunk: int
) -> None:
    monkeypatch.setattr(sides, "CHUNK_TOKENS", chunk)
    metadata = make_dataset(tmp_path, *sizes)
    for seed in range(3):
        check(tmp_path, metadata, seed, CPU)


def test_ids_above_int16_survive(tmp_path: Path) -> None:
    """uint16 ids from 32,768 on are negative as int16, the type in which they are copied."""
    stream = np.array([0, 32_767, 32_768, 65_535], np.uint16)
    joined = torch.empty(4, dtype=torch.int16)
    sides._concatenate([stream[2:], stream[:2]], joined)
    assert joined.view(torch.uint16).tolist() == [32_768, 65_535, 0, 32_767]


def test_few_files_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = make_dataset(tmp_path, *range(20, 30))
    started: list[str] = []

    def counted(folder: Path, metadata: DatasetMetadata, file: object) -> object:
        started.append("a file")
        return np.empty(0, np.uint16), np.empty(0, np.int64)

    monkeypatch.setattr(sides, "read_stream", counted)
    for done, _ in enumerate(sides._streams(tmp_path, metadata)):
        assert len(started) <= done + sides.READERS
    assert len(started) == 10
    largest = sorted((file.tokens for file in metadata.files), reverse=True)
    assert reading_bytes(metadata) == 2 * sum(largest[: sides.READERS + 1])


def test_damaged_documents_are_refused_before_a_token_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = make_dataset(tmp_path, 30, 30)
    monkeypatch.setattr(sides, "read_stream", None)
    path = documents_path_of(tmp_path, metadata.files[1].stem)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{path.name}: its contents were changed"):
        split_sides(tmp_path, metadata, 0.3, 0)


@pytest.mark.cuda
@pytest.mark.parametrize("chunk", [7, 1 << 24])
def test_sides_on_the_gpu_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(sides, "CHUNK_TOKENS", chunk)
    assert RECIPE.window == 8
    metadata = make_dataset(tmp_path, 60, 0, 200)
    check(tmp_path, metadata, 0, torch.device("cuda"))
