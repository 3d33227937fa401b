"""Inference.py: its two workflows on a real terminal, and every flag without one."""

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import Inference
from model import LanguageModel
from tests.conftest import REPOSITORY
from tests.terminals import COLOUR, Terminal, shown_lines, type_answers
from tests.workspaces import Workspace, describe
from tokenizer import CodeLlamaTokenizer
from utils.chat import checkpoint_menu
from utils.chat.answers import emit_text
from utils.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    summarise_checkpoint,
)
from utils.device import choose_device, free_memory_bytes
from utils.errors import (
    CheckpointError,
    PipelineError,
    UsageError,
)
from utils.generation import Engine, Step
from utils.runs import BEST, LATEST, step_name
from utils.terminal import printable

OLD_RUN, NEW_RUN = "run_2025_01_01_10_00", "run_2025_02_02_10_00_new"
COLUMNS = 100
GREEDY = ("--temperature", "0", "--max-length", "12")


def write_checkpoint(workspace: Workspace, path: Path, step: int, seed: int) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(workspace.config).eval()
    with torch.no_grad():
        model.token_embedding.weight *= 20  # far apart, so that greed has no ties
        model.token_embedding.weight[: 3 + 256] = 0  # greed never says special ids or lone bytes
    tokenizer = CodeLlamaTokenizer.load(workspace.config.paths.tokenizer_dir, workspace.config)
    checkpoint = Checkpoint(
        workspace.config,
        model.state_dict(),
        progress={"step": step, "validation_loss": 5.0 - step / 100},
        tokenizer_sha256=tokenizer.sha256,
    )
    save_checkpoint(checkpoint, path)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_workspace: Workspace) -> Workspace:
    """Two runs: one with a single checkpoint; a newer one with several, one of them broken."""
    workspace = describe(tmp_path_factory.mktemp("inference"), data=prepared_workspace.folder)
    runs = workspace.config.paths.checkpoint_dir
    write_checkpoint(workspace, runs / OLD_RUN / LATEST, step=10, seed=1)
    new = runs / NEW_RUN
    for name, step in ((LATEST, 200), (BEST, 150), (step_name(100), 100)):
        write_checkpoint(workspace, new / name, step, seed=step)
    (new / step_name(50)).write_bytes((new / BEST).read_bytes()[:20_000])
    os.utime(runs / OLD_RUN / LATEST, (1e9, 1e9))
    return workspace


