"""utils/chat/completion.py: text as it comes, and what is counted of it."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from tests.workspaces import Workspace
from tokenizer import CodeLlamaTokenizer
from utils.chat.completion import TextGeneration, TextStream, complete
from utils.generation import Engine, Step
from utils.sampling import Sampling


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
    """An engine that says the same ids in every row, token i with log-probability -i."""

    model = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, ids: Sequence[int], restarts_at: int = -1) -> None:
        self.ids, self.restarts_at = ids, restarts_at
        self.is_closed = False

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Step]:
        rows = len(prompts)
        try:
            for number, token_id in enumerate(self.ids[: sampling.max_length]):
                restarted = [rows - 1] if number == self.restarts_at else []
                yield Step([token_id] * rows, [-float(number)] * rows, restarted)
        finally:
            self.is_closed = True


def scripted(ids: Sequence[int], restarts_at: int = -1) -> Engine:
    return cast(Engine, Scripted(ids, restarts_at))


def greedy(max_length: int) -> Sampling:
    return Sampling(max_length, 0.0, 0, 1.0, seed=3)


def test_only_generated_tokens_count(codec: CodeLlamaTokenizer) -> None:
    said = [*codec.encode("on 漢")[:-1], codec.eos_id, *codec.encode("padding")]
    steps: list[str] = []
    completions = complete(scripted(said), codec, [1, 5, 6], greedy(50), 2, steps.append)
    count = said.index(codec.eos_id) + 1
    for number, completion in enumerate(completions):
        assert completion.tokens == count, "with </s>, without padding"
        assert completion.finish == "end"
        assert completion.text == " on \ufffd\ufffd", "what was cut off is shown as such"
        assert completion.seed == 3 + number
        assert completion.log_probability == -sum(range(count))
        assert completion.mean_log_probability == -sum(range(count)) / count
    assert "".join(steps) == completions[0].text
    (short,) = complete(scripted(said), codec, [1, 5, 6], greedy(1), 1, steps.append)
    assert (short.tokens, short.finish) == (1, "length")


def test_the_seeds_shown_are_those_drawn_with(codec: CodeLlamaTokenizer) -> None:
    sampling = Sampling(1, 0.8, 0, 1.0, seed=2**63 - 1)
    found = complete(scripted([5]), codec, [1, 5], sampling, 2, lambda _: None)
    assert [completion.seed for completion in found] == [2**63 - 1, 0], "all can be given back"


def test_nothing_generated(codec: CodeLlamaTokenizer) -> None:
    (nothing,) = complete(scripted([5]), codec, [1, 5], greedy(0), 1, lambda _: None)
    assert (nothing.text, nothing.tokens, nothing.finish) == ("", 0, "length")
    assert nothing.first_token_seconds is None
    assert nothing.mean_log_probability is None


def test_restarts_are_counted_by_row(codec: CodeLlamaTokenizer) -> None:
    ids = codec.encode("on and on")
    found = complete(scripted(ids, restarts_at=2), codec, [1, 5], greedy(9), 2, lambda _: None)
    assert [completion.restarts for completion in found] == [0, 1]


def test_what_is_held_back_comes_at_the_end(codec: CodeLlamaTokenizer) -> None:
    half = codec.encode("漢")[-3:-1]
    steps: list[str] = []
    (cut,) = complete(scripted(half), codec, [1, 5], greedy(2), 1, steps.append)
    assert steps == ["", "", cut.text]
    assert set(cut.text) == {"\ufffd"}


def test_ctrl_c_keeps_what_there_is(codec: CodeLlamaTokenizer) -> None:
    engine = Scripted(codec.encode("on and on and on"))
    steps: list[str] = []

    def interrupt(text: str) -> None:
        steps.append(text)
        if len(steps) == 2:
            raise KeyboardInterrupt

    (stopped,) = complete(cast(Engine, engine), codec, [1, 5], greedy(50), 1, interrupt)
    assert (stopped.finish, stopped.tokens) == ("stopped", 2)
    assert stopped.text == "".join(steps)
    assert engine.is_closed, "the engine is free for the next prompt"


def test_only_its_own_turns_count(
    codec: CodeLlamaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class SlowEngine(Scripted):
        def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Step]:
            for step in super().generate(prompts, sampling):
                now[0] += 2
                yield step

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    engine = cast(Engine, SlowEngine(codec.encode("a b c")))
    generation = TextGeneration(engine, codec, [1, 5], greedy(3), 1)
    while not generation.is_over:
        with generation.clock():
            generation.step()
        now[0] += 100
    (completion,) = generation.completions()
    assert completion.seconds == 2 * completion.tokens
    assert completion.first_token_seconds == 2
