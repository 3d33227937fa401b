import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import measure
from bench import tokenizer as bench_tokenizer
from bench.measure import (
    Timing,
    environment_line,
    environment_of,
    in_child,
    peak_memory_bytes,
    record,
    side_by_side,
    table,
)
from tests.conftest import REPOSITORY
from tests.small_text import ENGLISH, tokenizer_config, write_cleaned
from utils.errors import DataError, TokenizerError
from utils.files import copy_file
from utils.tokenizer_files import TOKENIZER_FILE

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

SECTIONS = """# Results

<!-- bench:one -->
## One

old
<!-- /bench:one -->

by hand
"""


# Timing


def test_contenders_take_turns_and_each_goes_first() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    contenders = {name: lambda name=name: calls.append(name) for name in names}
    timings = side_by_side(contenders, repeats=4)
    assert "".join(calls) == "abcbcacababc"
    assert list(timings) == list(names)


def test_the_minimum_and_the_median_are_of_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    walls = iter([0.0, 5.0, 10.0, 11.0, 20.0, 23.0])
    cpus = iter([0.0, 50.0, 100.0, 110.0, 200.0, 230.0])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(walls)))
    monkeypatch.setattr(measure, "_cpu_seconds", lambda: next(cpus))
    timings = side_by_side({"a": lambda: None}, repeats=3)
    assert timings == {"a": Timing(cpu_min=10, cpu_median=30, wall_min=1, wall_median=3)}


def test_cpu_time_counts_work_and_child_processes_but_no_waiting() -> None:
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    calls: dict[str, Callable[[], object]] = {
        "waits": lambda: subprocess.run(["sleep", "0.3"], check=True),
        "works": lambda: subprocess.run([sys.executable, "-c", busy], check=True),
    }
    timings = side_by_side(calls, repeats=1)
    assert timings["waits"].wall_min >= 0.3
    assert timings["waits"].cpu_min < 0.2
    assert timings["works"].cpu_min >= 0.4


# Processes


@needs_linux
def test_a_child_keeps_to_its_cores() -> None:
    all_cores = os.sched_getaffinity(0)
    assert in_child(1, os.sched_getaffinity, 0) == {min(all_cores)}
    assert in_child(None, os.sched_getaffinity, 0) == all_cores == os.sched_getaffinity(0)
    assert in_child(None, os.getpid) != os.getpid()


@needs_linux
def test_peak_memory_is_what_a_call_held_at_most() -> None:
    held = np.ones(100_000_000, dtype=np.uint8)  # not the call's, nor the child's
    peak = in_child(None, peak_memory_bytes, partial(np.ones, 200_000_000, np.uint8))
    assert 200_000_000 <= peak < 220_000_000
    assert in_child(None, peak_memory_bytes, partial(np.ones, 1_000, np.uint8)) < 10_000_000
    assert held.sum() == 100_000_000


# The record


def test_columns_line_up() -> None:
    assert table(["", "MB/s"], [["ours", "9.5"], ["the other", "123.4"]]).splitlines() == [
        "|           |  MB/s |",
        "|-----------|------:|",
        "| ours      |   9.5 |",
        "| the other | 123.4 |",
    ]


def test_a_section_is_replaced_and_the_rest_is_left(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text(SECTIONS)
    record("one", "## One\n\nnew", path)
    assert path.read_text() == SECTIONS.replace("old", "new")


def test_a_new_section_goes_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text(SECTIONS)
    record("two", "## Two", path)
    expected = f"{SECTIONS}\n<!-- bench:two -->\n## Two\n<!-- /bench:two -->\n"
    assert path.read_text() == expected
    record("two", "## Two", path)
    assert path.read_text() == expected


def test_a_section_without_an_end_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text(SECTIONS.replace("<!-- /bench:one -->", ""))
    with pytest.raises(DataError, match="<!-- bench:one --> has no <!-- /bench:one -->"):
        record("one", "new", path)
    assert "old" in path.read_text()


def test_the_environment_names_machine_and_versions() -> None:
    line = environment_line(environment_of(["numpy"]))
    assert re.match(r"\d{4}-\d\d-\d\d, commit \w+( with edits)?, .+, \d+ cores, Python 3\.", line)
    assert line.endswith(f", numpy {np.__version__}")


def test_the_command_shows_no_folders_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--set", "paths.cleaned_dir=/home/me/data/cleaned", "--data", "/home/me/x", "a/b"]
    monkeypatch.setattr(sys, "argv", ["bench/some.py", *arguments])
    assert measure._command("some") == (
        "python -m bench.some --set paths.cleaned_dir=.../cleaned --data .../x a/b"
    )


# The benches


@needs_linux
def test_the_tokenizer_bench_runs_and_ends_with_a_json_line(
    tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    config = tokenizer_config(tmp_path)
    copy_file(tiny_tokenizer_dir / TOKENIZER_FILE, config.paths.tokenizer_dir / TOKENIZER_FILE)
    write_cleaned(config.paths.cleaned_dir, "a", ENGLISH.split("\n\n") * 20)
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "bench.tokenizer", "--config", str(path), "--repeats", "2"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    section, _, last = done.stdout.rstrip().rpartition("\n")
    values = json.loads(last)
    assert values["bench"] == "tokenizer"
    assert values["bytes"] == sum(len(part.encode()) for part in ENGLISH.split("\n\n")) * 20
    assert values["articles"] == 60
    names = list(bench_tokenizer.CONTENDERS)
    assert list(values["contenders"]) == names[:3]  # there is no SentencePiece model
    assert all(name in section for name in names[:3])
    for figures in values["contenders"].values():
        assert 0 < figures["one_core"]["cpu_min"] <= figures["one_core"]["cpu_median"]
        assert figures["memory_bytes"] >= 0
    assert str(tmp_path) not in section


def test_a_contender_with_other_ids_ends_the_bench(
    tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tokenizer_config(tmp_path, paths={"tokenizer_dir": str(tiny_tokenizer_dir)})
    ours, stock = bench_tokenizer.OURS, bench_tokenizer.STOCK
    wrong = np.array([1, 2], dtype=np.uint16)
    monkeypatch.setitem(bench_tokenizer.CONTENDERS, stock, lambda config: lambda texts: wrong)
    with pytest.raises(TokenizerError, match=re.escape(f"{stock} gives other ids than {ours}")):
        bench_tokenizer.compare(config, [ENGLISH], [ours, stock], repeats=1)


def test_so_much_text_is_read_and_no_more(tmp_path: Path) -> None:
    write_cleaned(tmp_path, "a", ["one\ntwo", "é" * 10])
    write_cleaned(tmp_path, "b", ["three", "four"])
    assert list(bench_tokenizer.read_texts(tmp_path, 8)) == ["one\ntwo", "é" * 10]
    assert len(list(bench_tokenizer.read_texts(tmp_path, 28))) == 3
    assert len(list(bench_tokenizer.read_texts(tmp_path, 1e9))) == 4
