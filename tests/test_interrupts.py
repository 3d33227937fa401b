"""utils/interrupts.py: signals while a script is imported, and while work could be lost."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.processes import start_python
from utils.interrupts import SAME_SIGNAL_SECONDS, InterruptGuard, quit_on_interrupt

WORK = """
    import time
    from utils.interrupts import InterruptGuard

    with InterruptGuard("saving") as guard:
        print("ready", flush=True)
        while guard.received is None:
            time.sleep(0.005)
        print("saving", guard.received, flush=True)
        time.sleep(60)
    print("saved", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_old_handlers_return_at_the_end(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(kind) for kind in InterruptGuard.SIGNALS]
    with InterruptGuard("saving") as guard:
        assert [signal.getsignal(kind) for kind in InterruptGuard.SIGNALS] != before
        os.kill(os.getpid(), number)
        assert guard.received == number
    assert [signal.getsignal(kind) for kind in InterruptGuard.SIGNALS] == before
    captured = capfd.readouterr()
    assert f"{number.name}: saving (again: quit at once)" in captured.err
    assert captured.out == ""


def test_one_interrupt_that_arrives_twice_is_one() -> None:
    """The terminal tells every process of a group, and a parent may pass the same on."""
    with InterruptGuard("saving") as guard:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert guard.received == signal.SIGINT


def test_without_a_signal_the_old_handlers_return_at_the_end() -> None:
    before = [signal.getsignal(kind) for kind in InterruptGuard.SIGNALS]
    guard = InterruptGuard("saving")
    with pytest.raises(ZeroDivisionError), guard:
        _ = 1 / 0
    assert guard.received is None
    assert [signal.getsignal(kind) for kind in InterruptGuard.SIGNALS] == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process(first: signal.Signals, second: signal.Signals) -> None:
    with start_python("-c", textwrap.dedent(WORK)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"saving {first.value}\n"
        time.sleep(2 * SAME_SIGNAL_SECONDS)
        process.send_signal(second)
        out, err = process.communicate(timeout=20)
    assert process.returncode == -second
    assert "saved" not in out
    assert err.startswith(f"\n{first.name}: saving")


SCRIPTS = ("cleaner", "tokenizer", "dataset_prep", "train", "Inference", "evaluate", "export")
# What is imported and gets an exception may well turn it into its own.
SLOW_MODULE = """
    import time

    print("importing", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        raise ImportError("half of it is missing") from None
"""


def ended_by_ctrl_c(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what else it says on stderr."""
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    return process.returncode, error


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_is_imported(script: str, tmp_path: Path) -> None:
    for module in ("torch", "numpy", "pydantic"):
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(SLOW_MODULE))
    with start_python(f"{script}.py", "--help", PYTHONPATH=str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        assert ended_by_ctrl_c(process) == (130, "\ninterrupted\n")


@pytest.mark.parametrize("module", ["numpy", "torch._C", "torch.fx"])
def test_ctrl_c_while_torch_is_imported(module: str) -> None:
    with start_python("-X", "importtime", "Inference.py", "--help") as process:
        assert process.stderr is not None
        for line in process.stderr:  # "import time: ... | ... | module"
            if line.split("|")[-1].strip() == module:
                break
        code, error = ended_by_ctrl_c(process)
    said = [line for line in error.splitlines() if not line.startswith("import time:")]
    assert (code, said) == (130, ["", "interrupted"])


def test_ctrl_c_after_the_imports_can_tidy_up() -> None:
    code = """
        import os, signal, time
        from utils.interrupts import quit_on_interrupt

        quit_on_interrupt()
        from utils.cli import run_script

        def main(arguments):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            finally:
                print("tidy")

        run_script(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "tidy\n", "\ninterrupted\n")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """As a shell starts what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        quit_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
