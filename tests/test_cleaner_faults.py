"""A thousand lines that no record should be: none ends a run, none harms the lines beside it."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import cleaner
from tests.test_cleaner import arguments, record, write_raw
from utils.articles import read_marker, text_path_of
from utils.cleaning.inputs.raw_files import MAX_LINE_BYTES
from utils.errors import DataError

Maker = Callable[[random.Random], bytes]


def cut_off(chance: random.Random) -> bytes:
    line = record(1).rstrip()
    return line[: chance.randrange(1, len(line) - 1)]


def one_byte_replaced(by: bytes) -> Maker:
    def make(chance: random.Random) -> bytes:
        line = record(2).rstrip()
        place = line.index(b"about Uber") + chance.randrange(4)
        return line[:place] + by + line[place + 1 :]

    return make


def nested(chance: random.Random) -> bytes:
    depth = chance.randrange(3_000, 6_000)
    return b'{"title": "T", "x": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}"


# What is wrong with a line -> how it is made, and the kind that it is counted as.
BAD: dict[str, tuple[Maker, str]] = {
    "invalid UTF-8": (one_byte_replaced(b"\xff"), "invalid_utf8"),
    "half of a character": (one_byte_replaced(b"\xe2\x82"), "invalid_utf8"),
    "byte order mark": (lambda _: b"\xef\xbb\xbf" + record(3).rstrip(), "byte_order_mark"),
    "NUL": (one_byte_replaced(b"\0"), "nul_byte"),
    "raw control character": (one_byte_replaced(b"\x01"), "malformed"),
    "truncated": (cut_off, "truncated"),
    "lone surrogate": (one_byte_replaced(rb"\ud83d"), "lone_surrogate"),
    "invalid escape": (one_byte_replaced(rb"\q"), "malformed"),
    "null": (lambda _: b"null", "wrong_type"),
    "a number": (lambda chance: str(chance.random()).encode(), "wrong_type"),
    "an array of records": (lambda _: b"[" + record(4).rstrip() + b"]", "wrong_type"),
    "mistyped title": (
        lambda chance: b'{"title": %d, "text": "x"}' % chance.randrange(9),
        "wrong_type",
    ),
    "mistyped sections": (
        lambda _: b'{"name": "N", "identifier": 1, "sections": {}}',
        "wrong_type",
    ),
    "missing text": (lambda _: b'{"id": "7", "title": "T"}', "unknown_shape"),
    "missing title": (lambda _: b'{"text": "A text without a title."}', "unknown_shape"),
    "no fields": (lambda _: b"{}", "unknown_shape"),
    "NaN": (lambda _: b'{"title": "T", "text": NaN}', "malformed"),
    "two records": (lambda _: record(5).rstrip() + record(6).rstrip(), "malformed"),
    "deep nesting": (nested, "too_deep"),
    "not JSON": (lambda chance: bytes(chance.choices(b"abcdefghij <>", k=80)), "malformed"),
    "blank": (lambda chance: b" " * chance.randrange(4), "blank"),
}


def bad_lines(count: int) -> list[tuple[bytes, str]]:
    """Lines and their kinds, each way of being bad about equally often."""
    chance = random.Random(0)
    makers = list(BAD.values())
    return [
        (maker(chance), kind) for maker, kind in (makers[n % len(makers)] for n in range(count))
    ]


def test_a_thousand_bad_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_raw(tmp_path, files=1, records=2_000) / "wiki_0.jsonl"
    text_path = text_path_of(tmp_path / "cleaned", "wiki_0")
    cleaner.main(arguments(tmp_path))
    expected = text_path.read_bytes()
    lines = [(line, "") for line in path.read_bytes().splitlines()]
    for number, bad in enumerate(bad_lines(1_000)):
        lines.insert(2 * number, bad)
    too_long = (b'{"title": "T", "text": "' + b"x" * 100_000_000 + b'"}', "too_long")
    lines.insert(1_234, too_long)
    path.write_bytes(b"".join(line + b"\n" for line, _ in lines))
    cleaner.main(arguments(tmp_path, "--set", "cleaner.max_bad_share=0.5"))
    assert text_path.read_bytes() == expected, "the good lines are cleaned as without the bad ones"
    marker = read_marker(text_path)
    kinds = Counter(kind for _, kind in lines if kind)
    assert marker.bad_lines == dict(sorted(kinds.items()))
    assert len(too_long[0]) > MAX_LINE_BYTES
    assert marker.records == 2_000 + 1_001 - kinds["blank"]
    said = capfd.readouterr().err
    for kind, count in kinds.items():
        first = 1 + next(number for number, line in enumerate(lines) if line[1] == kind)
        assert f"{count:,} bad lines ({kind}); the first: {path}:{first}: " in said


def test_more_bad_lines_than_allowed_fail_the_run(tmp_path: Path) -> None:
    path = write_raw(tmp_path, files=1, records=2_000) / "wiki_0.jsonl"
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line, _ in bad_lines(1_000))
    with pytest.raises(DataError, match=r"953 of 2,953 lines are no records \(\d+ wrong_type, "):
        cleaner.main(arguments(tmp_path))
    assert not list((tmp_path / "cleaned").glob("cleaned_*"))


def test_of_a_key_that_stands_twice_the_last_counts(tmp_path: Path) -> None:
    """As every JSON library does it; such a line is no bad one."""
    line = b'{"title": "Old", "title": "New", "text": "A text of the newer title, long enough."}\n'
    assert json.loads(line)["title"] == "New"
    raw_dir = write_raw(tmp_path, files=1, records=1)
    (raw_dir / "wiki_0.jsonl").write_bytes(line)
    cleaner.main(arguments(tmp_path, "--set", "cleaner.min_characters=10"))
    assert text_path_of(tmp_path / "cleaned", "wiki_0").read_bytes().startswith(b"New\xe2\x80\xa9")
