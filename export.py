"""Take a trained model elsewhere: python export.py CHECKPOINT --to hf DIR

`--to hf DIR` writes a folder for Hugging Face transformers, `--to gguf FILE` a file for llama.cpp.
Both compute the checkpoint's function: it is GPT-2's.
"""

if __name__ == "__main__":  # first, for the other imports take seconds
    from utils.interrupts import quit_on_interrupt

    quit_on_interrupt()

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
from utils.quantization import QUANTIZATIONS
from utils.terminal import printable, say

HUGGING_FACE, GGUF = "hf", "gguf"
GGUF_MAGIC = b"GGUF"
DTYPES = {HUGGING_FACE: tuple(hugging_face.DTYPES), GGUF: ("f32", "f16", "q8_0", "q4_0")}
GGUF_DTYPES = {"int8": "q8_0", "int4": "q4_0"}  # by what --quantize calls them everywhere else


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    kind, target = args.to[0], Path(args.to[1]).resolve()
    dtype = _dtype(args, kind)
    _check_target(args, kind, target)
    config = config_from(args)
    path, *others = select(args.run, [args.checkpoint], config, {})
    if others:
        raise UsageError(f"{args.checkpoint}: names {1 + len(others)} checkpoints", "Name one.")
    say(f"exporting {printable(str(path))} to {printable(str(target))}")
    trained = load_trained(path, config)
    if target.exists():
        say("replacing the export that is there")
    if kind == HUGGING_FACE:
        hugging_face.export_folder(trained, target, dtype)
        size_bytes = sum(file.stat().st_size for file in target.iterdir())
    else:
        from utils.exporting.gguf_file import export_file  # gguf is an extra

        export_file(trained, target, dtype)
        size_bytes = target.stat().st_size
    say(
        f"{printable(str(target))}: {trained.parameters:,} parameters in {dtype},"
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


def _dtype(args: argparse.Namespace, kind: str) -> str:
    """What the matrices are written as: --dtype, or what --quantize stands for, or f32."""
    if kind not in DTYPES:
        raise UsageError(f"--to {kind}: no such format", f"Formats are {', '.join(DTYPES)}.")
    if args.quantize and kind == HUGGING_FACE:
        bits = args.quantize.removeprefix("int")
        raise UsageError(
            f"--to {kind} has no --quantize: transformers quantizes GPT-2, whose matrices it has as"
            " Conv1D, while it loads the folder, with bitsandbytes",
            "Export without it and give from_pretrained quantization_config="
            f"BitsAndBytesConfig(load_in_{bits}bit=True), or export --to {GGUF}.",
        )
    dtype: str = GGUF_DTYPES.get(args.quantize, "f32") if args.dtype is None else args.dtype
    if dtype not in DTYPES[kind]:
        raise UsageError(
            f"--to {kind} has no --dtype {dtype}", f"It has {', '.join(DTYPES[kind])}."
        )
    if args.quantize and dtype != GGUF_DTYPES[args.quantize]:
        raise UsageError(
            f"--quantize {args.quantize} is --dtype {GGUF_DTYPES[args.quantize]}, not {dtype}",
            "Give one of the two.",
        )
    return dtype


def _check_target(args: argparse.Namespace, kind: str, target: Path) -> None:
    """Say what stands in the way of the export, before anything is loaded."""
    if not args.to[1]:
        raise UsageError("--to names no place", "Give the path of what shall be written.")
    if kind == HUGGING_FACE:
        hugging_face.check_replaceable(target)
        return
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(
            "--to gguf needs the package gguf",
            "pip install gguf (the extra `export` of pyproject.toml).",
        )
    if target.exists() and not _is_gguf(target):
        raise UsageError(f"{target}: is no GGUF file", "Name another: only those are replaced.")
    if target.exists() and not args.overwrite:
        raise UsageError(f"{target}: is there already", "Name another file, or give --overwrite.")


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
        metavar="TYPE",
        help="; ".join(f"for {kind}: {', '.join(DTYPES[kind])}" for kind in DTYPES)
        + " (default: f32)",
    )
    parser.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        help="for gguf: "
        + ", ".join(f"{name} is --dtype {dtype}" for name, dtype in GGUF_DTYPES.items()),
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a GGUF file; an earlier export to hf is replaced without, nothing else with",
    )
    return parser


if __name__ == "__main__":
    run_script(main)
