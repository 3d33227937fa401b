import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bench import cleaner as bench_cleaner
from bench import dataset_prep as bench_dataset_prep
from bench import measure
from bench import tokenizer as bench_tokenizer
from bench.measure import (
    Timing,
    bench_parser,
    environment_line,
    environment_of,
    in_child,
    peak_memory_bytes,
    side_by_side,
    table,
    times_as_fast,
)
from bench.record import main as record_logs
from bench.record import record, sections_in
from bench.tokenizer import Figures
from tests.conftest import REPOSITORY
from tests.small_text import ENGLISH, tokenizer_config, write_cleaned
from utils import environment
from utils.articles import CleanerSettings
from utils.errors import DataError, TokenizerError, UsageError
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
    assert timings == {"a": Timing(cpu=(50, 10, 30), wall=(5, 1, 3))}
    values = timings["a"].values()
    assert {key: values[key] for key in ("cpu_min", "cpu_median", "wall_min", "wall_median")} == {
        "cpu_min": 10,
        "cpu_median": 30,
        "wall_min": 1,
        "wall_median": 3,
    }


def test_a_ratio_is_of_the_same_rounds() -> None:
    """A machine that is twice as slow in some rounds, for both."""
    assert times_as_fast(ours=(1, 2, 2), peer=(8, 16, 18)) == 8
    assert times_as_fast(ours=(8, 16, 18), peer=(1, 2, 2)) == 1 / 8


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


def test_what_a_bench_wrote_is_recorded_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench/some.py"])
    args = bench_parser("some", "", None).parse_args(["--commit", "abc1234"])
    found = environment_of(["numpy"], args.commit)
    measure.publish(args, "some", "Some", "first", {"value": 1}, found, "dropout 0.1")
    measure.publish(args, "some", "Other", "second\n\n| table |", {"value": 2}, found)
    written = capsys.readouterr().out
    log, results = tmp_path / "log", tmp_path / "results.md"
    log.write_text(f"warming up\n{written}<!-- bench:cut -->\n## Cut\n")
    results.write_text(SECTIONS)
    record_logs([str(log)], results)
    text = results.read_text()
    assert text.startswith(SECTIONS.rstrip())
    assert [name for name, _ in sections_in(text)] == ["one", "some-dropout-0.1", "some"]
    assert ", commit abc1234, " in text
    assert text.endswith("second\n\n| table |\n<!-- /bench:some -->\n")
    record_logs([str(log)], results)
    assert results.read_text() == text


def test_a_log_without_a_whole_section_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("<!-- bench:one -->\n## One\n")
    with pytest.raises(DataError, match="has no whole section"):
        record_logs([str(log)], tmp_path / "results.md")


def test_the_environment_names_machine_and_versions() -> None:
    line = environment_line(environment_of(["numpy"]))
    assert re.match(r"\d{4}-\d\d-\d\d, commit \w+( with edits)?, .+, \d+ cores, Python 3\.", line)
    assert line.endswith(f", numpy {np.__version__}")


def test_no_git_and_an_absent_package_do_not_lose_a_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*args: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    environment.git_commit.cache_clear()
    found = environment_of(["numpy", "no-such-package"])
    environment.git_commit.cache_clear()
    assert found["commit"] == "unknown"
    assert found["numpy"] == np.__version__
    assert found["no-such-package"] == "absent"


