"""What checkpoints are worth on a text: python evaluate.py CHECKPOINT ... --text FILE

Loss (nats a token), perplexity and bits per byte, each token read in a sliding window. Without
--text it is the held-out documents of the dataset. Results go to stdout, everything else to stderr.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenizer import CodeLlamaTokenizer
from utils.chat.selection import select
from utils.checkpoint import Checkpoint, summarise_checkpoint
from utils.cli import config_from, run_script, script_parser
from utils.config import Config
from utils.device import (
    choose_device_for_inference,
    describe_device,
    memory_errors,
    release_memory,
)
from utils.errors import CheckpointError, TokenizerError, UsageError
from utils.evaluating.documents import Candidate, DatasetFolder, Source, TextFile
from utils.evaluating.report import Result, emit_json, emit_table, say_result, warn_of_differences
from utils.evaluating.sliding_window import places_of, total_nats
from utils.evaluation import Evaluation
from utils.loading import load_for_inference
from utils.quantization import QUANTIZATIONS
from utils.runs import short_names
from utils.terminal import Progress, printable, say, say_error, warn

# Windows at once, by kind of device: a GPU is filled by many, a CPU by few, with news more often.
BATCH_SIZES = {"cuda": 32, "cpu": 4}

# What is wrong with one of several checkpoints, its tokenizer, or its width for int4: the others
# are still evaluated. Wrong text, or too little memory, is for all of them alike.
OF_ONE_CHECKPOINT = (CheckpointError, TokenizerError, UsageError)


@dataclass(frozen=True)
class Settings:
    """What the command line and the configuration say, for every checkpoint."""

    config: Config
    device: torch.device
    source: Source
    window: int | None
    stride: int | None
    batch_size: int
    quantize: str | None


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    _check(args)
    config = config_from(args)
    paths = select(args.run, args.checkpoint, config, {})
    settings = _settings(args, config)
    for path in paths:  # all that can be told without reading weights, before anything slow
        window_and_stride(summarise_checkpoint(path, config).config, path, settings)
    say(f"Device: {describe_device(settings.device)}", "dim")
    results: list[Result] = []
    failed: list[str] = []
    try:
        for path, name in zip(paths, short_names(paths), strict=True):
            label = f"{printable(name)} {settings.quantize or ''}".rstrip()
            try:
                result = evaluate_checkpoint(path, label, settings)
            except OF_ONE_CHECKPOINT as error:
                if len(paths) == 1:
                    raise
                say_error(error)
                failed.append(label)
            else:
                results.append(result)
                say_result(result)
                if args.json:
                    emit_json(result)
            release_memory(settings.device)
    finally:  # what was measured before an error or Ctrl-C is not lost
        if results and not args.json:
            emit_table(results)
    warn_of_differences(results)
    if failed:
        raise CheckpointError(f"not evaluated: {', '.join(failed)}", "Why stands above.")


def evaluate_checkpoint(path: Path, label: str, settings: Settings) -> Result:
    """Load a checkpoint and score the text with it."""
    device, source = settings.device, settings.source
    say(f"Loading {label}", "dim")
    with memory_errors(f"loading {path}", "Free memory, or give --device cpu."):
        model, checkpoint = load_for_inference(path, settings.config, device, settings.quantize)
    tokenizer = CodeLlamaTokenizer.load_for(checkpoint, settings.config.paths.tokenizer_dir)
    with memory_errors(f"the tokens of {source.path}", "Give --max-tokens, or a smaller text."):
        documents = source.documents(Candidate(checkpoint, tokenizer))
    warn_of_training_text(checkpoint, label, source)
    window, stride = window_and_stride(checkpoint.config, path, settings)
    places = places_of(documents.offsets, window, stride)
    read_tokens = int(places.lengths.sum())
    say(
        f"{printable(str(source.path))}, {documents.choice}: {documents.text_tokens:,} tokens in"
        f" {len(documents):,} document(s); {len(places):,} windows of up to {window:,}, {stride:,}"
        f" apart: {read_tokens:,} tokens to read"
    )
    start_seconds = time.monotonic()
    with (
        memory_errors(f"batches of {settings.batch_size} windows", "Lower --batch-size."),
        Progress(f"Evaluating {label}", read_tokens, "tokens") as progress,
    ):
        nats = total_nats(model, documents, places, settings.batch_size, progress.advance)
    text_bytes = documents.text_bytes(tokenizer.token_bytes())
    return Result(
        label=label,
        path=path,
        step=checkpoint.step,
        evaluation=Evaluation.of(nats, places.scored_tokens, text_bytes),
        documents=len(documents),
        tokens=places.scored_tokens,
        text_bytes=text_bytes,
        text=source.path,
        choice=documents.choice,
        window=window,
        stride=stride,
        tokenizer_sha256=tokenizer.sha256,
        quantize=settings.quantize,
        device=str(device),
        seconds=time.monotonic() - start_seconds,
    )


def window_and_stride(config: Config, path: Path, settings: Settings) -> tuple[int, int]:
    """Tokens in a window and between windows: as given, or what the model was trained with.

    Raises UsageError for what the model cannot do.
    """
    positions = config.model.max_position_embeddings
    window = settings.window or min(positions, config.dataset_prep.window)
    if window > positions:
        raise UsageError(
            f"--window {window}: {path} has only {positions} positions",
            "Leave --window out, or lower it.",
        )
    stride = settings.stride or max(window // 2, 1)
    if stride >= window:
        raise UsageError(
            f"--stride {stride} must be below the window of {path}, {window} tokens",
            "Half of it is a good choice, and the default.",
        )
    return window, stride


def warn_of_training_text(checkpoint: Checkpoint, label: str, source: Source) -> None:
    """Say where a checkpoint may have been trained on what it is evaluated on."""
    if not isinstance(source, DatasetFolder):
        return
    if source.everything:
        warn(f"{label}: documents that it was trained on are evaluated too, as --all asks")
    elif not source.is_of(checkpoint):
        warn(
            f"{label}: was not trained on {source.path} as it is now: documents that are held out"
            " of it may be among those that it was trained on"
        )


def _check(args: argparse.Namespace) -> None:
    """Refuse what the command line alone shows to be wrong."""
    for name, least in (("stride", 1), ("window", 2), ("batch_size", 1), ("max_tokens", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} must be {least} or more, not {value}")
    if args.all and args.text:
        raise UsageError("--all is for a dataset; of --text everything is scored")


def _settings(args: argparse.Namespace, config: Config) -> Settings:
    source: Source
    if args.text is not None:
        source = TextFile(args.text, args.max_tokens)
    else:
        if args.dataset is None:
            say(f"Neither --text nor --dataset: taking {config.paths.dataset_dir}", "dim")
        source = DatasetFolder(args.dataset or config.paths.dataset_dir, args.max_tokens, args.all)
    device = choose_device_for_inference(args.device)
    return Settings(
        config=config,
        device=device,
        source=source,
        window=args.window,
        stride=args.stride,
        batch_size=args.batch_size or BATCH_SIZES[device.type],
        quantize=args.quantize,
    )


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(
        "Loss, perplexity and bits per byte of checkpoints on a text file or a dataset. Each"
        " document is scored alone, from <s>, in windows that slide over it; <s> and </s> are not"
        " scored."
    )
    parser.add_argument(
        "checkpoint",
        nargs="+",
        metavar="CHECKPOINT",
        help="file, run folder, or within the run: latest, best, a step number, a file name, all",
    )
    parser.add_argument("--run", metavar="NAME", help="training run: name, folder or latest")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="UTF-8 text: cleaned_*.txt is an article a line, any other file is one document",
    )
    where.add_argument(
        "--dataset",
        type=Path,
        metavar="FOLDER",
        help="made by dataset_prep.py; the validation documents of the checkpoint's split"
        " (default: paths.dataset_dir)",
    )
    parser.add_argument("--all", action="store_true", help="all documents of the dataset")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens between windows (default: half a window)"
    )
    parser.add_argument(
        "--window", type=int, metavar="N", help="tokens in a window (default: as in training)"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="score only the first N tokens (default: all)"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="windows at once (default: 4, on a GPU 32)"
    )
    parser.add_argument(
        "--quantize", choices=QUANTIZATIONS, help="quantize the weights first (default: no)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line on stdout")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N (default: GPU if any)"
    )
    return parser


if __name__ == "__main__":
    run_script(main)
