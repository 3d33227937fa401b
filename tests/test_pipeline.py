"""The whole way as a user goes it: the scripts one after another, as processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workspaces import articles, describe
from utils.errors import PipelineError, UsageError

SCRIPTS = ("cleaner.py", "tokenizer.py", "dataset_prep.py", "train.py", "Inference.py")


def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "\033" not in result.stdout + result.stderr, "no escape codes outside a terminal"
    return result


def test_from_raw_text_to_generated_text(tmp_path: Path) -> None:
    """Raw JSONL to continued prompt through every script; stdout carries nothing but results."""
    raw = tmp_path / "raw" / "wiki_0.jsonl"
    raw.parent.mkdir()
    raw.write_text("".join(json.dumps(record) + "\n" for record in articles(1, 30)))
    options = ["--config", str(describe(tmp_path, tmp_path, batch_size=8, max_steps=6).config_path)]
    assert not run("cleaner.py", *options).stdout
    run("-m", "demo.train_tokenizer", *options)
    assert "vocabulary: 400 tokens" in run("tokenizer.py", *options).stdout
    encoded = run("tokenizer.py", *options, "--encode", "the river").stdout
    ids = encoded.splitlines()[0].removeprefix("ids: ")
    assert run("tokenizer.py", *options, "--decode", ids).stdout == "the river\n"
    for test in ([], ["--test"]):
        assert not run("dataset_prep.py", *options, *test).stdout
        assert not run("train.py", *options, *test, "--device", "cpu").stdout
    prompt = ["--prompt", "The river", "--max-length", "8", "--seed", "3", "--device", "cpu"]
    generate = ["Inference.py", *options, "--run", "latest", "--checkpoint", "best", *prompt]
    first, second = run(*generate), run(*generate)
    assert first.stdout == second.stdout
    assert first.stdout.startswith("The river")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_wrong_flags(script: str) -> None:
    """`--help` explains every flag and exits 0; an unknown flag exits 2."""
    explained = run(script, "--help").stdout
    assert "--config" in explained
    assert "SECTION.KEY=VALUE" in explained
    assert "--no-such-flag" in run(script, "--no-such-flag", code=UsageError.exit_code).stderr


def test_a_wrong_configuration_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"training": {"batchsize": 4}, "cleaner": {"workers": 0}}')
    said = run("cleaner.py", "--config", str(path), code=PipelineError.exit_code).stderr
    assert "config.json has 2 problems" in said
    assert "training.batchsize: unknown key. Did you mean training.batch_size?" in said
    assert "cleaner.workers" in said
