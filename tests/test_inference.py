"""Inference.py: its two workflows on a real terminal, and every flag without one."""

import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import Inference
from model import LanguageModel, load_for_inference
from tests.conftest import REPOSITORY
from tests.workspaces import Workspace, describe
from tokenizer import CodeLlamaTokenizer
from utils.chat import checkpoint_menu, menus
from utils.chat.completion import TextStream, complete
from utils.chat.menus import Quit, parse_number, parse_numbers, with_parameter
from utils.chat.report import emit_text
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, summarise_checkpoint
from utils.device import choose_device, free_memory_bytes
from utils.errors import (
    CheckpointError,
    DeviceError,
    PipelineError,
    TokenizerError,
    UsageError,
)
from utils.generation import KeyValueCache, Sampling
from utils.runs import BEST, LATEST, step_name
from utils.terminal import printable

OLD_RUN, NEW_RUN = "run_2025_01_01_10_00", "run_2025_02_02_10_00_new"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
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


def reference_text(workspace: Workspace, path: Path, prompt: str, tokens: int) -> str:
    """A greedy continuation with its prompt, through model.generate and whole-text decoding."""
    model, _ = load_for_inference(path, workspace.config, torch.device("cpu"))
    tokenizer = CodeLlamaTokenizer.load(workspace.config.paths.tokenizer_dir, workspace.config)
    prompt_ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(prompt)]])
    ids = model.generate(prompt_ids, max_length=tokens, temperature=0.0)
    return tokenizer.decode(ids[0].tolist())


class Terminal:
    """A program on a terminal of its own: the shell opens it, so that Ctrl-C is the real one."""

    def __init__(self, workspace: Workspace, *arguments: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "Inference.py", "--config", str(workspace.config_path)]
        name = os.ttyname(slave)
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" <{name} >{name} 2>&1', "sh", *command, *arguments],
            cwd=REPOSITORY,
            env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )
        self.slave = slave  # kept open: a terminal nobody holds loses what is unread
        self.screen = ""
        self.seen = 0

    def expect(self, words: str, seconds: float = 60) -> str:
        """Wait until `words` appear after what was expected before; returns what came up to it."""
        deadline = time.monotonic() + seconds
        while (found := self.screen.find(words, self.seen)) < 0:
            self._read(words, deadline)
        part = self.screen[self.seen : found + len(words)]
        self.seen = found + len(words)
        return part

    def expect_more(self, characters: int) -> None:
        """Wait for any text of some length."""
        deadline = time.monotonic() + 60
        while len(self.screen) < self.seen + characters:
            self._read(f"more than {self.screen[self.seen :]}", deadline)

    def _read(self, awaited: str, deadline: float) -> None:
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"{awaited!r} did not come; the screen:\n{self.screen}")
        self.screen += os.read(self.master, 65536).decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def answer(self, question: str, text: str) -> str:
        """Wait for a question and type a line; returns what stood before the question."""
        shown = self.expect(question)
        self.type(text + "\n")
        return shown

    def exit_code(self) -> int:
        return self.process.wait(timeout=30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def on_terminal(trained: Workspace) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **environment: str) -> Terminal:
        opened.append(Terminal(trained, *arguments, **environment))
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
    assert re.search(r"\x1b\[34m  1  checkpoint_latest.pt +200 +3\.0000 .*latest\x1b", listed)
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
    assert re.search(r"12 tokens in \d+\.\d\d s", answered)
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


