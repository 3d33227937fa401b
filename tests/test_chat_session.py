"""Inference.py as a conversation: pasted text, recalled prompts, Ctrl-C, other models."""

import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import Inference
from tests.small_text import VOCABULARY
from tests.terminals import COLOUR, Terminal, type_answers
from tests.trained_models import Trained, write_trained
from utils.chat import models
from utils.chat.selection import Selection, selection_of
from utils.errors import CheckpointError
from utils.generation import Engine

CUSTOM = ("2", "3", "0", "", "")  # 3 tokens, always the likeliest
SHORT = ("--max-length", "3", "--temperature", "0")


class Interrupted(Exception):
    """Ctrl-C ended the conversation; as KeyboardInterrupt it would end pytest."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Trained:
    """One run with one checkpoint: of the menus, only the mode is asked."""
    return write_trained(tmp_path_factory.mktemp("session"), tiny_tokenizer_dir, VOCABULARY)


@pytest.fixture
def talk(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """A conversation in this process, of answers and what interrupts them; stdout and stderr."""

    def run(*answers: str | BaseException) -> tuple[str, str]:
        type_answers(monkeypatch, *answers)
        try:
            Inference.main(["--config", str(trained.config_path), "--device", "cpu"])
        except KeyboardInterrupt:
            raise Interrupted from None
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


@pytest.fixture
def terminal(trained: Trained) -> Iterator[Terminal]:
    """A conversation on a terminal of its own, at its first prompt."""
    flags = ("--config", str(trained.config_path), "--device", "cpu", "--run", "latest", *SHORT)
    opened = Terminal("Inference.py", *flags, "--checkpoint", "latest", NO_COLOR="1")
    opened.expect("\n> ")
    yield opened
    opened.close()


def said_by(trained: Trained, prompt: str) -> str:
    """A prompt with its 3 likeliest next tokens."""
    ids = [trained.tokenizer.bos_id, *trained.tokenizer.encode(prompt)]
    return trained.tokenizer.decode([*ids, *trained.greedy(ids, 3)])


def shown(screen: str) -> str:
    return COLOUR.sub("", screen).replace("\r", "")


def test_a_pasted_text_is_one_prompt_which_arrow_up_recalls(
    terminal: Terminal, trained: Trained
) -> None:
    text = "The river\nwater, and"
    terminal.paste(f"{text}\n")  # whole lines were marked
    terminal.type("\r")
    assert said_by(trained, text) in shown(terminal.expect("3 tokens in"))
    terminal.answer("\n> ", "short")
    terminal.answer("\n> ", "\x1b[A\x1b[A")
    assert said_by(trained, text) in shown(terminal.expect("3 tokens in", seconds=10))


def test_arrow_up_recalls_prompts_but_not_at_menus(terminal: Terminal, trained: Trained) -> None:
    terminal.answer("", "The river")
    terminal.answer("\n> ", "m")
    terminal.answer("Mode [1]: ", "\x1b[A")  # nothing is recalled: Enter alone
    assert "is not a number" not in terminal.expect("Loading")
    terminal.answer("\n> ", "\x1b[A")
    assert said_by(trained, "The river") in shown(terminal.expect("3 tokens in"))


def test_ctrl_c_drops_a_line_that_was_begun(terminal: Terminal, trained: Trained) -> None:
    terminal.type("half a l")
    terminal.expect("half a l")
    terminal.interrupt("\n> ")
    terminal.type("The\n")
    assert f"\n{said_by(trained, 'The')}\n" in shown(terminal.expect("3 tokens in"))


@pytest.mark.parametrize("question", ["parameters", "menu"])
def test_ctrl_c_at_a_question_keeps_the_models(
    talk: Callable[..., tuple[str, str]], question: str
) -> None:
    at = {"parameters": ["lost"], "menu": ["m"]}[question]
    out, err = talk("1", *at, KeyboardInterrupt(), "The", *CUSTOM)
    assert out.startswith("The")
    assert err.count("Loading") == 1
    assert ("stay as they are" in err) == (question == "menu")
    assert "Goodbye." in err


def test_ctrl_c_without_a_model_is_the_end(talk: Callable[..., tuple[str, str]]) -> None:
    with pytest.raises(Interrupted):
        talk(KeyboardInterrupt(), "1", "The", "1")
    with pytest.raises(Interrupted):
        talk("1", KeyboardInterrupt(), "The", "1")


def test_ctrl_c_twice_for_one_text_is_not_the_end(
    talk: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Engine.generate

    def interrupted(engine: Engine, prompts: Any, sampling: Any) -> Any:
        if sampling.max_length != 3:
            raise KeyboardInterrupt
        yield from generate(engine, prompts, sampling)

    monkeypatch.setattr(Engine, "warm_up", lambda *values: None)
    monkeypatch.setattr(Engine, "generate", interrupted)
    monkeypatch.setattr("Inference.SAME_SIGNAL_SECONDS", 60)
    out, err = talk("1", "on and on", "1", KeyboardInterrupt(), "The", *CUSTOM)
    assert "stopped; seed" in err
    assert "3 tokens in" in err
    assert "The" in out
    with pytest.raises(Interrupted):
        talk("1", "The", *CUSTOM, KeyboardInterrupt())


def test_ctrl_c_while_loading_asks_again(
    talk: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1, 10**9])
    monkeypatch.setattr(models, "free_memory_bytes", lambda device: next(free))
    monkeypatch.setattr(models, "is_interactive", lambda: True)
    out, err = talk("1", KeyboardInterrupt(), "1", "The", *CUSTOM)
    assert "needed, but only 1 B free" in err
    assert "Nothing was loaded." in err
    assert out.startswith("The")


def test_a_run_that_breaks_meanwhile_leaves_the_models(
    talk: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results: Iterator[Callable[..., Selection]] = iter([selection_of, broken])
    monkeypatch.setattr(Inference, "selection_of", lambda *values: next(results)(*values))
    out, err = talk("1", "m", "The", *CUSTOM)
    assert "error: no checkpoints here" in err
    assert out.startswith("The")


def broken(*values: object) -> Selection:
    raise CheckpointError("no checkpoints here")


def test_parameters_outlive_their_models(talk: Callable[..., tuple[str, str]]) -> None:
    out, err = talk("1", "The", *CUSTOM, "m", "1", "The", "3")
    assert err.count("Loading") == 2
    later = err[err.rindex("Loading") :]
    assert re.search(r"3  as last time: 3 tokens, temperature 0, top-k 50", later)
    first, second, _ = out.split("\n")
    assert first == second


def test_models_are_released_before_the_next_are_loaded(
    talk: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[torch.nn.Module]] = []
    alive: list[int] = []

    def load(*values: Any) -> list[models.LoadedModel]:
        alive.append(sum(reference() is not None for reference in loaded))
        found = models.load_models(*values)
        loaded.extend(weakref.ref(model.engine.model) for model in found)
        return found

    monkeypatch.setattr(Inference, "load_models", load)
    talk("1", "The", *CUSTOM, "m", "1", "The", "1", "m", "1")
    assert alive == [0, 0, 0]
    assert len(loaded) == 3
