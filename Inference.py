"""Generate text with trained checkpoints: python Inference.py

Without flags it asks: one model or several, which run, which checkpoints, then prompt after
prompt. Each question has a flag. Text goes to stdout, everything else to stderr.
"""

import argparse
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model import LanguageModel, inference_dtype, load_for_inference
from tokenizer import CodeLlamaTokenizer
from utils.chat.checkpoint_menu import (
    all_usable,
    choose_checkpoints,
    choose_mode,
    choose_run,
    inspect_run,
    problem_of,
    say_memory,
)
from utils.chat.completion import STANDARD_INPUT, Completion, complete, encode_prompt, read_prompt
from utils.chat.menus import (
    ALL,
    PARAMETERS,
    QUIT,
    Quit,
    ask_line,
    choose_sampling,
    parameter_flag,
    remember,
    use_history,
)
from utils.chat.report import (
    Result,
    emit_json,
    run_quietly,
    run_shown,
    say_statistics,
    say_summary,
)
from utils.checkpoint import Checkpoint, CheckpointSummary, summarise_checkpoint
from utils.cli import config_from, run_script, script_parser
from utils.config import Config
from utils.device import (
    choose_device,
    describe_device,
    memory_errors,
    release_memory,
)
from utils.errors import CheckpointError, ConfigError, PipelineError, UsageError
from utils.files import sha256_of
from utils.generation import Sampling, generate
from utils.runs import find_checkpoint, find_in_run, find_run
from utils.terminal import emit, is_interactive, printable, say, say_error, warn
from utils.tokenizer_files import TOKENIZER_FILE

OTHER_MODELS = "m"
SEEDS = 2**32
WARM_UP = Sampling(max_length=2, temperature=0.0, top_k=0, top_p=1.0)


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint ready to generate, and what to call it."""

    label: str
    path: Path
    step: int | None
    model: LanguageModel
    tokenizer: CodeLlamaTokenizer


@dataclass(frozen=True)
class Settings:
    """What the command line and the configuration say, for every prompt of this run."""

    config: Config
    device: torch.device
    sampling: Sampling
    samples: int
    as_json: bool
    asks_sampling: bool


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    settings = _settings(args)
    prompts = [*(args.prompt or ()), *map(read_prompt, args.prompt_file or ())]
    is_chat = is_interactive() and not prompts
    if args.json and is_chat:
        raise UsageError("--json needs a prompt", "Give --prompt, --prompt-file or a pipe.")
    say(f"Device: {describe_device(settings.device)}", "dim")
    try:
        if is_chat:
            chat(args, settings)
        else:
            answer_all(select(args, settings.config, {}), prompts, settings)
    except Quit:
        say("Goodbye.", "dim")
    finally:
        release_memory(settings.device)


def chat(args: argparse.Namespace, settings: Settings) -> None:
    """Choose models and talk to them, until Quit; a file that does not load is not the end."""
    use_history()
    problems: dict[Path, str] = {}
    while True:
        paths = select(args, settings.config, problems)
        if models := load_models(paths, settings, None if args.checkpoint else problems):
            converse(models, settings)
            args.run = args.checkpoint = None  # other models are wanted
        models.clear()
        release_memory(settings.device)


def answer_all(paths: Sequence[Path], prompts: Sequence[str], settings: Settings) -> None:
    """Answer the prompts, or the one on standard input, each by all models. Ctrl-C ends it."""
    if not prompts:
        if sys.stdin.isatty():
            raise UsageError("there is no prompt", "Give --prompt TEXT, --prompt-file or a pipe.")
        prompts = [read_prompt(STANDARD_INPUT)]
    models = load_models(paths, settings, None)
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


def select(args: argparse.Namespace, config: Config, problems: dict[Path, str]) -> list[Path]:
    """The checkpoints that the flags name; what they leave open is asked."""
    folder = config.paths.checkpoint_dir
    run = find_run(folder, args.run) if args.run else None
    if not args.checkpoint:
        several = is_interactive() and choose_mode()
        run = run or choose_run(folder)
        return choose_checkpoints(inspect_run(run, config, problems), several)
    paths = []
    for name in args.checkpoint:
        path = Path(name)
        if len(path.parts) > 1 or (run is None and path.exists()):
            paths.append(find_checkpoint(path))
            continue
        run = run or choose_run(folder)
        is_all = name == ALL
        paths += all_usable(inspect_run(run, config, {})) if is_all else [find_in_run(run, name)]
    return paths


def load_models(
    paths: Sequence[Path], settings: Settings, problems: dict[Path, str] | None
) -> list[LoadedModel]:
    """Load checkpoints and their tokenizers.

    A file that cannot be used is noted in `problems` with its reason, and left out; without
    `problems` its error is raised.
    """
    summaries: dict[Path, CheckpointSummary] = {}
    for path in paths:
        with noted(path, problems):
            summaries[path] = summarise_checkpoint(path, settings.config)
    if summaries:
        item_bytes = inference_dtype(settings.device).itemsize
        say_memory(list(summaries.values()), settings.samples, item_bytes, settings.device)
    has_one_folder = len({path.parent for path in summaries}) == 1
    models: list[LoadedModel] = []
    for path in summaries:
        label = path.name if has_one_folder else f"{path.parent.name}/{path.name}"
        say(f"Loading {printable(label)}", "dim")
        with noted(path, problems):
            models.append(load_model(path, label, settings))
    return models


@contextmanager
def noted(path: Path, problems: dict[Path, str] | None) -> Iterator[None]:
    """Say what is wrong with a file and note it in `problems`; raise it where there is none."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        if problems is None:
            raise
        problems[path] = problem_of(error, path)
        say_error(error)


