"""bench/generate.py: what it shows, and what it refuses."""

import json
from pathlib import Path

import pytest

import bench.generate
from tests.tiny import TINY_MODEL
from utils.errors import UsageError

OPTIONS = ["--device", "cpu", "--repeats", "1", "--commit", "none", "--no-hugging-face"]


def config_in(folder: Path, positions: int) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"model": {**TINY_MODEL, "max_position_embeddings": positions}}))
    return str(path)


def test_it_shows_every_batch_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_in(tmp_path, positions=64)
    bench.generate.main(["--config", config, *OPTIONS, "--rows", "1", "3", "--tokens", "4"])
    out = capsys.readouterr().out
    values = json.loads(out.splitlines()[-1])
    assert list(values["rows"]) == ["1", "3"]
    assert list(values["rows"]["3"]) == [bench.generate.OURS]
    assert "First token of a prompt of 32 tokens" in " ".join(out.split())
    assert "| ours, batch 3 |" in out


def test_texts_that_leave_the_window_are_refused(tmp_path: Path) -> None:
    config = config_in(tmp_path, positions=64)
    with pytest.raises(UsageError, match="--tokens 49: with a prompt of 16 that is more than"):
        bench.generate.main(["--config", config, *OPTIONS, "--tokens", "49"])