def test_comparison_workflow(on_terminal: Callable[..., Terminal]) -> None:
    terminal = on_terminal("--num-samples", "1", NO_COLOR="1")
    terminal.answer("Mode [1]: ", "2")
    terminal.answer("Training run [1]: ", "1")
    question = "Checkpoints, such as 1,2, or 'all': "
    terminal.answer(question, "1,9")
    assert "'9' is not a number from 1 to 4" in terminal.answer(question, "1,4")
    assert "checkpoint_step_50.pt cannot be used" in terminal.answer(question, "all")
    loading = terminal.expect("Loading checkpoint_step_100.pt")
    assert "checkpoint_step_50.pt is left out: is damaged" in loading
    assert re.search(r"3 models, [\d,]+ parameters: about [\d.]+ kB of main memory", loading)
    for prompt in ("The river", " water"):
        terminal.answer("\n> ", prompt)
        terminal.answer("Parameters [1]: ", "")
        answered = terminal.expect("highest speed")
        for number, name in enumerate((LATEST, BEST, step_name(100)), start=1):
            assert f"[{number}/3] {name}\r\n{prompt}" in answered
        assert len(set(re.findall(r"seed (\d+)", answered))) == 1
        assert re.search(r"model +tokens +seconds +tokens/s", answered)
        assert "fastest" in answered
        assert "most tokens" in answered
        assert "Loading" not in answered
    terminal.answer("\n> ", "m")
    terminal.answer("Mode [1]: ", "1")
    terminal.answer("Training run [1]: ", "2")
    terminal.expect("The only checkpoint: checkpoint_latest.pt")
    terminal.expect("\n> ")
    for _ in range(20):
        terminal.type("\x03")  # one that comes just before input() listens waits for the next key
        with suppress(TimeoutError):
            terminal.expect("interrupted", seconds=3)
            break
    assert terminal.exit_code() == 130
    assert not COLOUR.search(terminal.screen)


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
    assert re.search(r"12 tokens in .*; 0 of 3 ended with </s>", err)


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
        (("--seed", "-1"), UsageError, "--seed must be 0 to 4294967295, not -1"),
        (("--device", "gpu"), UsageError, "--device gpu: no such device.*Give cpu"),
        (
            ("--run", OLD_RUN, "--prompt", "\udc80"),
            TokenizerError,
            "lone surrogate",
        ),
        (
            ("--run", OLD_RUN, "--prompt", "A", "--max-length", str(10**15)),
            DeviceError,
            "not enough memory for generating.*Generate fewer tokens",
        ),
    ],
)
def test_what_is_refused(
    infer: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    error: type[PipelineError],
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


def test_memory_is_named_before_loading(
    infer: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--run", OLD_RUN, "--prompt", "A", *GREEDY)
    assert re.search(r"1 model, 1\d,\d+ parameters: about .* kB of main memory, ", infer(*flags)[1])
    monkeypatch.setattr(checkpoint_menu, "free_memory_bytes", lambda device: 1000)
    _, err = infer(*flags)
    assert re.search(r"warning: 1 model, .* kB of main memory needed, but only 1.0 kB free", err)
    monkeypatch.setattr(checkpoint_menu, "free_memory_bytes", lambda device: None)
    assert re.search(r"kB of main memory\n", infer(*flags)[1])


@pytest.mark.cuda
def test_on_a_gpu(infer: Callable[..., tuple[str, str]]) -> None:
    flags = ("--device", "cuda", "--run", NEW_RUN, "--checkpoint", "best", "--checkpoint", "latest")
    out, err = infer(*flags, "--prompt", "The river", *GREEDY)
    assert re.search(r"2 models, .* of GPU memory, .* free", err)
    assert out.count("The river") == 2
    assert err.count("12 tokens in") == 2
    with pytest.raises(DeviceError, match="not enough memory for generating"):
        infer(*flags, "--prompt", "A", "--max-length", str(10**11))


def test_free_memory_is_plausible() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (free_memory_bytes(torch.device("cpu")) or 0) <= total
    assert choose_device("cpu") == torch.device("cpu")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Answers questions in this process, in order, then with Ctrl-D; gives the questions."""

    def answers(*lines: str | BaseException) -> list[str]:
        left, asked = list(lines), []

        def ask(question: str, flag: str, strip: bool = True) -> str:
            asked.append(question)
            answer = left.pop(0) if left else EOFError()
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(menus, "ask", ask)
        monkeypatch.setattr(Inference, "is_interactive", lambda: True)
        return asked

    return answers


def test_a_file_that_does_not_load_is_not_the_end(
    infer: Callable[..., tuple[str, str]],
    typed: Callable[..., list[str]],
    trained: Workspace,
    tmp_path: Path,
) -> None:
    good = (trained.config.paths.checkpoint_dir / OLD_RUN / LATEST).read_bytes()
    flipped = bytearray(good)
    flipped[len(flipped) // 2] ^= 1  # in the weights, which a list does not read
    (tmp_path / BEST).write_bytes(flipped)
    assert summarise_checkpoint(tmp_path / BEST, trained.config).step == 10
    (tmp_path / LATEST).write_bytes(good)
    run = ("--run", str(tmp_path), "--num-samples", "2")
    typed("1", "", "1", "1", "The", "1")
    out, err = infer(*run)
    assert "its bytes do not match its checksum" in err
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

    monkeypatch.setattr(Inference, "choose_checkpoints", prune)
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
    infer: Callable[..., tuple[str, str]], typed: Callable[..., list[str]]
) -> None:
    typed("The", "2", str(10**15), "", "", "", "again", "1")
    out, err = infer("--run", OLD_RUN, "--checkpoint", "latest")
    assert "error: not enough memory for generating" in err
    assert "again" in out


def test_ctrl_c_ends_answers_to_given_prompts(
    infer: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Iterator[torch.Tensor]:
        yield torch.tensor([5])
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.chat.completion.generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer("--run", OLD_RUN, "--prompt", "A", "--prompt", "B")


def test_no_checkpoints(
    infer: Callable[..., tuple[str, str]], prepared_workspace: Workspace, tmp_path: Path
) -> None:
    empty = describe(tmp_path, data=prepared_workspace.folder)
    with pytest.raises(CheckpointError, match=r"checkpoints: no checkpoints here\n.*train\.py"):
        infer("--prompt", "A", workspace=empty)
    with pytest.raises(CheckpointError, match=r"no training run of this name.*\n.*train\.py"):
        infer("--run", "x", workspace=empty)


@pytest.mark.parametrize(
    ("answer", "numbers"), [("2", [2]), ("3, 1,3", [3, 1]), ("ALL", [1, 2, 3]), ("1,2", [1, 2])]
)
def test_numbers(answer: str, numbers: list[int]) -> None:
    assert parse_numbers(answer, 3) == numbers


@pytest.mark.parametrize("answer", ["0", "4", "-1", "1.5", "", "1,,2", "²", "1 2"])
def test_numbers_that_are_none(answer: str) -> None:
    with pytest.raises(UsageError, match=r"is not a number from 1 to 3|type numbers between"):
        parse_numbers(answer, 3)
    with pytest.raises(UsageError, match="is not 1 "):
        parse_number(answer, 1)


def test_parameters_are_checked() -> None:
    defaults = Sampling(10, 0.8, 50, 0.9)
    assert with_parameter(defaults, "top_k", "7") == Sampling(10, 0.8, 7, 0.9)
    assert with_parameter(defaults, "top_k", "") == defaults
    with pytest.raises(UsageError, match="temperature must be a number, not 'warm'"):
        with_parameter(defaults, "temperature", "warm")
    with pytest.raises(UsageError, match=r"top_k must be a whole number, not '1\.5'"):
        with_parameter(defaults, "top_k", "1.5")


def test_end_of_input_is_quit(typed: Callable[..., list[str]]) -> None:
    typed()
    with pytest.raises(Quit):
        menus.ask_choice("Mode", "--checkpoint", 2, 1)


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


@pytest.fixture(scope="module")
def codec(prepared_workspace: Workspace) -> CodeLlamaTokenizer:
    config = prepared_workspace.config
    return CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)


@pytest.mark.parametrize(
    "text", ["The river", "Zürich 漢字 🧑🏽‍🚀\n\n  x", "\ufffd", "a\ufffdb", ""]
)
def test_streamed_text_is_the_text(codec: CodeLlamaTokenizer, text: str) -> None:
    stream = TextStream(codec, at_start=True)
    pieces = [stream.push(token_id) for token_id in codec.encode(text)]
    assert "".join([*pieces, stream.finish()]) == text
    if "漢" in text:
        assert "漢" in pieces, "a character comes as soon as it is whole"


def test_bad_bytes_do_not_spoil_good_ones(codec: CodeLlamaTokenizer) -> None:
    good = codec.encode("漢")[-3:]
    stream = TextStream(codec, at_start=False)
    text = "".join(stream.push(token_id) for token_id in [*good, good[0], *codec.encode("on")])
    assert text + stream.finish() == "漢\ufffd on"


class Scripted:
    """A model that says the same ids after every prompt of `prompt_tokens` tokens."""

    max_positions = 100
    device = torch.device("cpu")

    def __init__(self, ids: list[int], prompt_tokens: int, vocab_size: int) -> None:
        self.ids = torch.tensor(ids)
        self.prompt_tokens, self.vocab_size = prompt_tokens, vocab_size

    def hidden_states(self, input_ids: torch.Tensor) -> torch.Tensor:
        said = torch.arange(input_ids.size(1)) + 1 - self.prompt_tokens
        return self.ids[said.clamp(0)].expand_as(input_ids)[..., None]  # (rows, tokens, 1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(hidden[..., 0], self.vocab_size).float()

    def new_cache(self, rows: int, capacity: int) -> KeyValueCache:
        raise AssertionError("generates without a cache")

    def decode(
        self, input_ids: torch.Tensor, positions: torch.Tensor, cache: KeyValueCache
    ) -> torch.Tensor:
        raise AssertionError("generates without a cache")


def test_only_generated_tokens_count(codec: CodeLlamaTokenizer) -> None:
    said = [*codec.encode("on 漢")[:-1], codec.eos_id, *codec.encode("padding")]
    model = Scripted(said, prompt_tokens=3, vocab_size=codec.vocab_size)
    steps: list[str] = []
    completions = complete(
        model, codec, [1, 5, 6], Sampling(50, 0.0, 0, 1.0, seed=3), 2, False, steps.append
    )
    for number, completion in enumerate(completions):
        assert completion.tokens == said.index(codec.eos_id) + 1, "with </s>, without padding"
        assert completion.finish == "end"
        assert completion.text == " on \ufffd\ufffd", "what was cut off is shown as such"
        assert completion.seed == 3 + number
    assert "".join(steps) == completions[0].text
    short = complete(model, codec, [1, 5, 6], Sampling(1, 0.0, 0, 1.0, 0), 1, False, steps.append)
    assert (short[0].tokens, short[0].finish) == (1, "length")