def load_model(path: Path, label: str, settings: Settings) -> LoadedModel:
    """One checkpoint with its tokenizer, warmed up so that its first answer is timed fairly."""
    config, device = settings.config, settings.device
    with memory_errors(f"loading {path}", "Choose fewer checkpoints, or give --device cpu."):
        model, checkpoint = load_for_inference(path, config, device)
        tokenizer = load_tokenizer(config.paths.tokenizer_dir, checkpoint)
        prompt = torch.tensor([tokenizer.bos_id], device=device)
        list(generate(model, [prompt], WARM_UP, tokenizer.eos_id, tokenizer.pad_id))
    return LoadedModel(label, path, checkpoint.step, model, tokenizer)


def load_tokenizer(folder: Path, checkpoint: Checkpoint) -> CodeLlamaTokenizer:
    """The saved tokenizer; CheckpointError if the checkpoint was trained with another one."""
    file = folder / TOKENIZER_FILE
    if checkpoint.tokenizer_sha256 and file.exists():
        found = sha256_of(file)
        if found != checkpoint.tokenizer_sha256:
            raise CheckpointError(
                f"{checkpoint.name}: was trained with another tokenizer (SHA-256"
                f" {checkpoint.tokenizer_sha256[:16]}) than the one in {folder} ({found[:16]})",
                "Name the folder of its tokenizer: --set paths.tokenizer_dir=FOLDER",
            )
    return CodeLlamaTokenizer.load(folder, checkpoint.config)


def answer(
    models: Sequence[LoadedModel], prompt: str, sampling: Sampling, settings: Settings
) -> bool:
    """Continue one prompt with every model, all with the same seed; false if Ctrl-C stopped it."""
    if sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbelow(SEEDS))
    if not prompt:
        say("An empty prompt: the text begins at <s> alone.", "dim")
    results: list[Result] = []
    for number, loaded in enumerate(models, start=1):
        if len(models) > 1:
            if results and not settings.as_json:
                emit()
            say(f"[{number}/{len(models)}] {printable(loaded.label)}", "bold", "cyan")
        completions = generate_shown(loaded, prompt, sampling, settings)
        result = Result(loaded.label, loaded.path, loaded.step, prompt, sampling, completions)
        if settings.as_json:
            emit_json(result)
        say_statistics(result)
        if result.is_stopped:
            return False
        results.append(result)
    if len(models) > 1:
        say_summary(results)
    return True


def generate_shown(
    loaded: LoadedModel, prompt: str, sampling: Sampling, settings: Settings
) -> list[Completion]:
    """Generate with one model, showing one sample as it grows, or several when they are done."""
    model, tokenizer = loaded.model, loaded.tokenizer
    prompt_ids = encode_prompt(tokenizer, prompt)
    if len(prompt_ids) > model.max_positions:
        warn(
            f"the prompt has {len(prompt_ids):,} tokens, {printable(loaded.label)} reads at most"
            f" {model.max_positions:,}: it sees the last {model.max_positions // 2:,}"
        )

    def run(on_step: Callable[[str], None]) -> list[Completion]:
        use_cache = model.config.model.use_cache
        return complete(
            model, tokenizer, prompt_ids, sampling, settings.samples, use_cache, on_step
        )

    if settings.as_json:
        return run_quietly(run, sampling.max_length)
    return run_shown(run, prompt, sampling.max_length, settings.samples)


def _settings(args: argparse.Namespace) -> Settings:
    """The flags, checked before anything slow begins."""
    if args.num_samples < 1:
        raise UsageError(f"--num-samples must be 1 or more, not {args.num_samples}")
    if args.seed is not None and not 0 <= args.seed < SEEDS:
        raise UsageError(f"--seed must be 0 to {SEEDS - 1}, not {args.seed}")
    config = config_from(args)
    given = {name: getattr(args, name) for name in PARAMETERS}
    return Settings(
        config=config,
        device=choose_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        sampling=Sampling.from_config(config.generation, **given, seed=args.seed),
        samples=args.num_samples,
        as_json=args.json,
        asks_sampling=all(value is None for value in given.values()),
    )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        "Generate text with trained checkpoints. Without a prompt, on a terminal, it asks: q or"
        " Ctrl-D quits; Ctrl-C stops a generation, and at a question quits with exit code 130."
        " With a prompt, or with one on standard input, it answers and ends."
    )
    parser.add_argument("--run", metavar="NAME", help="training run: name, folder or latest")
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME",
        help="file, or within the run: latest, best, a step number, a file name, all; repeatable:"
        " more than one are compared",
    )
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="repeatable")
    parser.add_argument(
        "--prompt-file",
        action="append",
        type=Path,
        metavar="PATH",
        help="a prompt, newlines and all; - is standard input; repeatable",
    )
    for name, (label, kind) in PARAMETERS.items():
        help_text = f"{label[0].lower()}{label[1:]} (default: generation.{name})"
        metavar = "N" if kind is int else "X"
        parser.add_argument(parameter_flag(name), type=kind, metavar=metavar, help=help_text)
    parser.add_argument("--seed", type=int, metavar="N", help="repeats a text (default: random)")
    parser.add_argument(
        "--num-samples",
        type=int,
        default=1,
        metavar="N",
        help="texts per prompt and model; number i has seed + i (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per text on stdout")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N (default: GPU if any)"
    )
    return parser


if __name__ == "__main__":
    run_script(main)
