"""Questions on a terminal, asked until the answer makes sense, and tables to choose from.

"q" or Ctrl-D at any question raises Quit; Ctrl-C stays a KeyboardInterrupt. Without a terminal a
question raises UsageError, which names the flag that answers it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from utils.display_width import display_width, padded
from utils.errors import UsageError
from utils.sampling import Sampling
from utils.terminal import ask, printable, say, warn

T = TypeVar("T")
QUIT = "q"
ALL = "all"
PARAMETERS: dict[str, tuple[str, type[int] | type[float]]] = {
    "max_length": ("Max length, in tokens", int),
    "temperature": ("Temperature, 0 = always the likeliest", float),
    "top_k": ("Top-k, 0 = off", int),
    "top_p": ("Top-p, 1 = off", float),
}


class Quit(Exception):
    """The person has had enough."""


def ask_line(question: str, flag: str, strip: bool = True) -> str:
    """One line of Unicode text."""
    while True:
        try:
            answer = ask(question, flag, strip)
            answer.encode()
        except EOFError:
            say()
            raise Quit from None
        except UnicodeError:
            warn("that was not UTF-8 text; please type it again")
            continue
        if answer.strip() == QUIT:
            raise Quit
        return answer


def ask_until(question: str, flag: str, parse: Callable[[str], T]) -> T:
    """What `parse` makes of the answer; its UsageError is the reason to ask again."""
    while True:
        answer = ask_line(question, flag)
        try:
            return parse(answer)
        except UsageError as error:
            warn(error.what)


def ask_choice(question: str, flag: str, count: int, default: int) -> int:
    """A number from 1 to `count`; Enter is `default`."""
    return ask_until(
        f"{question} [{default}]: ",
        flag,
        lambda answer: parse_number(answer or str(default), count),
    )


def ask_yes(question: str, flag: str) -> bool:
    """Whether the answer is yes; Enter is no."""

    def parse(answer: str) -> bool:
        if answer.lower() not in ("", "y", "yes", "n", "no"):
            raise UsageError(f"{answer!r} is neither y nor n ({QUIT} quits)")
        return answer.lower().startswith("y")

    return ask_until(f"{question} [y/N]: ", flag, parse)


def parse_number(answer: str, count: int) -> int:
    if answer.isdecimal() and 1 <= int(answer) <= count:
        return int(answer)
    wanted = f"a number from 1 to {count}" if count > 1 else "1"
    raise UsageError(f"{answer!r} is not {wanted} ({QUIT} quits)")


def parse_numbers(answer: str, count: int) -> list[int]:
    """Numbers between commas, each once, in their order; or all of them for "all"."""
    if answer.lower() == ALL:
        return list(range(1, count + 1))
    if not answer:
        raise UsageError(f"type numbers between commas, such as 1,2, or {ALL!r}")
    numbers = [parse_number(part.strip(), count) for part in answer.split(",")]
    return list(dict.fromkeys(numbers))


def choose_sampling(defaults: Sampling, last: Sampling | None) -> Sampling:
    """The defaults, parameters typed in, or again those of last time, if there was one."""
    choices = [f"default parameters: {describe_sampling(defaults)}", "customise"]
    if last is not None:
        choices.append(f"as last time: {describe_sampling(last)}")
    for line in aligned([[str(n), choice] for n, choice in enumerate(choices, start=1)], right=[0]):
        say(f"  {line}")
    default = 1 if last is None else 3
    number = ask_choice("Parameters", parameter_flag("temperature"), len(choices), default)
    if number == 2:
        return ask_sampling(last or defaults)
    return last if number == 3 and last is not None else defaults


def ask_sampling(defaults: Sampling) -> Sampling:
    """Each parameter in turn, showing its default, which Enter keeps."""
    chosen = defaults
    for name, (label, _) in PARAMETERS.items():
        question = f"  {label} [{getattr(chosen, name):g}]: "
        chosen = ask_until(question, parameter_flag(name), partial(with_parameter, chosen, name))
    return chosen


def with_parameter(sampling: Sampling, name: str, answer: str) -> Sampling:
    """`sampling` with one parameter as typed, or as it is for an empty answer.

    UsageError says what is wrong with the value.
    """
    if not answer:
        return sampling
    kind = PARAMETERS[name][1]
    try:
        values = {**asdict(sampling), name: kind(answer)}
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} must be {wanted}, not {answer!r}") from None
    return Sampling(**values)


def parameter_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def describe_sampling(sampling: Sampling) -> str:
    return (
        f"{sampling.max_length} tokens, temperature {sampling.temperature:g},"
        f" top-k {sampling.top_k}, top-p {sampling.top_p:g}"
    )


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """One line per row, columns under each other; those numbered in `right` end together."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            padded(cell, width, right=column in right)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
