"""utils/interrupts.py: the first signal is noted, the second one quits."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.conftest import REPOSITORY
from utils.interrupts import SAME_SIGNAL_SECONDS, InterruptGuard

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
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORK)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
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
