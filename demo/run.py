"""Run the whole pipeline on Python's own documentation, each phase as you would run it."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from demo import DEMO_CONFIG_PATH
from demo.plot_loss import PLOT_NAME, newest_run_name, read_curve
from utils.cli import config_from, run_script, script_parser
from utils.config import Config
from utils.errors import Interrupted, PipelineError
from utils.logging_utils import metrics_path, tensorboard_dir
from utils.metrics import VALIDATION_LOSS
from utils.terminal import format_seconds, say

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS = ("Return the number of", "def __init__(self,", "This module provides")


@dataclass(frozen=True)
class Phase:
    """One script to run: `command` is what follows `python`, less the options all phases share."""

    title: str
    command: tuple[str, ...]


class PhaseError(PipelineError):
    """A phase ended with an error; the demo ends with the same exit code."""

    def __init__(self, what: str, hint: str, exit_code: int) -> None:
        super().__init__(what, hint)
        self.exit_code = exit_code


def main(arguments: Sequence[str]) -> None:
    parser = script_parser(__doc__)
    parser.set_defaults(config=DEMO_CONFIG_PATH)
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu or cuda (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    config = config_from(args)
    start_seconds = time.monotonic()
    phases = phases_for(args.device)
    for number, phase in enumerate(phases, start=1):
        say(f"\n[{number}/{len(phases)}] {phase.title}", "bold", "cyan")
        run_phase(phase, shared_options(args))
    summarise(config, args, time.monotonic() - start_seconds)


def phases_for(device: str) -> list[Phase]:
    """Every phase in order; the last two use the newest run, which is the one just trained."""
    newest = ("--run", "latest", "--checkpoint", "best")
    prompts = [option for prompt in PROMPTS for option in ("--prompt", prompt)]
    on_device = ("--device", device)
    return [
        Phase("Build a raw corpus from Python's documentation", ("-m", "demo.build_corpus")),
        Phase("Clean it", ("cleaner.py",)),
        Phase("Train a tokenizer on it", ("-m", "demo.train_tokenizer")),
        Phase("Install the tokenizer", ("tokenizer.py",)),
        Phase("Cut the text into token windows", ("dataset_prep.py",)),
        Phase("Train the model", ("train.py", *on_device, "--name", "demo")),
        Phase("Plot the loss", ("-m", "demo.plot_loss")),
        Phase("Generate text", ("Inference.py", *on_device, *newest, "--seed", "1", *prompts)),
    ]


def shared_options(args: argparse.Namespace) -> list[str]:
    """The options that every phase is given, from the demo's own."""
    settings = [f"--set={key}={json.dumps(value)}" for key, value in args.set]
    return ["--config", os.path.relpath(args.config, REPOSITORY), *settings]


def run_phase(phase: Phase, options: Sequence[str]) -> None:
    """Run one script, showing its command and its time; PhaseError if it fails."""
    command = [python(), *phase.command, *options]
    say(f"$ {shlex.join(command)}", "bold")
    start_seconds = time.monotonic()
    exit_code = run(command)
    if exit_code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise Interrupted(
            f"{phase.title!r} was interrupted",
            "What it saved is kept, and what it said stands above; the demo itself begins anew.",
            exit_code - 128,
        )
    if exit_code:
        raise PhaseError(
            f"{phase.title!r} ended with exit code {exit_code}",
            f"What it said stands above. The command was: {shlex.join(command)}",
            exit_code,
        )
    say(f"done in {format_seconds(time.monotonic() - start_seconds)}", "dim")


def python() -> str:
    """The running interpreter, as it can be typed in the repository's folder."""
    executable = Path(sys.executable)
    if executable.is_relative_to(REPOSITORY):
        return str(executable.relative_to(REPOSITORY))
    return str(executable)


def run(command: Sequence[str]) -> int:
    """Run a command to its end; returns its exit code, 128 + the signal if one killed it.

    On Ctrl-C the terminal tells the command too: we wait while it saves its work. SIGTERM comes
    to us alone and is passed on.
    """
    with subprocess.Popen(command, cwd=REPOSITORY) as process:  # noqa: S603 our own scripts

        def pass_on(number: int, _: FrameType | None) -> None:
            if number == signal.SIGTERM:
                process.send_signal(number)

        previous = {
            number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            exit_code = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    return exit_code if exit_code >= 0 else 128 - exit_code


def summarise(config: Config, args: argparse.Namespace, seconds: float) -> None:
    """Say what came out and what to run next."""
    metrics = metrics_path(config.paths.log_dir, newest_run_name(config.paths.checkpoint_dir))
    curve = read_curve(metrics, VALIDATION_LOSS)
    tensorboard = Path(python()).with_name("tensorboard")
    options = shlex.join(shared_options(args))
    logs = os.path.relpath(tensorboard_dir(config.paths.log_dir), REPOSITORY)
    say(f"\nThe whole pipeline ran in {format_seconds(seconds)}.", "bold", "green")
    say(f"  validation loss  {curve[0][1]:.2f} at the start, {curve[-1][1]:.2f} at the end")
    say(f"  loss plot        {os.path.relpath(metrics.with_name(PLOT_NAME), REPOSITORY)}")
    say("\nWhat to run next:", "bold")
    say(f"  {python()} Inference.py {options}   talk to the model")
    say(f"  {tensorboard} --logdir {logs}   look at the curves")
    say("  README.md, 'The real thing'   train on Wikipedia with CodeLlama's tokenizer")


if __name__ == "__main__":
    run_script(main)
