"""Prompts: where they come from, and their token ids."""

import sys
from collections.abc import Sequence
from pathlib import Path

from utils.chat.completion import TextCodec
from utils.errors import UsageError

STANDARD_INPUT = Path("-")


def given_prompts(texts: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The prompts of the command line: those given as text, then those in files."""
    for text in texts:
        check_unicode(text, "--prompt")
    return [*texts, *map(read_prompt, files)]


def check_unicode(text: str, where: str) -> None:
    """Raise UsageError for a lone surrogate, which is how Python shows a byte that is no UTF-8.

    It is refused, not replaced: the model would answer a prompt that nobody gave.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{where}: the prompt is not Unicode text: character {error.start + 1} is a lone"
            f" surrogate, U+{ord(text[error.start]):04X}",
            "Give it in UTF-8.",
        ) from None


def read_prompt(path: Path) -> str:
    """The prompt in a file, or on standard input for "-", less the newline at its end."""
    if path == STANDARD_INPUT:
        name, content = "standard input", sys.stdin.buffer.read()
        if not content:
            raise UsageError("there is no prompt: standard input is empty", "Give --prompt TEXT.")
    else:
        name, content = str(path), path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: the prompt is not UTF-8 text (byte {error.start})", "Give it in UTF-8."
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def encode_prompt(codec: TextCodec, prompt: str) -> list[int]:
    """A prompt's ids, behind <s>, as every document of the training data begins."""
    return [codec.bos_id, *codec.encode(prompt)]