@pytest.fixture
def infer(trained: Workspace, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs main in this process, without a terminal; gives its stdout and stderr."""

    def run(*arguments: str, workspace: Workspace = trained) -> tuple[str, str]:
        Inference.main(["--config", str(workspace.config_path), "--device", "cpu", *arguments])
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def reference(
    workspace: Workspace, path: Path, prompt: str, tokens: int
) -> tuple[str, list[float]]:
    """A greedy continuation with its prompt, and its tokens' log-probabilities.

    By the model that trains, which reads everything again for each token.
    """
    model = LanguageModel(workspace.config).eval()
    load_weights(model, load_checkpoint(path, workspace.config).model, str(path))
    tokenizer = CodeLlamaTokenizer.load(workspace.config.paths.tokenizer_dir, workspace.config)
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    seen, found = len(ids), []
    with torch.inference_mode():
        for _ in range(tokens):
            likely = model(torch.tensor([ids[-seen:]]))["logits"][0, -1].log_softmax(dim=-1)
            ids.append(int(likely.argmax()))
            found.append(float(likely.max()))
            seen = model.max_positions // 2 if seen == model.max_positions else seen + 1
    return tokenizer.decode(ids), found


def reference_text(workspace: Workspace, path: Path, prompt: str, tokens: int) -> str:
    return reference(workspace, path, prompt, tokens)[0]


@pytest.fixture
def on_terminal(trained: Workspace) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        command = ("Inference.py", "--config", str(trained.config_path), *arguments)
        opened.append(Terminal(*command, columns=COLUMNS, **environment))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def test_single_model_workflow(on_terminal: Callable[..., Terminal], trained: Workspace) -> None:
    terminal = on_terminal("--device", "cpu")
    terminal.answer("Mode [1]: ", "3")
    assert "'3' is not a number from 1 to 2" in terminal.answer("Mode [1]: ", "1")
    runs = terminal.answer("Training run [1]: ", "newest")
    assert runs.index(NEW_RUN) < runs.index(OLD_RUN)
    assert re.search(rf"\x1b\[1;36m  1  {NEW_RUN} .*most recent", runs)
    assert "'newest' is not a number" in terminal.answer("Training run [1]: ", "")
    listed = terminal.answer("Checkpoint [2]: ", "4")
    assert re.search(
        r"\x1b\[34m  1  checkpoint_latest.pt +200 +3\.0000 .* 1\d\.\d k  latest\x1b", listed
    )
    assert re.search(r"\x1b\[32m  2  checkpoint_best.pt +150 +3\.5000 .*best\x1b", listed)
    assert re.search(r"\x1b\[31m  4  checkpoint_step_50.pt +50 +- .*broken\x1b", listed)
    assert "checkpoint_step_50.pt is damaged: it is cut off" in listed
    refused = terminal.answer("Checkpoint [2]: ", "")
    assert "checkpoint_step_50.pt cannot be used: is damaged" in refused
    terminal.expect("Loading checkpoint_best.pt")
    terminal.answer("\n> ", "Zürich 漢字 🧑")
    terminal.answer("Parameters [1]: ", "2")
    terminal.answer("Max length, in tokens [200]: ", "many")
    reason = terminal.answer("Max length, in tokens [200]: ", "12")
    assert "max_length must be a whole number, not 'many'" in reason
    terminal.answer("Temperature, 0 = always the likeliest [0.8]: ", "0")
    terminal.answer("Top-k, 0 = off [50]: ", "")
    terminal.answer("Top-p, 1 = off [0.95]: ", "2")
    assert "top_p must be above 0 and at most 1" in terminal.answer("Top-p, 1 = off [0.95]: ", "")
    answered = terminal.expect("tokens/s")
    path = trained.config.paths.checkpoint_dir / NEW_RUN / BEST
    text = printable(reference_text(trained, path, "Zürich 漢字 🧑", 12))
    assert text in COLOUR.sub("", answered).replace("\r\n", "\n")
    statistics = answered + terminal.expect("seed ")
    assert re.search(r"12 tokens in \d+\.\d\d s, [\d.,]+ tokens/s, first token after ", statistics)
    assert re.search(r"mean log-probability -\d+\.\d{3} \(perplexity [\d.]+\)", statistics)
    assert "reached the maximum length; seed" in statistics
    terminal.answer("\n> ", "on and on")
    assert "as last time: 12 tokens, temperature 0, top-k 50" in terminal.expect("[3]: ")
    terminal.type("2\n")
    terminal.answer("[12]: ", "1000000")
    for _ in range(3):
        terminal.answer("]: ", "")
    terminal.expect("on and on\x1b[0m")
    terminal.expect_more(100)
    terminal.type("\x03")
    terminal.expect("; stopped; seed")
    terminal.answer("\n> ", "q")
    terminal.expect("Goodbye.")
    assert terminal.exit_code() == 0


def test_comparison_workflow(
    on_terminal: Callable[..., Terminal], infer: Callable[..., tuple[str, str]]
) -> None:
    terminal = on_terminal(NO_COLOR="1")
    terminal.answer("Mode [1]: ", "2")
    terminal.answer("Training run [1]: ", "1")
    question = "Checkpoints, such as 1,2, or 'all': "
    terminal.answer(question, "1,9")
    assert "'9' is not a number from 1 to 4" in terminal.answer(question, "1,4")
    assert "checkpoint_step_50.pt cannot be used" in terminal.answer(question, "all")
    loading = terminal.expect("Loading checkpoint_step_100.pt")
    assert "checkpoint_step_50.pt is left out: is damaged" in loading
    assert re.search(r"3 models, [\d.]+ k parameters: about [\d.]+ [kM]B of main memory", loading)
    for prompt in ("The river", " water"):
        terminal.answer("\n> ", prompt)
        terminal.answer("Parameters [1]: ", "")
        answered = terminal.expect("best log-prob ")
        lines = shown_lines(answered.replace("\r\n", "\n"), COLUMNS)
        header = next(n for n, line in enumerate(lines) if line.startswith(LATEST))
        assert re.split(r" +\| ", lines[header]) == [LATEST, BEST, step_name(100)]
        seed = re.search(r"Comparison, seed (\d+)", answered)
        assert seed is not None
        is_row = re.compile(r".* \|").match
        rows = itertools.takewhile(is_row, lines[header + 1 :])
        cells = [re.split(r" \|(?: |$)", row) for row in rows]
        for number, name in enumerate(("latest", "best", "100")):
            flags = ("--run", NEW_RUN, "--checkpoint", name, "--seed", seed[1], "--prompt", prompt)
            text = infer(*flags)[0].removeprefix(prompt)
            shown = "".join(row[number] for row in cells)
            assert "".join(shown.split()) == "".join(printable(text).split())
        assert re.search(r"model +tokens +tokens/s +log-prob +seconds", answered)
        assert "fastest" in answered
        assert "most tokens" in answered
        assert "Loading" not in answered
    terminal.answer("\n> ", "m")
    terminal.answer("Mode [1]: ", "1")
    terminal.answer("Training run [1]: ", "2")
    terminal.expect("The only checkpoint: checkpoint_latest.pt")
    terminal.expect("\n> ")
    terminal.interrupt("interrupted")
    assert terminal.exit_code() == 130
    assert not COLOUR.search(terminal.screen)


def test_ctrl_c_stops_a_comparison_and_a_narrower_terminal_goes_on(
    on_terminal: Callable[..., Terminal],
) -> None:
    flags = ("--run", NEW_RUN, "--checkpoint", "latest", "--checkpoint", "best")
    terminal = on_terminal(*flags, "--max-length", "1000000", "--temperature", "5")
    terminal.answer("\n> ", "on and on")
    terminal.expect(" | ")
    terminal.expect_more(500)
    terminal.resize(60)
    terminal.expect_more(2000)
    terminal.type("\x03")
    answered = terminal.expect("best log-prob")
    assert "fastest" not in answered, "nobody knows"
    assert "went on from its last half" in answered
    table = COLOUR.sub("", answered[answered.index("Comparison, seed") :]).splitlines()
    assert max(map(len, table)) < 60, table
    terminal.answer("\n> ", "q")
    assert terminal.exit_code() == 0


def test_one_after_another_where_the_cursor_cannot_move(
    on_terminal: Callable[..., Terminal],
) -> None:
    flags = ("--run", NEW_RUN, "--checkpoint", "latest", "--checkpoint", "best", *GREEDY)
    terminal = on_terminal(*flags, "--prompt", "The river", TERM="dumb")
    answered = terminal.expect("best log-prob")
    assert re.search(rf"\[1/2\] {LATEST}\r\nThe river", answered)
    assert re.search(rf"\[2/2\] {BEST}\r\nThe river", answered)
    assert "\x1b" not in answered


def test_samples_side_by_side(on_terminal: Callable[..., Terminal]) -> None:
    flags = ("--run", NEW_RUN, "--checkpoint", "latest", "--checkpoint", "best", *GREEDY)
    terminal = on_terminal(*flags, "--prompt", "The river", "--num-samples", "2", NO_COLOR="1")
    answered = terminal.expect("best log-prob")
    first, second = answered[: answered.index("Comparison")].split("sample 2, seed")
    shown = [re.findall(r"\r([^\r]+ \| [^\r]*)\x1b\[K", part) for part in (first, second)]
    assert len(shown[0]) > 1
    assert shown[0] == shown[1], "greedy samples are alike"


def test_piped(trained: Workspace) -> None:
    config = ("--config", str(trained.config_path))
    finished = subprocess.run(
        [sys.executable, "Inference.py", "--run", OLD_RUN, "--device", "cpu", *GREEDY, *config],
        input="Zürich\nThe river\n".encode(),
        capture_output=True,
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    path = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    assert finished.stdout.decode() == reference_text(trained, path, "Zürich\nThe river", 12) + "\n"
    assert b"12 tokens in" in finished.stderr
    assert b"\x1b" not in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("name", "file"),
    [("latest", LATEST), ("best", BEST), ("100", step_name(100)), (step_name(100),) * 2],
)
def test_checkpoints_by_name(
    infer: Callable[..., tuple[str, str]], trained: Workspace, name: str, file: str
) -> None:
    flags = ("--run", "latest", "--checkpoint", name, "--prompt", "The", *GREEDY)
    out, _ = infer(*flags)
    path = trained.config.paths.checkpoint_dir / NEW_RUN / file
    assert out == reference_text(trained, path, "The", 12) + "\n"
    assert infer("--checkpoint", str(path), "--prompt", "The", *GREEDY)[0] == out


def test_json_can_be_generated_again(infer: Callable[..., tuple[str, str]]) -> None:
    run = ("--run", NEW_RUN, "--checkpoint", "best", "--json", "--max-length", "9", "--top-k", "7")
    prompts = ("--prompt", "The river", "--prompt", "漢字\n")
    flags = (*run, "--seed", "5", "--num-samples", "2", "--temperature", "2.5")
    out, err = infer(*flags, *prompts)
    first, second, third, fourth = map(json.loads, out.splitlines())
    assert "sample" not in err
    assert [r["prompt"] for r in (first, second, third, fourth)] == ["The river"] * 2 + [
        "漢字\n"
    ] * 2
    assert [r["seed"] for r in (first, second)] == [5, 6]
    assert first["text"] != second["text"]
    assert first["checkpoint"].endswith(f"{NEW_RUN}/{BEST}")
    expected = {"step": 150, "max_length": 9, "temperature": 2.5, "top_k": 7, "top_p": 0.95}
    assert expected.items() <= second.items()
    assert second["tokens_per_second"] == pytest.approx(
        second["tokens"] / second["seconds"], rel=0.01
    )
    alone, _ = infer(*run, "--seed", "6", "--temperature", "2.5", "--prompt", "The river")
    assert json.loads(alone)["text"] == second["text"]


def test_samples_as_text(infer: Callable[..., tuple[str, str]]) -> None:
    flags = ("--run", OLD_RUN, "--num-samples", "3", "--max-length", "4", "--prompt", "The")
    out, err = infer(*flags, "--top-p", "1", "--temperature", "0")
    first, second, third = out.removesuffix("\n").split("\n\n")
    assert first == second == third, "greedy samples are alike"
    assert first.startswith("The")
    assert "sample 3, seed" in err
    assert re.search(r"12 tokens in .*\n.*; 0 of 3 ended with </s>", err)


def test_comparison_without_a_terminal(infer: Callable[..., tuple[str, str]]) -> None:
    flags = ("--checkpoint", "all", "--run", "latest", "--prompt", "A", "--prompt", "B", *GREEDY)
    out, err = infer(*flags)
    assert len(re.findall(r"^[AB]", out, re.M)) >= 6
    assert err.count("Comparison") == 2
    assert "most tokens    all alike" in err
    assert f"{step_name(50)} is left out" in err


def test_one_file_of_two_names_is_loaded_once(
    infer: Callable[..., tuple[str, str]], trained: Workspace, tmp_path: Path
) -> None:
    shutil.copy(trained.config.paths.checkpoint_dir / OLD_RUN / LATEST, tmp_path / LATEST)
    os.link(tmp_path / LATEST, tmp_path / BEST)
    _, err = infer("--run", str(tmp_path), "--checkpoint", "all", "--prompt", "A", *GREEDY)
    assert f"{BEST} is the same file as {LATEST}" in err
    assert "Comparison" not in err


@pytest.mark.parametrize("layout", ["bare", "model", "model_state_dict", "state_dict"])
def test_legacy_files_in_a_flat_folder(
    infer: Callable[..., tuple[str, str]],
    trained: Workspace,
    prepared_workspace: Workspace,
    tmp_path: Path,
    layout: str,
) -> None:
    source = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    flat = describe(tmp_path, data=prepared_workspace.folder)
    folder = flat.config.paths.checkpoint_dir
    folder.mkdir()
    weights = load_checkpoint(source, trained.config).model
    weights = {f"_orig_mod.{key}": value for key, value in weights.items()}
    torch.save(weights if layout == "bare" else {layout: weights}, folder / LATEST)
    out, err = infer("--prompt", "The", *GREEDY, workspace=flat)
    assert out == reference_text(trained, source, "The", 12) + "\n"
    assert "The only training run: checkpoints (flat folder)" in err
    assert "The only checkpoint: checkpoint_latest.pt" in err


def test_long_and_empty_prompts(infer: Callable[..., tuple[str, str]], trained: Workspace) -> None:
    positions = trained.config.model.max_position_embeddings
    _, err = infer("--run", OLD_RUN, "--prompt", "x" * 500, *GREEDY)
    assert f"reads at most {positions}: it sees the last {positions // 2}" in err
    out, err = infer("--run", OLD_RUN, "--prompt", "", *GREEDY)
    assert "the text begins at <s> alone" in err
    path = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    assert out == reference_text(trained, path, "", 12) + "\n"


def test_edges_of_the_parameters(infer: Callable[..., tuple[str, str]], trained: Workspace) -> None:
    run = ("--run", OLD_RUN, "--prompt", "The river")
    path = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    greedy = reference_text(trained, path, "The river", 12) + "\n"
    for others in (("--top-k", "3", "--seed", "1"), ("--top-p", "0.1", "--seed", "2")):
        assert infer(*run, *GREEDY, *others)[0] == greedy, "temperature 0 leaves them no say"
    wild = ("--temperature", "9", "--seed", "4", "--max-length", "30")
    every = str(trained.config.model.vocab_size)
    off, _ = infer(*run, *wild, "--top-k", "0", "--top-p", "1")
    assert off == infer(*run, *wild, "--top-k", every, "--top-p", "1")[0]
    assert off != infer(*run, *wild, "--top-k", "2", "--top-p", "1")[0]
    out, err = infer(*run, "--max-length", "0")
    assert out == "The river\n"
    assert "0 tokens in 0.00 s" in err
    nothing = json.loads(infer(*run, "--max-length", "0", "--json")[0])
    assert (nothing["text"], nothing["tokens"], nothing["finish"]) == ("", 0, "length")
    assert nothing["mean_log_probability"] is nothing["time_to_first_token_seconds"] is None


def test_a_full_window_is_said_once(
    infer: Callable[..., tuple[str, str]], trained: Workspace
) -> None:
    flags = ("--run", OLD_RUN, "--prompt", "The", "--temperature", "0", "--max-length")
    limit = trained.config.model.max_position_embeddings
    said = f"the window of {limit} tokens was full"
    assert said not in infer(*flags, "12")[1]
    out, err = infer(*flags, str(3 * limit))
    assert err.count(said) == 1
    path = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    assert out == reference_text(trained, path, "The", 3 * limit) + "\n"


def test_likelihood_is_that_of_the_model(
    infer: Callable[..., tuple[str, str]], trained: Workspace
) -> None:
    """Though at temperature 0 and top-k 1 nothing else could have been said."""
    flags = ("--run", OLD_RUN, "--prompt", "The", "--top-k", "1", "--json", *GREEDY)
    found = json.loads(infer(*flags)[0])["mean_log_probability"]
    path = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    _, expected = reference(trained, path, "The", 12)
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert found < -1e-3, "it was not certain"


def test_quantized(infer: Callable[..., tuple[str, str]]) -> None:
    flags = ("--run", NEW_RUN, "--checkpoint", "latest", "--checkpoint", "best", *GREEDY)
    out, err = infer(*flags, "--prompt", "The river", "--quantize", "int8", "--json")
    assert [json.loads(line)["quantize"] for line in out.splitlines()] == ["int8", "int8"]
    assert "parameters in int8" in err
    assert re.search(r"checkpoint_best.pt int8 +12", err)


def test_prompt_files(infer: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("two\nlines Ä\r\n".encode())
    flags = ("--run", OLD_RUN, "--json", *GREEDY, "--prompt-file", str(file))
    assert json.loads(infer(*flags)[0])["prompt"] == "two\nlines Ä"
    file.write_bytes(b"a\xff")
    with pytest.raises(UsageError, match=r"prompt.txt: the prompt is not UTF-8 text \(byte 1\)"):
        infer(*flags)


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        ((), UsageError, "there is no terminal to ask 'Training run .*Give --run"),
        (("--run", NEW_RUN), UsageError, "to ask 'Checkpoint .*Give --checkpoint"),
        (("--checkpoint", "best"), UsageError, "Give --run"),
        (("--run", OLD_RUN), UsageError, "there is no prompt: standard input is empty.*--prompt"),
        (("--run", "no"), CheckpointError, f"no: no training run .*{NEW_RUN}, {OLD_RUN}"),
        (("--run", OLD_RUN, "--checkpoint", "7"), CheckpointError, "has no checkpoint '7'.*It has"),
        (("--checkpoint", "a/b.pt"), CheckpointError, "a/b.pt: no such checkpoint"),
        (
            ("--run", NEW_RUN, "--checkpoint", "50", "--prompt", "x"),
            CheckpointError,
            "step_50.pt: is damaged",
        ),
        (("--temperature", "-1"), UsageError, "temperature must be 0 or more, not -1.0"),
        (("--top-p", "nan"), UsageError, "top_p must be above 0 and at most 1, not nan"),
        (("--max-length", "-5"), UsageError, "max_length must be 0 or more, not -5"),
        (("--num-samples", "0"), UsageError, "--num-samples must be 1 or more, not 0"),
        (("--seed", "-1"), UsageError, r"seed must be 0 or more, below 2\*\*63, not -1"),
        (("--device", "gpu"), UsageError, "--device gpu: no such device.*Give cpu"),
        (
            ("--run", OLD_RUN, "--prompt", "ab\udc80"),
            UsageError,
            r"--prompt: the prompt is not Unicode text: character 3 is a lone surrogate, U\+DC80",
        ),
        (("--run", OLD_RUN, "--prompt-file", "no.txt"), FileNotFoundError, "no.txt"),
    ],
)
def test_what_is_refused(
    infer: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    error: type[PipelineError | OSError],
    words: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(error, match=f"(?s){words}"):
        infer(*flags)


@pytest.mark.parametrize("flags", [("--top-k", "x"), ("--temperature", ""), ("--unknown",)])
def test_wrong_flags_exit_with_2(infer: Callable[..., tuple[str, str]], flags: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        infer(*flags)
    assert caught.value.code == 2


def test_a_foreign_tokenizer_is_refused(
    infer: Callable[..., tuple[str, str]], trained: Workspace, tmp_path: Path
) -> None:
    source = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    checkpoint = load_checkpoint(source, trained.config)
    ours, checkpoint.tokenizer_sha256 = checkpoint.tokenizer_sha256, "f" * 64
    save_checkpoint(checkpoint, tmp_path / LATEST)
    with pytest.raises(CheckpointError) as caught:
        infer("--checkpoint", str(tmp_path / LATEST), "--prompt", "A")
    assert f"another tokenizer (SHA-256 {'f' * 16}) than" in caught.value.what
    assert f"({ours[:16]})" in caught.value.what
    assert "paths.tokenizer_dir" in caught.value.hint


@pytest.mark.cuda
def test_on_a_gpu(infer: Callable[..., tuple[str, str]]) -> None:
    flags = ("--device", "cuda", "--run", NEW_RUN, "--checkpoint", "best", "--checkpoint", "latest")
    out, err = infer(*flags, "--prompt", "The river", *GREEDY)
    assert re.search(r"2 models, .* of GPU memory, .* free", err)
    assert out.count("The river") == 2
    assert err.count("12 tokens in") == 2


def test_free_memory_is_plausible() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (free_memory_bytes(torch.device("cpu")) or 0) <= total
    assert choose_device("cpu") == torch.device("cpu")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Answers questions in this process, in order, then with Ctrl-D; gives the questions."""
    return partial(type_answers, monkeypatch)


def good_and_flipped(trained: Workspace) -> tuple[bytes, bytes]:
    """A checkpoint, and the same with a wrong bit in its weights, which a list does not read."""
    path = trained.config.paths.checkpoint_dir / OLD_RUN / LATEST
    good = path.read_bytes()
    weights = load_checkpoint(path, trained.config).model["token_embedding.weight"]
    flipped = bytearray(good)
    flipped[good.index(weights.numpy().tobytes()) + 7000] ^= 1
    return good, bytes(flipped)


def test_a_file_that_does_not_load_is_not_the_end(
    infer: Callable[..., tuple[str, str]],
    typed: Callable[..., list[str]],
    trained: Workspace,
    tmp_path: Path,
) -> None:
    good, flipped = good_and_flipped(trained)
    (tmp_path / BEST).write_bytes(flipped)
    assert summarise_checkpoint(tmp_path / BEST, trained.config).step == 10
    (tmp_path / LATEST).write_bytes(good)
    run = ("--run", str(tmp_path), "--num-samples", "2")
    typed("1", "", "1", "1", "The", "1")
    out, err = infer(*run)
    assert "checkpoint_best.pt: is damaged" in err
    assert re.search(r"2  checkpoint_best.pt .*broken", err)
    assert out.count("The") >= 2
    assert err.count("Inference mode") == 2
    assert "Goodbye." in err
    (tmp_path / LATEST).write_bytes(flipped)
    typed("2", "1,2", "1")
    with pytest.raises(
        CheckpointError, match=r"(?s)none of its 2 checkpoints can be used:\n.*best"
    ):
        infer(*run)
    with pytest.raises(CheckpointError, match="is damaged"):
        infer("--checkpoint", str(tmp_path / BEST))


def test_all_leaves_out_what_does_not_load(
    infer: Callable[..., tuple[str, str]], trained: Workspace, tmp_path: Path
) -> None:
    good, flipped = good_and_flipped(trained)
    for name, content in ((LATEST, good), (BEST, flipped), (step_name(5), flipped)):
        (tmp_path / name).write_bytes(content)
    flags = ("--run", str(tmp_path), "--prompt", "The", *GREEDY)
    out, err = infer(*flags, "--checkpoint", "all")
    assert "checkpoint_best.pt is left out: is damaged" in err
    assert out == reference_text(trained, tmp_path / LATEST, "The", 12) + "\n"
    with pytest.raises(CheckpointError, match=r"checkpoint_best.pt: is damaged"):
        infer(*flags, "--checkpoint", "all", "--checkpoint", "best")
    (tmp_path / LATEST).unlink()
    with pytest.raises(CheckpointError, match="none of the checkpoints can be used"):
        infer(*flags, "--checkpoint", "all")
    (tmp_path / BEST).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint_step_5.pt: is damaged"):
        infer(*flags, "--checkpoint", "all")


def test_a_run_of_broken_files_is_not_the_end(
    infer: Callable[..., tuple[str, str]],
    typed: Callable[..., list[str]],
    trained: Workspace,
    tmp_path: Path,
) -> None:
    good = (trained.config.paths.checkpoint_dir / OLD_RUN / LATEST).read_bytes()
    for name, content in (("run_2026_01_02_00_00", b"broken"), ("run_2026_01_01_00_00", good)):
        (tmp_path / name).mkdir()
        (tmp_path / name / LATEST).write_bytes(content)
    os.utime(tmp_path / "run_2026_01_01_00_00" / LATEST, (1, 1))  # the other one is listed first
    typed("1", "1", "1", "2", "The", "1")
    out, err = infer("--set", f"paths.checkpoint_dir={tmp_path}")
    assert "none of its 1 checkpoints can be used" in err
    assert "The" in out
    assert "Goodbye." in err


def test_a_file_that_vanishes_is_not_the_end(
    infer: Callable[..., tuple[str, str]],
    typed: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    trained: Workspace,
    tmp_path: Path,
) -> None:
    for name in (LATEST, step_name(1)):
        shutil.copy(trained.config.paths.checkpoint_dir / OLD_RUN / LATEST, tmp_path / name)
    listing = checkpoint_menu.choose_checkpoints

    def prune(*arguments: Any) -> list[Path]:  # as training does
        chosen = listing(*arguments)
        (tmp_path / step_name(1)).unlink(missing_ok=True)
        return chosen

    monkeypatch.setattr("utils.chat.selection.choose_checkpoints", prune)
    typed("1", "2", "1", "The", "1")
    out, err = infer("--run", str(tmp_path))
    assert "checkpoint_step_1.pt: no such checkpoint" in err
    assert "The only checkpoint: checkpoint_latest.pt" in err
    assert out.startswith("The")


def test_flags_answer_questions(
    infer: Callable[..., tuple[str, str]], typed: Callable[..., list[str]]
) -> None:
    asked = typed("The", "\udc80", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), " q ")
    _, err = infer("--run", NEW_RUN, "--checkpoint", "best", "--max-length", "3")
    assert asked == ["> "] * 4
    assert "3 tokens in" in err
    assert err.count("that was not UTF-8 text") == 2
    with pytest.raises(UsageError, match="--json needs a prompt"):
        infer("--json")


