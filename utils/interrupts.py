"""Ctrl-C while a script is imported, and Ctrl-C and SIGTERM during work that can be lost."""

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from utils.errors import Interrupted

# One Ctrl-C can arrive twice, from the terminal and from a parent that passes it on.
SAME_SIGNAL_SECONDS = 0.5
INTERRUPTED = "\ninterrupted"  # behind the ^C that the terminal shows


def quit_on_interrupt() -> None:
    """Let Ctrl-C end the process with one line and exit code 130, until `raise_on_interrupt`.

    For the seconds in which a script imports torch and others. Not by an exception: they may turn
    that into an error of their own, or abort.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, _quit)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + number)


class InterruptGuard:
    """While entered, notes SIGINT and SIGTERM instead of dying; `received` is the signal or None.

    `notice` tells the person what happens now, such as "saving after this step". A second signal
    does what it did before we came, which ends the process (files are written atomically, so
    nothing is torn).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, notice: str) -> None:
        self.notice = notice
        self.received: int | None = None
        self._received_seconds = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.received is not None:  # it must still be here when the same signal comes twice
            elapsed_seconds = time.monotonic() - self._received_seconds
            time.sleep(max(0.0, SAME_SIGNAL_SECONDS - elapsed_seconds))
        self._restore()

    def check(self, what: str, hint: str) -> None:
        """Raise Interrupted if a signal came; its name stands before `what`."""
        if self.received is not None:
            name = signal.Signals(self.received).name
            raise Interrupted(f"{name}: {what}", hint, self.received)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            self._received_seconds = time.monotonic()
            name = signal.Signals(number).name
            message = f"\n{name}: {self.notice} (again: quit at once)\n"
            # Not through Python's own streams, which must not be entered again from a handler;
            # and what reads our messages may have been ended by the same Ctrl-C.
            with suppress(OSError):
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())
        elif time.monotonic() - self._received_seconds > SAME_SIGNAL_SECONDS:
            self._restore()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
