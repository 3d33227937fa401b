"""What every script's command line shares: --config, --set, --debug, and how errors end it."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from utils.config import Config
from utils.config_file import DEFAULT_CONFIG_PATH, load_config
from utils.errors import Interrupted, PipelineError
from utils.interrupts import INTERRUPTED, raise_on_interrupt
from utils.terminal import OutputClosedError, say, say_error

EPILOG = (
    "exit codes: 0 done, 1 error, 2 wrong usage, 130 or 143 interrupted, what was done is kept. "
    "NO_COLOR=1 turns colours off."
)


def script_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every script takes."""
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG)
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG_PATH,
        metavar="PATH",
        help="configuration file (default: config.json beside the scripts)",
    )
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key of the configuration; repeatable",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def config_from(args: argparse.Namespace, flags: Mapping[str, object] | None = None) -> Config:
    """The configuration file, then `--set`, then `flags` (dotted keys; None means not given)."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return load_config(args.config, {**dict(args.set), **given})


def shared_options(args: argparse.Namespace) -> list[str]:
    """The shared options as they were given, for a command that goes on from here."""
    options = [] if args.config == DEFAULT_CONFIG_PATH else ["--config", str(args.config)]
    for key, value in args.set:
        options += ["--set", f"{key}={json.dumps(value)}"]
    return options


def run_script(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` on the command line's arguments and end the process with the right exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        raise_on_interrupt()
        main(arguments)
    except OutputClosedError:
        sys.exit(0)
    except Interrupted as error:
        say(str(error), "yellow")
        sys.exit(error.exit_code)
    except PipelineError as error:
        _show(str(error), debug)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say(INTERRUPTED)
        sys.exit(130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _show(f"{where}{error.strerror or error}", debug)
        sys.exit(1)
    except Exception as error:
        _show(
            f"unexpected {type(error).__name__}: {error}\n"
            "  This is a fault of the program. Run again with --debug and report what it shows.",
            debug,
        )
        sys.exit(1)


def _show(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    say_error(message)


def _setting(text: str) -> tuple[str, object]:
    """Split "section.key=value"; the value is JSON where it can be, else a string."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form section.key=value")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value
