"""Ctrl-C and SIGTERM during training: the first asks for a save, a second quits at once."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from utils.terminal import say


class InterruptGuard:
    """While entered, notes SIGINT and SIGTERM instead of dying; `received` is the signal or None.

    After the first signal the old handlers are back, so a second one ends the process at once
    (files are written atomically, so nothing is torn).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
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
        self.received = number
        self._restore()
        name = signal.Signals(number).name
        say(f"\n{name}: saving after this step (again: quit at once without saving)", "yellow")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
