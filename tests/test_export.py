"""export.py --to hf: transformers as the judge; and what keeps an export whole."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    pipeline,
)

import export
from tests.conftest import REPOSITORY
from tests.small_text import VOCABULARY
from tests.trained_models import RUN, Trained, write_trained
from utils.environment import git_commit
from utils.errors import BusyError, CheckpointError, PipelineError, UsageError
from utils.exporting.staging import staged
from utils.runs import LATEST
from utils.tokenizer_files import TOKENIZER_FILE

TEXTS = [
    "Hello world",
    "  two  spaces\n\tand a tab",
    "</s> and <s> are text, <unk> too: a</s>b",
    "漢字 العربية 🧑🏽‍🚀\x00\x7f\u2029",
    "",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Trained:
    return write_trained(tmp_path_factory.mktemp("trained"), tiny_tokenizer_dir, VOCABULARY)


@pytest.fixture(scope="module")
def folder(trained: Trained) -> Path:
    """An export: read only."""
    target = trained.folder / "exported"
    export.main(trained.export("hf", target))
    return target


def logits_of(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    return logits


# The folder in Hugging Face's hands


def test_logits_are_those_of_the_checkpoint(folder: Path, trained: Trained) -> None:
    ids = torch.randint(0, VOCABULARY, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = trained.model(ids)["logits"]
    found = logits_of(folder, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_training(text: str, folder: Path, trained: Trained) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ours = trained.tokenizer.encode(text)
    assert tokenizer(text)["input_ids"] == [trained.tokenizer.bos_id, *ours]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ours
    assert tokenizer.decode(ours, skip_special_tokens=True) == text


def test_ids_of_codellama_survive(shared_dir: Path, tmp_path: Path) -> None:
    trained = write_trained(tmp_path, shared_dir / "tokenizers" / "codellama_hub_files", 32_016)
    export.main(trained.export("hf", tmp_path / "exported"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in (*TEXTS, "▁<PRE> x ▁<EOT>"):
        assert tokenizer(text)["input_ids"] == [1, *trained.tokenizer.encode(text)]
    assert tokenizer("Hello world")["input_ids"] == [1, 15043, 3186]


def test_the_cards_example_runs_and_says_what_the_checkpoint_does(
    folder: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    code = code.replace("this folder, or its name on the Hub", str(folder))
    exec(code.replace("(**", "(do_sample=False, max_new_tokens=20, **"))
    prompt = trained.model.config.training.sample_prompts[0]
    ids = [trained.tokenizer.bos_id, *trained.tokenizer.encode(prompt)]
    expected = trained.tokenizer.decode(ids + trained.greedy(ids, 20))
    assert capsys.readouterr().out.rstrip("\n") == expected


def test_pipeline_continues_as_the_checkpoint_does(folder: Path, trained: Trained) -> None:
    generate = pipeline("text-generation", str(folder))
    answer: Any = generate("The river", do_sample=False, return_tensors=True, max_new_tokens=20)
    prompt = [trained.tokenizer.bos_id, *trained.tokenizer.encode("The river")]
    new_ids = answer[0]["generated_token_ids"][len(prompt) :]
    assert new_ids == trained.greedy(prompt, 20)[: len(new_ids)]
    assert len(new_ids) == 20 or new_ids[-1] == trained.tokenizer.eos_id


def test_pipeline_samples_to_the_last_position_and_no_further(folder: Path) -> None:
    generate = pipeline("text-generation", str(folder))
    answer = generate(["The river", "A library keeps books"], return_tensors=True)
    assert all(len(row[0]["generated_token_ids"]) <= 64 for row in answer)


def test_every_key_of_the_configuration_is_known_to_gpt2(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_bytes())
    assert values.pop("n_ctx") == 64  # for llama.cpp's converter
    assert set(values) <= set(GPT2Config().to_dict())


def test_transformers_reads_every_setting(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """None of them is what GPT2Config has without being told, but for what makes it GPT-2."""
    shape = {"num_layers": 3, "num_heads": 2, "layer_norm_eps": 1e-6, "initializer_range": 0.03}
    dropout = {"dropout": 0.25, "attention_dropout": 0.5}
    trained = write_trained(tmp_path, tiny_tokenizer_dir, VOCABULARY, **shape, **dropout)
    export.main(trained.export("hf", tmp_path / "out"))
    found: Any = AutoConfig.from_pretrained(tmp_path / "out")
    assert isinstance(found, GPT2Config)
    expected = {
        **{"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_inner": 128},
        **{"n_layer": 3, "n_head": 2, "layer_norm_epsilon": 1e-6, "initializer_range": 0.03},
        **{"embd_pdrop": 0.25, "resid_pdrop": 0.25, "attn_pdrop": 0.5, "dtype": torch.float32},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        **{"activation_function": "gelu_new", "tie_word_embeddings": True, "use_cache": True},
        **{"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        **{"add_cross_attention": False, "architectures": ["GPT2LMHeadModel"]},
    }
    assert {key: getattr(found, key) for key in expected} == expected


def test_transformers_samples_as_configured(folder: Path, trained: Trained) -> None:
    def read(values: GenerationConfig) -> dict[str, Any]:
        return {key: value for key, value in values.to_diff_dict().items() if key in expected}

    expected: dict[str, Any] = {
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "max_length": 64},
        **{"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95},
    }
    ours = trained.model.config.generation
    assert (ours.temperature, ours.top_k, ours.top_p) == (0.8, 50, 0.95)
    assert read(GenerationConfig.from_pretrained(folder)) == expected
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert read(model.generation_config) == expected


def test_special_tokens_and_padding(folder: Path, trained: Trained) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "model_max_length")
    assert [getattr(tokenizer, name) for name in names] == [1, 2, 0, 2, 64]
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 300]) == trained.tokenizer.pieces(
        [0, 1, 2, 300]
    )
    batch = tokenizer(["The river", "The river and the city"], padding=True)
    short, long = batch["input_ids"]
    ids = [1, *trained.tokenizer.encode("The river")]
    assert short == [2] * (len(long) - len(ids)) + ids
    assert batch["attention_mask"][0] == [0] * (len(long) - len(ids)) + [1] * len(ids)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_half_the_size(dtype: str, torch_dtype: str, trained: Trained, tmp_path: Path) -> None:
    export.main([*trained.export("hf", tmp_path / "half"), "--dtype", dtype])
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert model.dtype == getattr(torch, torch_dtype)
    expected = trained.model.token_embedding.weight.to(model.dtype)
    assert torch.equal(model.transformer.wte.weight, expected)


# The card


def test_card_tells_how_it_was_trained(folder: Path, trained: Trained) -> None:
    card = (folder / "README.md").read_text()
    parameters = trained.model.parameter_count()
    for figure in (RUN, "1,234", "3.2500", "25.79", "b" * 64, trained.tokenizer.sha256):
        assert figure in card
    assert f"| parameters | {parameters:,} |" in card
    assert git_commit() in card
    assert '"learning_rate"' in card
    assert str(trained.folder) not in card


def test_files_can_be_read_by_all_who_may_read_the_card(folder: Path) -> None:
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


# Where it may be written, and what is left when it fails


def test_earlier_export_is_replaced_and_nothing_else(trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    export.main(trained.export("hf", target))
    export.main([*trained.export("hf", target), "--dtype", "bf16"])
    assert json.loads((target / "config.json").read_bytes())["dtype"] == "bfloat16"
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt, which no export put there"):
        export.main(trained.export("hf", target))
    assert (target / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"holds notes\.txt, which no export put there"):
        export.main([*trained.export("hf", target), "--overwrite"])
    with pytest.raises(UsageError, match="--to names no place"):
        export.main([*trained.export("hf", target)[:-1], "", "--overwrite"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_export_leaves_what_was_there(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.exporting.hugging_face.model_card", fail)
    for name in ("new", "old"):
        target = tmp_path / name
        if name == "old":
            target.mkdir()
        with pytest.raises(KeyboardInterrupt):
            export.main(trained.export("hf", target))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_killed_export_leaves_no_folder_and_is_no_hindrance(tmp_path: Path) -> None:
    target = tmp_path / "out"
    script = (
        "import os, sys; from pathlib import Path; from utils.exporting.staging import staged\n"
        "with staged(Path(sys.argv[1]), 0) as new:\n"
        "    new.mkdir(); (new / 'half').write_text('written'); os._exit(9)"
    )
    command = [sys.executable, "-c", script, str(target)]
    killed = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert (killed.returncode, target.exists()) == (9, False)
    with staged(target, 0) as new:
        assert not new.exists()
        new.write_text("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED_WHILE_REPLACING = """
