"""Generate text with trained checkpoints: python Inference.py

Without flags it asks: one model or several, which run, which checkpoints, then prompt after
prompt. Each question has a flag. Text goes to stdout, everything else to stderr.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizer import CodeLlamaTokenizer
from utils.chat.answers import answer
from utils.chat.menus import QUIT, Quit, ask_line, choose_sampling, remember, use_history
from utils.chat.models import LoadedModel, load_models
from utils.chat.prompts import STANDARD_INPUT, given_prompts, read_prompt
from utils.chat.selection import select
from utils.chat.settings import Settings, inference_parser, settings_from
from utils.checkpoint import Checkpoint
from utils.cli import run_script
from utils.device import describe_device, release_memory
from utils.errors import CheckpointError, PipelineError, UsageError
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
            paths = select(args.run, args.checkpoint, settings.config, {})
            answer_all(paths, prompts, settings)
    except Quit:
        say("Goodbye.", "dim")
    finally:
        release_memory(settings.device)


def chat(args: argparse.Namespace, settings: Settings) -> None:
    """Choose models and talk to them, until Quit; a file that does not load is not the end."""
    use_history()
    problems: dict[Path, str] = {}
    while True:
        try:
            paths = select(args.run, args.checkpoint, settings.config, problems)
        except CheckpointError as error:  # a run without a usable file; there may be others
            runs = list_runs(settings.config.paths.checkpoint_dir)
            if args.run or args.checkpoint or len(runs) < 2:
                raise
            say_error(error)
            continue
        models = load(paths, settings, None if args.checkpoint else problems)
        if models:
            converse(models, settings)
            args.run = None  # other models are wanted
        args.checkpoint = None
        models.clear()
        release_memory(settings.device)


def answer_all(paths: Sequence[Path], prompts: Sequence[str], settings: Settings) -> None:
    """Answer the prompts, or the one on standard input, each by all models. Ctrl-C ends it."""
    if not prompts:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt", "Give --prompt TEXT, --prompt-file or a pipe.")
        prompts = [read_prompt(STANDARD_INPUT)]
    models = load(paths, settings, None)
    if not models:
        raise Quit
    for number, prompt in enumerate(prompts):
        if number and not settings.as_json:
            emit()
        if not answer(models, prompt, settings.sampling, settings):
            raise KeyboardInterrupt


def converse(models: Sequence[LoadedModel], settings: Settings) -> None:
    """Answer prompt after prompt, until other models are wanted. Errors end only an answer."""
    custom: Sampling | None = None
    while True:
        say(f"\nPrompt ({QUIT} quits, {OTHER_MODELS} chooses other models)", "bold")
        prompt = ask_line("> ", "--prompt", strip=False)
        if prompt.strip() == OTHER_MODELS:
            return
        remember(prompt)
        sampling = settings.sampling
        if settings.asks_sampling:
            sampling = choose_sampling(settings.sampling, custom)
            custom = sampling if sampling != settings.sampling else custom
        try:
            answer(models, prompt, sampling, settings)
        except PipelineError as error:
            say_error(error)


def load(
    paths: Sequence[Path], settings: Settings, problems: dict[Path, str] | None
) -> list[LoadedModel]:
    """The models in `paths`, each with its tokenizer: see utils.chat.models.load_models."""
    folder = settings.config.paths.tokenizer_dir

    def load_codec(checkpoint: Checkpoint) -> CodeLlamaTokenizer:
        return CodeLlamaTokenizer.load_for(checkpoint, folder)

    return load_models(paths, settings, load_codec, problems)


if __name__ == "__main__":
    run_script(main)
