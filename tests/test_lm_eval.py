"""EleutherAI's lm-evaluation-harness on an exported checkpoint, with tasks made here.

It needs the extra `eval`. The harness runs in a folder of its own: it imports a package called
evaluate, which in the checkout would be our evaluate.py.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import evaluate
import export
from tests.test_evaluate import Trained
from tests.workspaces import MODEL, Workspace, describe
from utils.articles import cleaned_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval, the extra `eval`"
    ),
]

CHOICES = ["the river", "a small stone bridge", "light, water and music 漢字"]
QUESTIONS = ["In the north was", "They built", "Early in the century people made", "The number of"]
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/{name}.jsonl
test_split: test
"""
ROLLING = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""
CHOICE = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_workspace: Workspace) -> Trained:
    return Trained(describe(tmp_path_factory.mktemp("lm_eval"), prepared_workspace.folder))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    config = ["--config", str(trained.workspace.config_path)]
    export.main([str(trained.path), "--to", "hf", str(folder), *config])
    return folder


def run_harness(
    exported: Path, folder: Path, task: str, records: Sequence[Mapping[str, object]], bos: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's results, and what was logged of each record, in order."""
    name = "local_task"
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, folder=folder) + task)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    length = MODEL["max_position_embeddings"]
    arguments = {
        "--model": "hf",
        "--model_args": f"pretrained={exported},dtype=float32,max_length={length},"
        f"add_bos_token={bos}",
        "--device": "cpu",
        "--tasks": name,
        "--include_path": str(folder),
        "--output_path": str(folder / "results"),
        "--batch_size": "4",
    }
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *sum(arguments.items(), ()), "--log_samples"],
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = (folder / "results").rglob("results_*.json")
    (samples,) = (folder / "results").rglob("samples_*.jsonl")
    logged = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(results.read_text())["results"][name], sorted(
        logged, key=lambda sample: int(sample["doc_id"])
    )


def test_bits_per_byte_are_those_of_evaluate(
    trained: Trained, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On texts that fit the window: its longer ones are cut into windows in another way."""
    path = cleaned_files(trained.config.paths.cleaned_dir)[0]
    texts = [line[:40] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    texts += ["Zürich, 漢字", "  two  spaces ", "</s> is text"]
    assert max(len(trained.tokenizer.encode(text)) for text in texts) < 32
    cleaned = tmp_path / "cleaned_short.txt"
    cleaned.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    config = ["--config", str(trained.workspace.config_path), "--device", "cpu"]
    evaluate.main([str(trained.path), "--text", str(cleaned), "--json", *config])
    ours = json.loads(capsys.readouterr().out)
    records = [{"text": text.replace("\u2029", "\n")} for text in texts]
    results, _ = run_harness(exported, tmp_path, ROLLING, records, bos=False)
    assert ours["documents"] == len(texts)
    assert results["bits_per_byte,none"] == pytest.approx(ours["bits_per_byte"], rel=1e-5)


def test_multiple_choice_takes_what_our_model_finds_likeliest(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    records = [
        {"question": question, "choices": CHOICES, "answer": number % len(CHOICES)}
        for number, question in enumerate(QUESTIONS)
    ]
    results, samples = run_harness(exported, tmp_path, CHOICE, records, bos=True)
    right = 0
    for record, sample in zip(records, samples, strict=True):
        expected = [log_likelihood(trained, str(record["question"]), text) for text in CHOICES]
        found = [float(response[0]) for response in sample["filtered_resps"]]
        assert found == pytest.approx(expected, abs=1e-3)
        right += expected.index(max(expected)) == record["answer"]
    assert results["acc,none"] == pytest.approx(right / len(records))


def log_likelihood(trained: Trained, question: str, choice: str) -> float:
    """ln p of a choice behind a question that begins the text, by model.py."""
    tokenizer = trained.tokenizer
    context = [tokenizer.bos_id, *tokenizer.encode(question)]
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(f"{question} {choice}")]])
    with torch.no_grad():
        logits = trained.model(ids)["logits"]
    nats = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
    return -nats[len(context) - 1 :].sum().item()
