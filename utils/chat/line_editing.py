"""The line being typed at a question: arrow keys, recalled prompts, pasted text.

All of it is readline's; without it (on Windows) lines are as the terminal gives them. Where Python
was built with libedit instead, each line of a pasted text is an answer of its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from utils.terminal import can_redraw


def start_line_editing() -> None:
    """From now on the arrow keys edit, and a pasted text is one answer, with its newlines."""
    if readline := _readline():
        readline.set_auto_history(False)
        if can_redraw(sys.stdout):  # a terminal that is not told so pastes line after line
            readline.parse_and_bind("set enable-bracketed-paste on")


class PromptHistory:
    """The prompts of a session, which the arrow keys recall where a prompt is asked for."""

    def __init__(self) -> None:
        self._prompts: list[str] = []

    def remember(self, prompt: str) -> None:
        """Add a prompt; answers to menus are not worth it."""
        if prompt:
            self._prompts.append(prompt)

    @contextmanager
    def recalled(self) -> Iterator[None]:
        """Have the prompts at the arrow keys in this block; a menu's answer is none of them."""
        readline = _readline()
        if readline is None:
            yield
            return
        for prompt in self._prompts:
            readline.add_history(prompt)
        try:
            yield
        finally:
            readline.clear_history()


def unfinished_line() -> str:
    """What had been typed when Ctrl-C ended a question."""
    readline = _readline()
    return readline.get_line_buffer() if readline else ""


def _readline() -> ModuleType | None:
    try:
        import readline  # only for terminals: loading it may write to one
    except ImportError:
        return None
    return readline
