"""Answers to one prompt: a model's text as it grows, or several models' texts compared."""

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from utils.chat.columns import Columns, bands, emit_columns, terminal_columns
from utils.chat.completion import Completion, TextGeneration, complete
from utils.chat.models import LoadedModel
from utils.chat.report import Result, emit_json, say_restarts, say_statistics, say_summary
from utils.chat.settings import FRESH_SEEDS, Settings
from utils.sampling import Sampling
from utils.terminal import Progress, can_redraw, emit, printable, say, style

TURN_SECONDS = 0.05


def answer(
    models: Sequence[LoadedModel], prompt: str, sampling: Sampling, settings: Settings
) -> bool:
    """Continue one prompt with every model, all with the same seed; false if Ctrl-C stopped it."""
    if sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbelow(FRESH_SEEDS))
    if not prompt:
        say("An empty prompt: the text begins at <s> alone.", "dim")
    side_by_side = bands(models, terminal_columns())
    has_columns = len(side_by_side[0]) > 1 and can_redraw(sys.stdout) and not settings.as_json
    if has_columns:
        emit_text(prompt, "bold")
        results: list[Result] = []
        for band in side_by_side:
            if not any(result.is_stopped for result in results):
                emit()
                results += _answer_side_by_side(band, prompt, sampling, settings.samples)
        say_restarts(results)
    else:
        results = _answer_in_order(models, prompt, sampling, settings)
    is_stopped = any(result.is_stopped for result in results)
    if len(models) > 1 and (has_columns or not is_stopped):
        say_summary(results)
    return not is_stopped


def emit_text(text: str, *styles: str, end: str = "\n") -> None:
    """Text on stdout: as it is for programs, without control characters for a terminal."""
    if sys.stdout.isatty():
        text = style(printable(text), *styles, stream=sys.stdout)
    emit(text, end)


def _answer_in_order(
    models: Sequence[LoadedModel], prompt: str, sampling: Sampling, settings: Settings
) -> list[Result]:
    """One model after another, until Ctrl-C."""
    results: list[Result] = []
    for number, model in enumerate(models, start=1):
        if len(models) > 1:
            if results and not settings.as_json:
                emit()
            say(f"[{number}/{len(models)}] {printable(model.label)}", "bold", "cyan")
        completions = _generate(model, prompt, sampling, settings)
        results.append(Result(model, prompt, sampling, completions))
        if settings.as_json:
            emit_json(results[-1])
        say_statistics(results[-1])
        if results[-1].is_stopped:
            break
    return results


def _generate(
    model: LoadedModel, prompt: str, sampling: Sampling, settings: Settings
) -> list[Completion]:
    """Generate with one model, showing one sample as it grows, or several when they are done."""
    prompt_ids = model.encode(prompt)

    def run(on_step: Callable[[str], None]) -> list[Completion]:
        return complete(model.engine, model.codec, prompt_ids, sampling, settings.samples, on_step)

    if settings.samples == 1 and not settings.as_json:
        emit_text(prompt, "bold", end="")
        completions = run(lambda text: emit_text(text, end=""))
        emit()
        return completions
    with Progress("Generating", sampling.max_length, "tokens") as progress:
        completions = run(lambda _: progress.advance())
    for number, completion in enumerate(() if settings.as_json else completions, start=1):
        if number > 1:
            emit()
        _say_sample(number, completion.seed)
        emit_text(prompt, "bold", end="")
        emit_text(completion.text)
    return completions


def _answer_side_by_side(
    models: Sequence[LoadedModel], prompt: str, sampling: Sampling, samples: int
) -> list[Result]:
    """All models in columns: one sample as it grows, or several when they are done."""
    generations = [
        TextGeneration(m.engine, m.codec, m.encode(prompt), sampling, samples) for m in models
    ]
    headers = [model.label.replace("/", "/\n") for model in models]
    if samples == 1:
        emit_columns(headers, "bold", "cyan")
        columns = Columns(len(models))
        try:
            _take_turns(generations, columns.add, columns.end, columns.paint)
        finally:
            columns.finish()
    else:
        with Progress("Generating", len(models) * sampling.max_length, "tokens") as progress:
            _take_turns(generations, lambda *_: progress.advance(), lambda _: None, lambda: None)
    results = [
        Result(model, prompt, sampling, generation.completions())
        for model, generation in zip(models, generations, strict=True)
    ]
    for number in range(samples if samples > 1 else 0):
        texts = [result.completions[number] for result in results]
        if number:
            emit()
        _say_sample(number + 1, texts[0].seed)
        emit_columns(headers, "bold", "cyan")
        emit_columns([completion.text for completion in texts])
    return results


def _take_turns(
    generations: Sequence[TextGeneration],
    on_text: Callable[[int, str], None],
    on_end: Callable[[int], None],
    on_turn: Callable[[], None],
) -> None:
    """Let models generate in turns of TURN_SECONDS, until all have said everything, or Ctrl-C.

    So all columns grow together, and the speeds stay honest: only one model computes at a time, its
    clock runs in its own turns alone, and nothing is drawn in them. A turn is long enough for many
    tokens of a fast model, whose weights the others' drive out of the cache. And whatever else
    keeps the machine busy slows all of them down alike, not only the one whose time it was.
    """
    waiting = dict(enumerate(generations))
    try:
        while waiting:
            for number, generation in list(waiting.items()):
                if _is_over_after_turn(generation, partial(on_text, number)):
                    del waiting[number]
                    on_end(number)
                on_turn()
    except KeyboardInterrupt:
        for number, generation in waiting.items():
            on_text(number, generation.stop())


def _is_over_after_turn(generation: TextGeneration, on_text: Callable[[str], None]) -> bool:
    deadline = time.perf_counter() + TURN_SECONDS
    with generation.clock():
        while time.perf_counter() < deadline:
            text = generation.step()
            if text is None:
                return True
            on_text(text)
    return False


def _say_sample(number: int, seed: int) -> None:
    say(f"sample {number}, seed {seed}", "dim")