@pytest.mark.parametrize("repeats", ["0", "-1", "1.5", "x", ""])
def test_repeats_are_a_positive_number(repeats: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_parser("some", "", 3).parse_args(["--repeats", repeats])
    assert "is not a whole number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("bench", [bench_cleaner, bench_dataset_prep, bench_tokenizer])
def test_help_says_how_a_bench_is_run_and_with_what(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: python -m {bench.__name__} ")
    assert "config.json beside the scripts" in shown


@pytest.mark.parametrize("bench", [bench_cleaner, bench_dataset_prep, bench_tokenizer])
def test_the_environment_is_asked_for_before_any_timing(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, two_files: list[Path]
) -> None:
    def asked(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench, "environment_of", asked)
    with pytest.raises(ZeroDivisionError):
        bench.main(list(map(str, two_files)) if bench is bench_cleaner else [])


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


def timing(*seconds: float) -> Timing:
    return Timing(cpu=seconds, wall=seconds)


def test_the_tokenizers_table_says_how_many_times_as_fast_as_stock() -> None:
    """The machine is twice as slow in the second and third rounds."""
    fast, slow = timing(1, 2, 2), timing(8, 16, 16)
    figures = {
        bench_tokenizer.OURS: Figures(fast, timing(0.5, 1, 1), 1_000_000),
        bench_tokenizer.STOCK: Figures(slow, timing(2, 4, 4), 2_000_000),
    }
    assert figures[bench_tokenizer.OURS].ratios_to(figures[bench_tokenizer.STOCK]) == (8, 4)
    assert figures[bench_tokenizer.STOCK].ratios_to(figures[bench_tokenizer.STOCK]) == (1, 1)
    section = bench_tokenizer._table(figures, 16_000_000)
    assert cells(section, bench_tokenizer.OURS) == ["16.0", "8.00 x", "16.0", "4.00 x", "1"]
    assert cells(section, bench_tokenizer.STOCK) == ["2.0", "1.00 x", "4.0", "1.00 x", "2"]
    assert "Reached: 8.0 x on one core, 4.0 x on all." in section


def test_the_cleaners_table_says_how_fast_it_is_against_orjson() -> None:
    speeds = {"a.jsonl": {"orjson": timing(1, 2, 2), "cleaner": timing(6, 8, 4)}}
    section = bench_cleaner._body(
        {"a.jsonl": 200_000_000}, speeds, {1: [18, 36, 9], 2: [10, 20, 5]}, {4_000: 50_000_000}
    )
    assert cells(section, "a.jsonl") == ["200", "50", "0.25"], "1/6, 2/8, 2/4"
    assert "Two workers: 1.80 x one (18.0 s and 10.0 s" in section
    assert "4.0 kB: 50.0 MB" in section


def cells(section: str, name: str) -> list[str]:
    """What stands in the row of this name."""
    (row,) = [line for line in section.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in row.split("|")[2:-1]]


# The cleaner's


RECORD = {"title": "River", "text": "The river runs past a city to the sea.\n" * 20}


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        lines = (json.dumps({**RECORD, "title": f"River {n}"}) for n in range(50))
        path.write_text("".join(f"{line}\n" for line in lines))
    return paths


@needs_linux
def test_the_cleaners_bench_runs_with_the_shared_options(
    tmp_path: Path, two_files: list[Path]
) -> None:
    options = ["--repeats", "2", "--growth", "4", "--set", "cleaner.min_characters=10"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.cleaner", *map(str, two_files), *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    section, _, last = done.stdout.rstrip().rpartition("\n")
    values = json.loads(last)
    assert values["bench"] == "cleaner"
    assert list(values["speeds"]) == ["a.jsonl", "b.jsonl"]
    for timings in values["speeds"].values():
        assert 0 < timings["orjson"]["cpu_min"] < timings["cleaner"]["cpu_min"]
    assert {workers: len(s) for workers, s in values["seconds_by_workers"].items()} == {
        "1": 3,
        "2": 3,
    }
    size_bytes = two_files[0].stat().st_size
    assert list(values["worker_peak_bytes"]) == [str(size_bytes), str(4 * size_bytes)]
    assert all(peak > 10_000_000 for peak in values["worker_peak_bytes"].values())
    assert str(tmp_path) not in section


@needs_linux
def test_what_would_make_a_wrong_number_of_the_cleaner_is_refused(two_files: list[Path]) -> None:
    first, second = map(str, two_files)
    other = two_files[0].parent / "other" / two_files[0].name
    copy_file(two_files[0], other)
    with pytest.raises(UsageError, match="two workers need two files"):
        bench_cleaner.main([first])
    with pytest.raises(UsageError, match="two files have one name"):
        bench_cleaner.main([first, str(other)])
    with pytest.raises(UsageError, match="--growth is 3"):
        bench_cleaner.main([first, second, "--growth", "3"])
    copy_file(two_files[0], two_files[0].with_suffix(".txt"))
    with pytest.raises(DataError, match="no plain file of JSON lines"):
        bench_cleaner.main([first, str(two_files[0].with_suffix(".txt"))])


@needs_linux
def test_a_run_of_the_cleaner_that_fails_has_no_number(
    two_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = two_files[0].parent
    with pytest.raises(DataError, match=r"exit code 1:\n(.|\n)*cleaner\.no_such_key"):
        bench_cleaner.worker_peak_bytes(folder, ["--set", "cleaner.no_such_key=1"])
    settings = CleanerSettings(
        min_characters=0, max_bad_share=0.0, limit_articles=None, drop_duplicate_texts=False
    )
    monkeypatch.setattr(bench_cleaner, "_children", lambda pid: [])
    with pytest.raises(DataError, match=r"memory of cleaner\.py's worker could not be read"):
        bench_cleaner.worker_peak_bytes(folder, [])
    two_files[0].write_text("{}\n[")
    with pytest.raises(DataError, match=r"a\.jsonl: 2 of 2 lines are no records"):
        bench_cleaner.seconds_with(2, folder, settings)


def test_so_much_text_is_read_and_no_more(tmp_path: Path) -> None:
    write_cleaned(tmp_path, "a", ["one\ntwo", "é" * 10])
    write_cleaned(tmp_path, "b", ["three", "four"])
    assert list(bench_tokenizer.read_texts(tmp_path, 8)) == ["one\ntwo", "é" * 10]
    assert len(list(bench_tokenizer.read_texts(tmp_path, 28))) == 3
    assert len(list(bench_tokenizer.read_texts(tmp_path, 1e9))) == 4
