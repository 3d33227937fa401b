"""The line being typed at a question: arrow keys, recalled prompts, pasted text.

All of it is readline's; without it (on Windows) lines are as the terminal gives them. Where Python
was built with libedit instead, each line of a pasted text is an answer of its own.
"""

import sys
from types import ModuleType

from utils.terminal import can_redraw


def start_line_editing() -> None:
    """From now on the arrow keys edit, and a pasted text is one answer, with its newlines."""
    if readline := _readline():
        readline.set_auto_history(False)
        if can_redraw(sys.stdout):  # a terminal that is not told so pastes line after line
            readline.parse_and_bind("set enable-bracketed-paste on")


def remember(prompt: str) -> None:
    """Add a prompt to what the arrow keys recall; answers to menus are not worth it."""
    readline = _readline()
    if readline and prompt:
        readline.add_history(prompt)


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