def test_an_error_ends_only_the_answer(
    infer: Callable[..., tuple[str, str]],
    typed: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = Engine.generate

    def out_of_memory(engine: Engine, prompts: Any, sampling: Any) -> Any:
        if sampling.max_length == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from generate(engine, prompts, sampling)

    monkeypatch.setattr(Engine, "generate", out_of_memory)
    typed("The", "2", "7", "", "", "", "again", "1")
    out, err = infer("--run", OLD_RUN, "--checkpoint", "latest")
    assert "error: not enough memory for generating" in err
    assert "again" in out


def test_ctrl_c_ends_answers_to_given_prompts(
    infer: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*arguments: Any) -> Iterator[Step]:
        yield Step([5], [-1.0], [])
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "warm_up", lambda *arguments: None)
    monkeypatch.setattr(Engine, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer("--run", OLD_RUN, "--prompt", "A", "--prompt", "B")
    captured = capsys.readouterr()
    assert captured.out.startswith("A")
    assert "B" not in captured.out
    assert re.search("1 tokens in .*\n.*; stopped; seed", captured.err)


def test_no_checkpoints(
    infer: Callable[..., tuple[str, str]], prepared_workspace: Workspace, tmp_path: Path
) -> None:
    empty = describe(tmp_path, data=prepared_workspace.folder)
    with pytest.raises(CheckpointError, match=r"checkpoints: no checkpoints here\n.*train\.py"):
        infer("--prompt", "A", workspace=empty)
    with pytest.raises(CheckpointError, match=r"no training run of this name.*\n.*train\.py"):
        infer("--run", "x", workspace=empty)


class Terminals(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_text_cannot_command_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    for stream, shown in (
        (Terminals(), "a\\x1b[2J\tb\n\\x9b漢"),
        (io.StringIO(), "a\x1b[2J\tb\n\x9b漢"),
    ):
        monkeypatch.setattr(sys, "stdout", stream)
        emit_text("a\x1b[2J\tb\n\x9b漢", end="")
        assert stream.getvalue() == shown