import os, shutil, sys
from pathlib import Path
from utils.exporting.staging import staged

target = Path(sys.argv[1])
with staged(target, 0) as new:
    new.mkdir()
    (new / "file").write_text("new")
    moments = {"between the renames": (Path, "replace"), "at the end": (shutil, "rmtree")}
    setattr(*moments[sys.argv[2]], lambda *_, **__: os._exit(9))
"""


@pytest.mark.parametrize("moment", ["between the renames", "at the end"])
def test_export_killed_while_it_replaces_loses_nothing(
    moment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old folder is back with the next export, and that one goes through."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "file").write_text("old")
    command = [sys.executable, "-c", KILLED_WHILE_REPLACING, str(target), moment]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 9
    is_missing = moment == "between the renames"
    assert target.exists() != is_missing
    seen = []
    with staged(target, 0) as new:
        seen.append((target / "file").read_text())
        new.mkdir()
        (new / "file").write_text("newest")
    assert seen == ["old" if is_missing else "new"]
    assert ("an export that was to replace it was killed" in capsys.readouterr().err) == is_missing
    assert (target / "file").read_text() == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def fill(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "file").write_text(content)


def test_failed_rename_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", fail)
    with (
        pytest.raises(PipelineError, match="out: could not be written: Input/output error"),
        staged(tmp_path / "out", 0) as new,
    ):
        fill(new, "new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_put_back_is_named_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    rename, calls = Path.rename, itertools.count()

    def fail(*arguments: Any) -> Path:
        if next(calls):  # the first moves the old one away
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        moved: Path = rename(*arguments)
        return moved

    kept = tmp_path / ".out.tmp" / "old"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        patch.setattr(Path, "replace", fail)
        named = pytest.raises(PipelineError, match=f"out: what stood there is in {kept}")
        with named, staged(tmp_path / "out", 0) as new:
            fill(new, "new")
        assert (kept / "file").read_text() == "old"
        with named, staged(tmp_path / "out", 0):
            pass
    with staged(tmp_path / "out", 0) as new:
        assert (tmp_path / "out" / "file").read_text() == "old"
        fill(new, "new")
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_full_disk_is_told_and_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
        with pytest.raises(PipelineError, match=r"out: needs .* kB, 10\.0 kB are free there"):
            export.main(trained.export("hf", tmp_path / "out"))
    told = pytest.raises(PipelineError, match="out: could not be written: No space left on device")
    with told, staged(tmp_path / "out", 0):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_is_told_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    told = pytest.raises(PipelineError, match="file/out: could not be written: Not a directory")
    with told, staged(tmp_path / "file" / "out", 0):
        pass


def test_two_exports_to_one_place_do_not_mix(tmp_path: Path) -> None:
    with staged(tmp_path / "out", 0) as new:
        with pytest.raises(BusyError), staged(tmp_path / "out", 0):
            pass
        new.write_text("first")
    assert (tmp_path / "out").read_text() == "first"


# The command line


@pytest.mark.parametrize("run", ["latest", RUN])
def test_checkpoint_of_a_run(run: str, trained: Trained, tmp_path: Path) -> None:
    arguments = ["latest", "--run", run, *trained.export("hf", tmp_path / "out")[1:]]
    export.main(arguments)
    record = json.loads((tmp_path / "out" / "export.json").read_bytes())
    assert (record["run"], record["checkpoint"]) == (RUN, LATEST)


def test_what_cannot_be_is_said_before_anything_is_read(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "old.gguf").write_bytes(b"GGUF, an old one")
    cases: dict[str, list[str | Path]] = {
        "no such format": ["onnx", tmp_path / "out"],
        "has no --dtype q8_0": ["hf", tmp_path / "out", "--dtype", "q8_0"],
        "has no --quantize: transformers .*load_in_8bit=True": [
            *("hf", tmp_path / "out", "--quantize", "int8"),
        ],
        "has no --quantize: transformers .*load_in_4bit=True": [
            *("hf", tmp_path / "out", "--quantize", "int4"),
        ],
        "--quantize int8 is --dtype q8_0, not f16": [
            *("gguf", tmp_path / "out", "--quantize", "int8", "--dtype", "f16"),
        ],
        "has no --dtype \n": ["gguf", tmp_path / "out", "--dtype", ""],
        "has no --dtype bf16": ["gguf", tmp_path / "out", "--dtype", "bf16"],
        "is a file": ["hf", file],
        "is there already": ["gguf", tmp_path / "old.gguf"],
        "file: is no GGUF file": ["gguf", file, "--overwrite"],
        "null: is no GGUF file": ["gguf", "/dev/null", "--overwrite"],
        "is no GGUF file": ["gguf", tmp_path, "--overwrite"],
    }
    for message, to in cases.items():
        with pytest.raises(UsageError, match=f"(?s){message}"):
            export.main(["missing.pt", *trained.export(*to)[1:]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "old.gguf"]
    assert file.read_text() == "mine"


def test_another_tokenizer_is_refused(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """One in the configured folder gives way to the checkpoint's own, where that is still there."""
    own = Path(shutil.copytree(tiny_tokenizer_dir, tmp_path / "own"))
    other = Path(shutil.copytree(own, tmp_path / "other"))
    content = (own / TOKENIZER_FILE).read_bytes()
    (other / TOKENIZER_FILE).write_bytes(content + b"\n")
    trained = write_trained(tmp_path, own, VOCABULARY)
    place = ["--set", f"paths.tokenizer_dir={other}"]
    export.main([*trained.export("hf", tmp_path / "first"), *place])
    assert (tmp_path / "first" / TOKENIZER_FILE).read_bytes() == content
    shutil.rmtree(own)
    with pytest.raises(CheckpointError, match="trained with another tokenizer"):
        export.main([*trained.export("hf", tmp_path / "second"), *place])
    assert not (tmp_path / "second").exists()
