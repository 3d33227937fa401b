"""The options of train.py."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from utils.cli import script_parser, shared_options
from utils.errors import UsageError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = script_parser("Train the model on the dataset that dataset_prep.py made.")
    parser.add_argument(
        "--test", action="store_true", help="one epoch on the dataset of dataset_prep.py --test"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="PATH", help="go on from a checkpoint, or a run's latest"
    )
    parser.add_argument("--name", help="added to the run's name, for checkpoints and logs")
    parser.add_argument("--device", help="cuda (default), cuda:N or cpu")
    parser.add_argument(
        "--compare",
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN",
        help="runs to lay over it in its report",
    )
    parser.add_argument(
        "--report", metavar="RUN", help="write the report of a run that was, and train nothing"
    )
    args = parser.parse_args(arguments)
    if args.name and not re.fullmatch(r"[\w.-]+", args.name):
        raise UsageError(f"--name {args.name!r} may have only letters, digits, '.', '_' and '-'")
    if args.name and args.resume:
        raise UsageError("--name is for a new run; a resumed one keeps its name")
    if args.report and (args.name or args.resume):
        raise UsageError("--report is of a run that was: give it without --name and --resume")
    return args


def options_to_repeat(args: argparse.Namespace) -> list[str]:
    """The options that a command which goes on needs, too."""
    options = shared_options(args) + ["--test"] * args.test
    if args.device:
        options += ["--device", args.device]
    return options + ["--compare", *args.compare] * bool(args.compare)
