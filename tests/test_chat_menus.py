"""utils/chat/menus.py: what answers to its questions mean."""

import pytest

from tests.terminals import type_answers
from utils.chat.menus import (
    Quit,
    aligned,
    ask_choice,
    ask_yes,
    parse_number,
    parse_numbers,
    with_parameter,
)
from utils.errors import UsageError
from utils.sampling import Sampling


@pytest.mark.parametrize(
    ("answer", "numbers"), [("2", [2]), ("3, 1,3", [3, 1]), ("ALL", [1, 2, 3]), ("1,2", [1, 2])]
)
def test_numbers(answer: str, numbers: list[int]) -> None:
    assert parse_numbers(answer, 3) == numbers


@pytest.mark.parametrize("answer", ["0", "4", "-1", "1.5", "", "1,,2", "²", "1 2"])
def test_numbers_that_are_none(answer: str) -> None:
    with pytest.raises(UsageError, match=r"is not a number from 1 to 3|type numbers between"):
        parse_numbers(answer, 3)
    with pytest.raises(UsageError, match="is not 1 "):
        parse_number(answer, 1)


def test_parameters_are_checked() -> None:
    defaults = Sampling(10, 0.8, 50, 0.9)
    assert with_parameter(defaults, "top_k", "7") == Sampling(10, 0.8, 7, 0.9)
    assert with_parameter(defaults, "top_k", "") == defaults
    with pytest.raises(UsageError, match="temperature must be a number, not 'warm'"):
        with_parameter(defaults, "temperature", "warm")
    with pytest.raises(UsageError, match=r"top_k must be a whole number, not '1\.5'"):
        with_parameter(defaults, "top_k", "1.5")


def test_end_of_input_is_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    type_answers(monkeypatch)
    with pytest.raises(Quit):
        ask_choice("Mode", "--checkpoint", 2, 1)


@pytest.mark.parametrize(
    ("answers", "is_yes"), [(["y"], True), (["maybe", "YES"], True), ([""], False), (["no"], False)]
)
def test_yes_or_no(monkeypatch: pytest.MonkeyPatch, answers: list[str], is_yes: bool) -> None:
    type_answers(monkeypatch, *answers)
    assert ask_yes("Load anyway?", "--quantize") is is_yes


def test_wide_names_are_aligned() -> None:
    assert aligned([["漢字", "1"], ["abc", "20"]], right=[1]) == ["漢字   1", "abc   20"]
