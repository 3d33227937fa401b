"""evaluate.py: its figures against Hugging Face's model and guide, and its command line."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import evaluate
from dataloader import create_simple_train_val_dataloaders
from model import LanguageModel
from tests.conftest import REPOSITORY
from tests.small_text import VOCABULARY
from tests.test_model import hugging_face_twin
from tests.workspaces import Workspace, describe
from tokenizer import CodeLlamaTokenizer
from utils.articles import cleaned_files
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.config import Config
from utils.config_file import override
from utils.errors import CheckpointError, DataError, DeviceError, TokenizerError, UsageError
from utils.evaluating.documents import Candidate, DatasetFolder, Documents
from utils.evaluating.report import Result, emit_table
from utils.evaluation import Evaluation
from utils.inference_model import InferenceModel
from utils.runs import BEST, LATEST
from utils.token_files import read_metadata

RUN = "run_2026_01_01_10_00"
TEXT = (
    "The river rises in the north.\r\n\n  Zürich, 漢字 and 🧑🏽‍🚀: \u2029"
    + "".join(f"light {number} over water, " for number in range(40))
    + "</s>\n"
)
Run = Callable[..., tuple[str, str]]


def make_model(config: Config, seed: int) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def write_checkpoint(workspace: Workspace, path: Path, seed: int, step: int) -> LanguageModel:
    model = make_model(workspace.config, seed)
    tokenizer = CodeLlamaTokenizer.load(workspace.config.paths.tokenizer_dir, workspace.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(
        workspace.config,
        model.state_dict(),
        progress={"step": step},
        tokenizer_sha256=tokenizer.sha256,
        dataset_fingerprint=read_metadata(workspace.config.paths.dataset_dir).fingerprint,
    )
    save_checkpoint(checkpoint, path)
    return model


class Trained:
    """A run of two checkpoints on the small corpus."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.config = workspace, workspace.config
        self.run_folder = self.config.paths.checkpoint_dir / RUN
        self.path, self.other_path = self.run_folder / BEST, self.run_folder / LATEST
        self.model = write_checkpoint(workspace, self.path, seed=1, step=100)
        write_checkpoint(workspace, self.other_path, seed=2, step=200)
        folder = self.config.paths.tokenizer_dir
        self.tokenizer = CodeLlamaTokenizer.load(folder, self.config)

    def reference(self, texts: Iterable[Sequence[int]], window: int, stride: int) -> float:
        """Nats of texts, each behind <s>, as Hugging Face's guide to perplexity adds them up.

        Its loop, with its own model: https://huggingface.co/docs/transformers/perplexity
        """
        twin = hugging_face_twin(self.model)
        nats = 0.0
        for text in texts:
            ids = torch.tensor([[self.tokenizer.bos_id, *text]])
            previous_end = 0
            for begin in range(0, ids.size(1), stride):
                end = min(begin + window, ids.size(1))
                target_ids = ids[0, begin:end].clone()
                target_ids[: previous_end - end] = -100
                target_ids[:1] = -100
                with torch.no_grad():
                    logits = twin(ids[:, begin:end]).logits[0]
                nats += F.cross_entropy(logits[:-1], target_ids[1:], reduction="sum").item()
                previous_end = end
                if end == ids.size(1):
                    break
        return nats


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_workspace: Workspace) -> Trained:
    return Trained(describe(tmp_path_factory.mktemp("evaluate"), prepared_workspace.folder))


