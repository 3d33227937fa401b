"""utils/cli.py: how a script ends, seen from outside: exit code, stderr, stdout."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY
from utils import errors
from utils.cli import script_parser
from utils.errors import Interrupted, PipelineError, UsageError


def run_main(
    body: str, *arguments: str, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a script whose `main(arguments)` has this body."""
    code = (
        "import os, signal, sys\n"
        "from utils.cli import config_from, run_script, script_parser\n"
        "from utils.errors import *\n"
        "from utils.terminal import emit, say\n"
        f"def main(arguments):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "run_script(main)\n"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "exit_code", "message"),
    [
        ("raise DataError('raw.jsonl: cut off')", 1, "error: raw.jsonl: cut off\n"),
        ("raise DataError('cut off', 'Mend it.')", 1, "error: cut off\n  Mend it.\n"),
        ("raise UsageError('not together')", 2, "error: not together\n"),
        ("raise Interrupted('saved', 'Go on.')", 130, "saved\n  Go on.\n"),
        ("raise Interrupted('saved', '', signal.SIGTERM)", 143, "saved\n"),
        ("raise KeyboardInterrupt", 130, "\ninterrupted\n"),
        ("open('/no/such/file')", 1, "error: /no/such/file: No such file or directory\n"),
        ("raise OSError('no device')", 1, "error: no device\n"),
        ("say('working')", 0, "working\n"),
    ],
)
def test_how_a_script_ends(body: str, exit_code: int, message: str) -> None:
    result = run_main(body)
    assert (result.returncode, result.stderr, result.stdout) == (exit_code, message, "")


def test_a_fault_of_our_own_says_how_to_report_it() -> None:
    result = run_main("assert False, 'the impossible'")
    assert result.returncode == 1
    assert "error: unexpected AssertionError: the impossible\n" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "body", ["raise DataError('cut off')", "open('/no/such/file')", "assert False"]
)
def test_debug_shows_the_traceback(body: str) -> None:
    result = run_main(body, "--debug")
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "in main" in result.stderr
    assert "error: " in result.stderr.splitlines()[-1] or "--debug" in result.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run_main("for _ in range(100_000): emit('line')", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_problem_of_a_config_reaches_the_user() -> None:
    result = run_main(
        "config_from(script_parser('x').parse_args(arguments))",
        "--set=model.hidden_size=0",
        "--set=model.layers=8",
    )
    assert result.returncode == 1
    assert "config.json has 2 problems:\n" in result.stderr
    assert "Did you mean model.num_layers?" in result.stderr


def test_wrong_usage_ends_with_2() -> None:
    result = run_main("script_parser('x').parse_args(arguments)", "--confg=x")
    assert result.returncode == 2
    assert "unrecognized arguments: --confg=x" in result.stderr


def test_help_names_the_shared_options_and_exit_codes() -> None:
    help_text = " ".join(script_parser("Clean the dumps.").format_help().split())
    for words in ("Clean the dumps.", "--config PATH", "--set SECTION.KEY=VALUE", "--debug"):
        assert words in help_text
    assert "exit codes: 0 done, 1 error, 2 wrong usage, 130 or 143 interrupted" in help_text


def test_errors_carry_what_hint_and_code() -> None:
    error = PipelineError("what", "hint")
    assert (error.what, error.hint, str(error)) == ("what", "hint", "what\n  hint")
    assert str(PipelineError("what")) == "what"
    assert UsageError("x").exit_code == 2
    assert Interrupted("x", signal_number=signal.SIGTERM).exit_code == 143


def test_the_tree_of_errors_is_complete() -> None:
    own = [c.__name__ for c in PipelineError.__subclasses__() if c.__module__ == errors.__name__]
    assert own == re.findall(r"^[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
