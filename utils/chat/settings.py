"""The command line of Inference.py, and what it says for every prompt of a session."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.chat.menus import PARAMETERS, parameter_flag
from utils.cli import config_from, script_parser
from utils.config import Config
from utils.device import choose_device_for_inference
from utils.errors import UsageError
from utils.quantization import QUANTIZATIONS
from utils.sampling import Sampling

FRESH_SEEDS = 2**32  # short enough to be typed again


@dataclass(frozen=True)
class Settings:
    """What the command line and the configuration say."""

    config: Config
    device: torch.device
    sampling: Sampling
    samples: int
    quantize: str | None  # of QUANTIZATIONS
    as_json: bool
    asks_sampling: bool


def settings_from(args: argparse.Namespace) -> Settings:
    """The flags, checked before anything slow begins."""
    if args.num_samples < 1:
        raise UsageError(f"--num-samples must be 1 or more, not {args.num_samples}")
    config = config_from(args)
    given = {name: getattr(args, name) for name in PARAMETERS}
    return Settings(
        config=config,
        device=choose_device_for_inference(args.device),
        sampling=Sampling.from_config(config.generation, **given, seed=args.seed),
        samples=args.num_samples,
        quantize=args.quantize,
        as_json=args.json,
        asks_sampling=all(value is None for value in given.values()),
    )


def inference_parser() -> argparse.ArgumentParser:
    parser = script_parser(
        "Generate text with trained checkpoints. Without a prompt, on a terminal, it asks: q or"
        " Ctrl-D quits; Ctrl-C stops a generation, leaves a menu for the prompt, and at an empty"
        " prompt, or before a model is loaded, quits with exit code 130."
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
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="repeatable; an empty one begins a text from nothing; of one longer than the model's"
        " window the end is read",
    )
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
    parser.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        help="hold the weights in fewer bits: less memory, a little less exact",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per text on stdout")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N (default: GPU if any)"
    )
    return parser