@pytest.fixture
def run(trained: Trained, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs main in this process; gives its stdout and stderr."""

    def call(*arguments: object) -> tuple[str, str]:
        shared = ["--config", str(trained.workspace.config_path), "--device", "cpu"]
        evaluate.main([*map(str, arguments), *shared])
        captured = capsys.readouterr()
        return captured.out, captured.err

    return call


def figures(out: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(out)
    return values


def result_of(number: int, bits_per_byte: float) -> Result:
    """A row of the table."""
    return Result(
        label=f"{number}.pt",
        path=Path(f"{number}.pt"),
        step=None,
        evaluation=Evaluation(loss=3.0, bits_per_byte=bits_per_byte),
        documents=1,
        tokens=10,
        text_bytes=30,
        text=Path("text.txt"),
        choice="all text",
        window=32,
        stride=16,
        tokenizer_sha256="a" * 64,
        quantize=None,
        device="cpu",
        seconds=1.0,
    )


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.mark.parametrize(
    ("options", "window", "stride"),
    [
        ([], 32, 16),
        (["--stride", 1, "--batch-size", 7], 32, 1),
        (["--stride", 31, "--batch-size", 1], 32, 31),
        (["--window", 20, "--stride", 13], 20, 13),
        (["--window", 2], 2, 1),
    ],
)
def test_figures_are_those_of_hugging_faces_guide(
    run: Run, trained: Trained, text_file: Path, options: list[object], window: int, stride: int
) -> None:
    found = figures(run(trained.path, "--text", text_file, "--json", *options)[0])
    ids = trained.tokenizer.encode(TEXT)
    nats = trained.reference([ids], window, stride)
    assert found["tokens"] == len(ids)
    assert found["bytes"] == len(TEXT.encode())
    assert found["loss"] == pytest.approx(nats / len(ids), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / len(ids)), rel=1e-4)
    expected_bits = nats / math.log(2) / len(TEXT.encode())
    assert found["bits_per_byte"] == pytest.approx(expected_bits, rel=1e-5)
    assert (found["window"], found["stride"], found["step"]) == (window, stride, 100)


def test_quantized_weights_are_evaluated_as_such(
    run: Run, trained: Trained, text_file: Path
) -> None:
    plain = figures(run(trained.path, "--text", text_file, "--json")[0])
    found = figures(run(trained.path, "--text", text_file, "--quantize", "int8", "--json")[0])
    assert (plain["quantize"], found["quantize"]) == (None, "int8")
    assert found["loss"] == pytest.approx(plain["loss"], rel=0.02)
    assert found["loss"] != plain["loss"]


@pytest.mark.parametrize("stride", [3, 16])
def test_an_article_of_cleaned_text_is_a_document(run: Run, trained: Trained, stride: int) -> None:
    path = cleaned_files(trained.config.paths.cleaned_dir)[0]
    articles = [
        line.replace("\u2029", "\n") for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    found = figures(run(trained.path, "--text", path, "--stride", stride, "--json")[0])
    texts = [trained.tokenizer.encode(article) for article in articles]
    count = sum(map(len, texts))
    assert (found["documents"], found["tokens"]) == (len(articles), count)
    assert found["bytes"] == sum(len(article.encode()) for article in articles)
    assert found["loss"] == pytest.approx(trained.reference(texts, 32, stride) / count, rel=1e-5)


def test_a_dataset_is_scored_as_its_text_is(run: Run, trained: Trained) -> None:
    dataset = trained.config.paths.dataset_dir
    out, err = run(trained.path, "--dataset", dataset, "--all", "--json")
    found = figures(out)
    metadata = read_metadata(dataset)
    assert found["documents"] == metadata.articles
    assert found["tokens"] == metadata.text_tokens
    assert found["bytes"] == metadata.utf8_bytes
    (path,) = cleaned_files(trained.config.paths.cleaned_dir)
    same = figures(run(trained.path, "--text", path, "--json")[0])
    assert found["loss"] == same["loss"]
    assert "documents that it was trained on are evaluated too" in err


def test_by_default_held_out_documents_are_scored(run: Run, trained: Trained) -> None:
    out, err = run(trained.path, "--json")
    found = figures(out)
    dataset = trained.config.paths.dataset_dir
    assert f"Neither --text nor --dataset: taking {dataset}" in err
    assert "warning" not in err
    assert found["choice"] == "validation documents of split 0.1, seed 42"
    checkpoint = Checkpoint(trained.config, {})
    source = DatasetFolder(dataset, None, everything=False)
    documents = source.documents(Candidate(checkpoint, trained.tokenizer))
    assert found["tokens"] == documents.text_tokens == len(documents.ids) - found["documents"]
    train, val, _ = create_simple_train_val_dataloaders(
        batch_size=1, config=trained.config, device="cpu", verbose=False
    )
    ends = documents.offsets[1:]
    each = [
        [*documents.ids[begin:end].tolist(), trained.tokenizer.eos_id]
        for begin, end in zip(documents.offsets[:-1], ends, strict=True)
    ]
    joined = "".join("".join(map(chr, ids)) for ids in each)
    trained_on = "".join(map(chr, train.windows.stream.tolist()))
    assert all("".join(map(chr, window.tolist())) in joined for (window,) in val)
    assert not any("".join(map(chr, ids[:32])) in trained_on for ids in each)


def test_only_the_first_tokens_are_scored(run: Run, trained: Trained) -> None:
    path = cleaned_files(trained.config.paths.cleaned_dir)[0]
    articles = [
        line.replace("\u2029", "\n") for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]
    first, second = (trained.tokenizer.encode(article) for article in articles[:2])
    count = len(first) + 5
    found = figures(run(trained.path, "--text", path, "--max-tokens", count, "--json")[0])
    assert (found["tokens"], found["documents"]) == (count, 2)
    assert found["loss"] * count == pytest.approx(
        trained.reference([first, second[:5]], 32, 16), rel=1e-5
    )
    assert found["bytes"] == len((articles[0] + trained.tokenizer.decode(second[:5])).encode())


def test_several_checkpoints_make_a_table_with_the_best_marked(
    run: Run, trained: Trained, text_file: Path
) -> None:
    out, err = run("latest", BEST, "--run", "latest", "--text", text_file)
    header, *rows = out.splitlines()
    assert header.split() == [
        *("checkpoint", "step", "tokens", "bytes", "loss", "perplexity", "bits/byte"),
    ]
    assert [row.split()[:2] for row in rows] == [[LATEST, "200"], [BEST, "100"]]
    bits = [float(row.split()[6]) for row in rows]
    marked = [row.endswith("best") for row in rows]
    assert marked.index(True) == bits.index(min(bits))
    assert marked.count(True) == 1
    assert "warning" not in err
    lines = run("all", "--run", RUN, "--text", text_file, "--json")[0].splitlines()
    assert [round(figures(line)["bits_per_byte"], 4) for line in lines] == bits
    alone, _ = run(trained.path, "--text", text_file)
    assert "best" not in alone.replace(BEST, "")


@pytest.mark.parametrize(
    ("bits", "best"),
    [
        ([2.0, 1.0, 1.0], [1, 2]),
        ([1.0, 1.0], [0, 1]),
        ([math.nan, 3.0, math.inf], [1]),
        ([math.nan, math.nan], []),
        ([1.0], []),
    ],
)
def test_all_that_are_best_are_marked(
    bits: list[float], best: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    emit_table([result_of(number, each) for number, each in enumerate(bits)])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [number for number, row in enumerate(rows) if row.endswith("best")] == best


def test_models_of_different_tokenizers_are_compared_by_bits(
    run: Run,
    trained: Trained,
    text_file: Path,
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is read with the tokenizer that its own configuration names."""
    config = override(
        trained.config,
        {"model.vocab_size": VOCABULARY, "paths.tokenizer_dir": str(tiny_tokenizer_dir)},
    )
    tokenizer = CodeLlamaTokenizer.load(tiny_tokenizer_dir, config)
    path = tmp_path / "other.pt"
    weights = make_model(config, seed=3).state_dict()
    save_checkpoint(Checkpoint(config, weights, tokenizer_sha256=tokenizer.sha256), path)
    out, err = run(trained.path, path, "--text", text_file, "--json")
    ours, theirs = map(figures, out.splitlines())
    assert ours["bytes"] == theirs["bytes"] == len(TEXT.encode())
    assert theirs["tokens"] == len(tokenizer.encode(TEXT)) != ours["tokens"]
    assert "these models have different tokenizers" in err
    assert "not evaluated on the same text" not in err
    _, err = run(trained.path, path, "--text", text_file, "--max-tokens", 20)
    assert "--max-tokens cut it differently" in err
    with pytest.raises(CheckpointError, match=r"other.pt: has another tokenizer than .*dataset"):
        run(path)
    with pytest.raises(CheckpointError, match=r"not evaluated: .*other\.pt"):
        run(path, trained.path)
    out, err = capsys.readouterr()
    assert "other.pt: has another tokenizer than" in err
    assert len(out.splitlines()) == 2


def test_other_splits_and_other_datasets_are_said(
    run: Run, trained: Trained, tmp_path: Path
) -> None:
    path = tmp_path / "other.pt"
    config = override(trained.config, {"dataloader.seed": 7})
    weights = trained.model.state_dict()
    sha256 = trained.tokenizer.sha256
    save_checkpoint(Checkpoint(config, weights, tokenizer_sha256=sha256), path)
    _, err = run(trained.path, path)
    assert f"{tmp_path.name}/other.pt: was not trained on" in err
    assert "split 0.1, seed 42; validation documents of split 0.1, seed 7" in err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no tokens to predict"),
        (b"good \xff bad", "not UTF-8 text, at byte 5"),
    ],
)
def test_text_without_tokens_is_refused(
    run: Run, trained: Trained, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.txt: {problem}"):
        run(trained.path, "--text", path)


def test_a_folder_is_no_text(run: Run, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder, not a text\n.*--dataset FOLDER"):
        run(trained.path, "--text", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", "32"], r"--stride 32 must be below the window of .*best.pt, 32 tokens"),
        (["--stride", "0"], "--stride must be 1 or more, not 0"),
        (["--window", "33"], r"--window 33: .*best.pt has only 32 positions"),
        (["--batch-size", "0"], "--batch-size must be 1 or more"),
        (["--max-tokens", "-1"], "--max-tokens must be 1 or more"),
        (["--all"], "--all is for a dataset"),
    ],
)
def test_what_cannot_be_is_wrong_usage(
    run: Run, trained: Trained, text_file: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(trained.path, "--text", text_file, *options)


def test_a_broken_checkpoint_is_named_before_another_is_scored(
    run: Run, trained: Trained, text_file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(trained.path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match=r"broken.pt: is damaged"):
        run(trained.path, broken, "--text", text_file)


def test_a_bit_flipped_in_weights_does_not_end_the_others(
    run: Run, trained: Trained, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(trained.path.read_bytes())
    weights = trained.model.token_embedding.weight.detach().numpy().tobytes()
    content[content.index(weights) + 5] ^= 1  # a quick look does not see it
    flipped = tmp_path / "flipped.pt"
    flipped.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not evaluated: .*flipped\.pt"):
        run(flipped, trained.path, "--text", text_file)
    out, err = capsys.readouterr()
    assert "flipped.pt: is damaged" in err
    assert "checkpoint_best.pt" in out


def test_a_tokenizer_that_does_not_fit_does_not_end_the_others(
    run: Run, trained: Trained, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = override(trained.config, {"model.vocab_size": 401})
    path = tmp_path / "misfit.pt"
    sha256 = trained.tokenizer.sha256
    save_checkpoint(
        Checkpoint(config, make_model(config, 4).state_dict(), tokenizer_sha256=sha256), path
    )
    with pytest.raises(TokenizerError, match=r"400 tokens, but model\.vocab_size is 401"):
        run(path, "--text", text_file)
    capsys.readouterr()
    with pytest.raises(CheckpointError, match=r"not evaluated: .*misfit\.pt"):
        run(path, trained.path, "--text", text_file)
    out, err = capsys.readouterr()
    assert "it has 400 tokens, but model.vocab_size is 401" in err
    assert BEST in out


def test_a_width_that_int4_cannot_divide_does_not_end_the_others(
    run: Run, trained: Trained, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = override(trained.config, {"model.hidden_size": 64})
    path = tmp_path / "wide.pt"
    save_checkpoint(Checkpoint(config, make_model(config, 5).state_dict()), path)
    with pytest.raises(CheckpointError, match=rf"not evaluated: .*{BEST} int4"):
        run(trained.path, path, "--text", text_file, "--quantize", "int4")
    assert "wide.pt int4" in capsys.readouterr().out


def test_too_little_memory_is_named_and_nothing_measured_is_lost(
    run: Run,
    trained: Trained,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Documents] = []

    def total_nats(model: InferenceModel, documents: Documents, *rest: object) -> float:
        calls.append(documents)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 7.0

    monkeypatch.setattr(evaluate, "total_nats", total_nats)
    with pytest.raises(DeviceError, match="not enough memory for batches of 4 windows") as caught:
        run(trained.path, trained.other_path, "--text", text_file)
    assert "--batch-size" in caught.value.hint
    assert calls[0] is calls[1], "the text is tokenized once"
    assert BEST in capsys.readouterr().out


def test_ctrl_c_ends_it_with_130(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 300)
    command = [sys.executable, "evaluate.py", trained.path, "--text", path, "--stride", "1"]
    process = subprocess.Popen(
        [*map(str, command), "--config", trained.workspace.config_path, "--device", "cpu"],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if re.search(r"Evaluating .*tokens/s, .* left", line):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in rest
