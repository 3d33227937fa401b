"""Take a trained model elsewhere: python export.py CHECKPOINT --to hf DIR

`--to hf DIR` writes a folder for Hugging Face transformers, `--to gguf FILE` a file for llama.cpp.
Both compute the checkpoint's function: it is GPT-2's.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from tokenizer import CodeLlamaTokenizer
from utils.chat.selection import select
from utils.cli import config_from, run_script, script_parser
from utils.config import Config
from utils.errors import UsageError
from utils.exporting import hugging_face
from utils.exporting.trained import TrainedModel
from utils.files import format_bytes
from utils.loading import load_for_inference
from utils.terminal import printable, say

HUGGING_FACE, GGUF = "hf", "gguf"
GGUF_MAGIC = b"GGUF"
DTYPES = {HUGGING_FACE: tuple(hugging_face.DTYPES), GGUF: ("f32", "f16", "q8_0")}


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    kind, target = _target(args)
    config = config_from(args)
    path, *others = select(args.run, [args.checkpoint], config, {})
    if others:
        raise UsageError(f"{args.checkpoint}: names {1 + len(others)} checkpoints", "Name one.")
    say(f"exporting {printable(str(path))} to {printable(str(target))}")
    trained = load_trained(path, config)
    if kind == HUGGING_FACE:
        hugging_face.export_folder(trained, target, args.dtype)
        size_bytes = sum(file.stat().st_size for file in target.iterdir())
    else:
        from utils.exporting.gguf_file import export_file  # gguf is an extra

        export_file(trained, target, args.dtype)
        size_bytes = target.stat().st_size
    say(
        f"{printable(str(target))}: {trained.parameters:,} parameters in {args.dtype},"
        f" {format_bytes(size_bytes)}",
        "green",
    )


def load_trained(path: Path, config: Config) -> TrainedModel:
    """The model in a checkpoint, in fp32, with the tokenizer that it was trained with.

    Raises CheckpointError, or TokenizerError.
    """
    model, checkpoint = load_for_inference(path, config, torch.device("cpu"))
    tokenizer = CodeLlamaTokenizer.load_for(checkpoint, config.paths.tokenizer_dir)
    return TrainedModel(model, checkpoint, tokenizer.name, tokenizer.json)


def _target(args: argparse.Namespace) -> tuple[str, Path]:
    """What to write and where; what stands in its way is said before anything is loaded."""
    kind, target = args.to[0], Path(args.to[1]).resolve()
    if not args.to[1]:
        raise UsageError("--to names no place", "Give the path of what shall be written.")
    if kind not in DTYPES:
        raise UsageError(f"--to {kind}: no such format", f"Formats are {', '.join(DTYPES)}.")
    if args.dtype not in DTYPES[kind]:
        raise UsageError(
            f"--to {kind} has no --dtype {args.dtype}", f"It has {', '.join(DTYPES[kind])}."
        )
    if kind == HUGGING_FACE:
        hugging_face.check_replaceable(target)
        return kind, target
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(
            "--to gguf needs the package gguf",
            "pip install gguf (the extra `export` of pyproject.toml).",
        )
    if target.exists() and not _is_gguf(target):
        raise UsageError(f"{target}: is no GGUF file", "Name another: only those are replaced.")
    if target.exists() and not args.overwrite:
        raise UsageError(f"{target}: is there already", "Name another file, or give --overwrite.")
    return kind, target


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def _parser() -> argparse.ArgumentParser:
    parser = script_parser("Write a trained model in the format of another program.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="file, or folder of a run; with --run also latest, best, a step number, a file name",
    )
    parser.add_argument("--run", metavar="NAME", help="training run: name, folder or latest")
    parser.add_argument(
        "--to",
        nargs=2,
        required=True,
        metavar=("FORMAT", "PATH"),
        help="hf and the folder to write, or gguf and the file",
    )
    parser.add_argument(
        "--dtype",
        default="f32",
        metavar="TYPE",
        help="; ".join(f"for {kind}: {', '.join(DTYPES[kind])}" for kind in DTYPES)
        + " (default: f32)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a GGUF file; an earlier export to hf is replaced without, nothing else with",
    )
    return parser


if __name__ == "__main__":
    run_script(main)
