"""Ctrl-C and SIGTERM during training: the first asks for a save, a second quits at once."""

import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any, Self

# One Ctrl-C can arrive twice, from the terminal and from a parent that passes it on.
SAME_SIGNAL_SECONDS = 0.5


class InterruptGuard:
    """While entered, notes SIGINT and SIGTERM instead of dying; `received` is the signal or None.

    A second signal does what it did before we came, which ends the process (files are written
    atomically, so nothing is torn).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
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
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            self._received_seconds = time.monotonic()
            name = signal.Signals(number).name
            # Python's own streams must not be entered again from inside a signal handler.
            message = f"\n{name}: saving after this step (again: quit at once without saving)\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())
        elif time.monotonic() - self._received_seconds > SAME_SIGNAL_SECONDS:
            self._restore()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
