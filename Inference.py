"""Generate text with trained checkpoints: python Inference.py

Without flags it asks: one model or several, which run, which checkpoints, then prompt after
prompt. Each question has a flag. Text goes to stdout, everything else to stderr.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tokenizer import CodeLlamaTokenizer
from utils.chat.answers import answer
from utils.chat.line_editing import PromptHistory, start_line_editing, unfinished_line
from utils.chat.menus import QUIT, Quit, ask_line, choose_sampling
from utils.chat.models import LoadedModel, load_models
from utils.chat.prompts import STANDARD_INPUT, given_prompts, read_prompt
from utils.chat.selection import Selection, selection_of
from utils.chat.settings import Settings, inference_parser, settings_from
from utils.checkpoint import Checkpoint
from utils.cli import run_script
from utils.device import describe_device, release_memory
from utils.errors import CheckpointError, PipelineError, UsageError
from utils.interrupts import SAME_SIGNAL_SECONDS
from utils.runs import list_runs
from utils.sampling import Sampling
from utils.terminal import emit, is_interactive, say, say_error

OTHER_MODELS = "m"


def main(arguments: Sequence[str]) -> None:
    args = inference_parser().parse_args(arguments)
    settings = settings_from(args)
    prompts = given_prompts(args.prompt or (), args.prompt_file or ())
    is_chat = is_interactive() and not prompts
    if args.json and is_chat:
        raise UsageError("--json needs a prompt", "Give --prompt, --prompt-file or a pipe.")
    say(f"Device: {describe_device(settings.device)}", "dim")
    try:
        if is_chat:
            chat(args, settings)
        else:
            selection = selection_of(args.run, args.checkpoint, settings.config, {})
            answer_all(selection, prompts, settings)
    except Quit:
        say("Goodbye.", "dim")
    finally:
        release_memory(settings.device)


def chat(args: argparse.Namespace, settings: Settings) -> None:
    """Choose models and talk to them, until Quit; a file that does not load is not the end."""
    start_line_editing()
    history = PromptHistory()
    problems: dict[Path, str] = {}
    models: list[LoadedModel] = []
    custom: Sampling | None = None
    while True:
        try:
            selection = selection_of(args.run, args.checkpoint, settings.config, problems)
        except KeyboardInterrupt:
            if not models:
                raise
            say("\nThe models stay as they are.", "dim")
        except CheckpointError as error:  # a run without a usable file; there may be others
            runs = list_runs(settings.config.paths.checkpoint_dir)
            if not models and (args.run or args.checkpoint or len(runs) < 2):
                raise
            say_error(error)
        else:
            models.clear()  # there may not be memory for these and the next ones
            release_memory(settings.device)
            models += load_chosen(selection, args, settings, problems)
        if models:
            custom = converse(models, settings, custom, history)
            args.run = None  # other models are wanted


def answer_all(selection: Selection, prompts: Sequence[str], settings: Settings) -> None:
    """Answer the prompts, or the one on standard input, each by all models. Ctrl-C ends it."""
    if not prompts:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt", "Give --prompt TEXT, --prompt-file or a pipe.")
        prompts = [read_prompt(STANDARD_INPUT)]
    models = load(selection, settings, {}, asks_again=False)
    if not models:
        raise Quit
    for number, prompt in enumerate(prompts):
        if number and not settings.as_json:
            emit()
        if not answer(models, prompt, settings.sampling, settings):
            raise KeyboardInterrupt


def load_chosen(
    selection: Selection, args: argparse.Namespace, settings: Settings, problems: dict[Path, str]
) -> list[LoadedModel]:
    """The models that the flags or the answers named; none if Ctrl-C says to ask again."""
    is_flagged, args.checkpoint = bool(args.checkpoint), None
    try:
        return load(selection, settings, problems, asks_again=not is_flagged)
    except KeyboardInterrupt:
        if is_flagged:
            raise
        say("\nNothing was loaded.", "dim")
        return []


def converse(
    models: Sequence[LoadedModel],
    settings: Settings,
    custom: Sampling | None,
    history: PromptHistory,
) -> Sampling | None:
    """Answer prompt after prompt, until other models are wanted. Errors end only an answer.

    Takes and returns the last parameters that were not the default ones.
    """
    stopped_seconds = -math.inf
    while True:
        say(f"\nPrompt ({QUIT} quits, {OTHER_MODELS} chooses other models)", "bold")
        with history.recalled():
            prompt = ask_prompt(stopped_seconds)
        if prompt.strip() == OTHER_MODELS:
            return custom
        history.remember(prompt)
        try:
            sampling = settings.sampling
            if settings.asks_sampling:
                sampling = choose_sampling(settings.sampling, custom)
                custom = sampling if sampling != settings.sampling else custom
            is_stopped = not answer(models, prompt, sampling, settings)
        except KeyboardInterrupt:  # at a question, or before the first token
            is_stopped = True
            say()
        except PipelineError as error:
            is_stopped = False
            say_error(error)
        if is_stopped:
            stopped_seconds = time.monotonic()


def ask_prompt(stopped_seconds: float) -> str:
    """A prompt, less the newline at the end of what was pasted.

    Ctrl-C drops a line that was begun. At an empty one it is raised, unless it is the second of
    two that were meant for the text which ended at `stopped_seconds`.
    """
    while True:
        try:
            return ask_line("> ", "--prompt", strip=False).removesuffix("\n")
        except KeyboardInterrupt:
            is_late = time.monotonic() - stopped_seconds < SAME_SIGNAL_SECONDS
            if not (is_late or unfinished_line()):
                raise
            say()


def load(
    selection: Selection, settings: Settings, problems: dict[Path, str], asks_again: bool
) -> list[LoadedModel]:
    """The selected models, each with its tokenizer: see utils.chat.models.load_models.

    Where nobody `asks_again` for others, it is an error if broken files leave none.
    """
    paths, required = selection.paths, selection.named
    if len(paths) == 1 and not asks_again:
        required = paths
    folder = settings.config.paths.tokenizer_dir

    def load_codec(checkpoint: Checkpoint) -> CodeLlamaTokenizer:
        return CodeLlamaTokenizer.load_for(checkpoint, folder)

    models = load_models(paths, settings, load_codec, required, problems)
    if not models and not asks_again and any(path in problems for path in paths):
        raise CheckpointError(
            f"{paths[0].parent}: none of the checkpoints can be used",
            "Choose another run with --run.",
        )
    return models


if __name__ == "__main__":
    run_script(main)
