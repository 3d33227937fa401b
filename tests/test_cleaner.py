"""cleaner.py as a user runs it: what is written, skipped, redone, refused, left after a kill."""

import errno
import gzip
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import xxhash

import cleaner
from tests.conftest import REPOSITORY
from utils import terminal
from utils.articles import (
    CleanerSettings,
    cleaned_files,
    marker_path_of,
    read_articles,
    read_marker,
    stem_of,
    text_path_of,
)
from utils.cleaning import file_cleaner, pool
from utils.cleaning.inputs.raw_files import find_raw_files
from utils.errors import BusyError, DataError, Interrupted
from utils.files import sha256_of, sole_writer
from utils.interrupts import InterruptGuard

SETTINGS = CleanerSettings(
    min_characters=20, max_bad_share=0.01, limit_articles=None, drop_duplicate_texts=False
)


def record(number: int) -> bytes:
    text = f"Article {number} , about Uber 's cars.\n" + "A sentence more. " * (number % 7 + 2)
    return json.dumps({"title": f"Title {number}", "text": text}).encode() + b"\n"


def write_raw(folder: Path, files: int = 3, records: int = 40) -> Path:
    raw_dir = folder / "raw"
    raw_dir.mkdir(exist_ok=True)
    for file in range(files):
        lines = [record(file * records + number) for number in range(records)]
        (raw_dir / f"wiki_{file}.jsonl").write_bytes(b"".join(lines))
    return raw_dir


def arguments(folder: Path, *more: str) -> list[str]:
    config = folder / "config.json"
    paths = {"raw_dir": "raw", "cleaned_dir": "cleaned"}
    config.write_text(json.dumps({"paths": paths, "cleaner": {"workers": 1, "min_characters": 20}}))
    return ["--config", str(config), *more]


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "cleaner.py"), *arguments(folder, *more)]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, *more),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cleaned").glob("cleaned_*")}


def clean_one(raw_dir: Path, cleaned_dir: Path, settings: CleanerSettings = SETTINGS) -> Any:
    raw = find_raw_files(raw_dir)[0]
    return file_cleaner.clean_file(raw, cleaned_dir, settings, lambda *_: None)


def test_folder_is_cleaned_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw_dir = write_raw(tmp_path)
    with (raw_dir / "wiki_1.jsonl").open("ab") as file:
        file.write(b'{"title": "R", "text": "#REDIRECT [[A]]"}\n{"title": "S", "text": "Short"}\n')
    cleaner.main(arguments(tmp_path))
    texts = cleaned_files(tmp_path / "cleaned")
    assert [stem_of(path) for path in texts] == ["wiki_0", "wiki_1", "wiki_2"]
    articles = list(read_articles(texts[1]))
    assert len(articles) == 40
    assert articles[0].split("\n")[:2] == ["Title 40", "Article 40, about Uber's cars."]
    marker = read_marker(texts[1])
    assert (marker.records, marker.articles) == (42, 40)
    assert marker.dropped == {"redirect": 1, "too_short": 1}
    assert marker.rules["spaced_possessive"] == 40
    assert marker.input_xxh128 == xxhash.xxh3_128_hexdigest((raw_dir / "wiki_1.jsonl").read_bytes())
    assert marker.output_sha256 == sha256_of(texts[1])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "cleaning 3 files with 1 worker into" in captured.err
    assert "wiki_1: 40 articles of 42 records" in captured.err
    assert "3 files: 120 articles," in captured.err
    assert "dropped: redirect 1, too_short 1" in captured.err


def test_output_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    write_raw(tmp_path, files=4)
    outputs = []
    for workers in ("1", "3"):
        cleaner.main(arguments(tmp_path, "--workers", workers, "--force"))
        outputs.append(contents(tmp_path))
    assert len(outputs[0]) == 12
    assert outputs[0] == outputs[1]


def test_a_rerun_skips_what_is_current_and_redoes_what_changed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw_dir = write_raw(tmp_path)
    cleaner.main(arguments(tmp_path))
    first = contents(tmp_path)
    capfd.readouterr()

    os.utime(raw_dir / "wiki_0.jsonl")  # touched, the content is the same
    cleaner.main(arguments(tmp_path))
    assert "3 of 3 files are finished already" in capfd.readouterr().err

    changed = raw_dir / "wiki_1.jsonl"
    changed.write_bytes(changed.read_bytes().replace(b"Title 41", b"Title XX"))
    (raw_dir / "wiki_3.jsonl").write_bytes(record(1))
    (tmp_path / "cleaned" / "cleaned_wiki_2.txt").unlink()
    cleaner.main(arguments(tmp_path))
    said = capfd.readouterr().err
    assert "wiki_1: again, the raw file changed" in said
    assert "wiki_2: again, unfinished" in said
    assert "1 of 4 files are finished already" in said
    second = contents(tmp_path)
    assert second["cleaned_wiki_2.txt"] == first["cleaned_wiki_2.txt"]
    assert b"Title XX" in second["cleaned_wiki_1.txt"]

    (raw_dir / "wiki_3.jsonl").unlink()
    cleaner.main(arguments(tmp_path))
    assert "cleaned_wiki_3.txt: its raw file is gone" in capfd.readouterr().err


def test_reasons_to_clean_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw_dir, cleaned_dir = write_raw(tmp_path, files=1), tmp_path / "cleaned"
    cleaned_dir.mkdir()
    raw = find_raw_files(raw_dir)[0]
    text_path = text_path_of(cleaned_dir, raw.stem)
    limited = SETTINGS.model_copy(update={"limit_articles": 5})

    def reason(settings: CleanerSettings = SETTINGS) -> str | None:
        return file_cleaner.reason_to_clean(raw, cleaned_dir, settings)

    assert reason() == "new"
    clean_one(raw_dir, cleaned_dir, limited)
    assert reason(limited) is None
    assert reason() == "it was stopped after 5 articles"
    assert reason(SETTINGS.model_copy(update={"limit_articles": 6})) == reason()
    os.utime(raw.path)
    assert reason(limited) == "the raw file changed", "of a part there is no digest to compare"
    for whole in (SETTINGS, SETTINGS.model_copy(update={"limit_articles": 41})):
        clean_one(raw_dir, cleaned_dir, whole)
        assert reason() is None
        assert reason(limited) is None, "a test leaves the text of the whole file alone"
    assert reason(SETTINGS.model_copy(update={"min_characters": 21})) == "the settings changed"
    with monkeypatch.context() as patch:
        patch.setattr(file_cleaner, "CLEANER_VERSION", 0)
        assert reason() == "the cleaner changed"
    with text_path.open("ab") as file:
        file.write(b"more\n")
    assert reason() == "its text was changed"
    marker_path_of(text_path).write_text("{}")
    assert reason() == "unfinished"


def test_test_mode_stops_after_some_articles_per_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path, files=2)
    cleaner.main(arguments(tmp_path, "--test", "--set", "cleaner.test_articles=7"))
    for path in cleaned_files(tmp_path / "cleaned"):
        marker = read_marker(path)
        assert len(list(read_articles(path))) == marker.articles == marker.records == 7
        assert marker.settings.limit_articles == 7
        assert marker.truncated
        assert marker.input_xxh128 is None
    capfd.readouterr()
    cleaner.main(arguments(tmp_path, "--test", "--set", "cleaner.test_articles=7"))
    assert "2 of 2 files are finished already" in capfd.readouterr().err
    cleaner.main(arguments(tmp_path))
    assert "wiki_0: again, it was stopped after 7 articles" in capfd.readouterr().err
    assert read_marker(cleaned_files(tmp_path / "cleaned")[0]).articles == 40


def test_test_mode_reads_no_more_than_it_needs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw_dir = write_raw(tmp_path, files=1)
    with (raw_dir / "wiki_0.jsonl").open("ab") as file:
        file.truncate(1 << 40)  # a terabyte, none of it on disk
    cleaner.main(arguments(tmp_path, "--test", "--set", "cleaner.test_articles=7"))
    assert re.search(r"\n1\.0 MB read in [\d.]+ s, [\d.]+ MB/s\n", capfd.readouterr().err)


BAD_LINES = {
    "blank": b"\n",
    "byte_order_mark": b"\xef\xbb\xbf" + record(0),
    "invalid_utf8": b'{"title": "\xff", "text": "x"}\n',
    "lone_surrogate": rb'{"title": "\ud800", "text": "x"}' + b"\n",
    "malformed": b'{"title": NaN}\n',
    "nul_byte": b"\0\0\n",
    "too_deep": b'{"x": ' + b"[" * 3_000 + b"]" * 3_000 + b"}\n",
    "truncated": b'{"title": "T", "te\n',
    "unknown_shape": b'{"a": 1}\n',
    "wrong_type": b'{"title": 1}\n',
}


def test_bad_lines_are_counted_and_the_good_ones_unharmed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw_dir = write_raw(tmp_path, files=1, records=200)
    path = raw_dir / "wiki_0.jsonl"
    good = path.read_bytes().splitlines(keepends=True)
    cleaner.main(arguments(tmp_path))
    expected = (tmp_path / "cleaned" / "cleaned_wiki_0.txt").read_bytes()
    mixed = [line for kind in BAD_LINES.values() for line in (good.pop(0), kind, kind)]
    path.write_bytes(b"".join(mixed + good).replace(b"\n", b"\r\n"))
    cleaner.main(arguments(tmp_path, "--set", "cleaner.max_bad_share=0.1"))
    marker = read_marker(tmp_path / "cleaned" / "cleaned_wiki_0.txt")
    assert (tmp_path / "cleaned" / "cleaned_wiki_0.txt").read_bytes() == expected
    assert marker.bad_lines == dict.fromkeys(sorted(BAD_LINES), 2)
    assert marker.records == 200 + 2 * (len(BAD_LINES) - 1), "blank lines are no records"
    said = capfd.readouterr().err
    assert f"2 bad lines (invalid_utf8); the first: {path}:8: invalid start byte" in said
    assert f"2 bad lines (unknown_shape); the first: {path}:26: neither" in said


def test_a_file_of_bad_lines_fails_and_the_others_are_finished(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw_dir = write_raw(tmp_path)
    path = raw_dir / "wiki_1.jsonl"
    path.write_bytes(path.read_bytes() + b'{"cut": \n')
    with pytest.raises(DataError) as raised:
        cleaner.main(arguments(tmp_path, "--workers", "2"))
    message = str(raised.value)
    assert f"{path}: 1 of 41 lines are no records (1 truncated)" in message
    assert f"first truncated: {path}:41: Input data was truncated" in message
    assert "cleaner.max_bad_share allows 1.0%." in message
    assert "1 of 3 files failed; the others are finished." in message
    assert "wiki_1.jsonl failed; the other files go on" in capfd.readouterr().err
    names = sorted(contents(tmp_path))
    kinds = ("json", "pages", "txt")
    assert names == [f"cleaned_wiki_{n}.{kind}" for n in (0, 2) for kind in kinds]


def test_a_file_of_another_format_fails_before_its_end(tmp_path: Path) -> None:
    raw_dir, cleaned_dir = tmp_path / "raw", tmp_path / "cleaned"
    raw_dir.mkdir()
    (raw_dir / "a.jsonl").write_bytes(b'{"a": 1}\n' * 5_000)
    with pytest.raises(DataError, match=r"1,000 of the first 1,000 lines are .*unknown_shape"):
        clean_one(raw_dir, cleaned_dir)
    assert not list(cleaned_dir.glob("cleaned_*"))


@pytest.mark.parametrize("share", [0.5, 1])
def test_where_many_lines_may_be_bad_the_file_is_read_to_its_end(
    tmp_path: Path, share: float
) -> None:
    raw_dir, cleaned_dir = tmp_path / "raw", tmp_path / "cleaned"
    raw_dir.mkdir()
    lines = [b'{"a": 1}\n' * 1_000, *map(record, range(3_000))]
    (raw_dir / "a.jsonl").write_bytes(b"".join(lines))
    settings = SETTINGS.model_copy(update={"max_bad_share": share})
    marker = clean_one(raw_dir, cleaned_dir, settings).marker
    assert (marker.records, marker.articles) == (4_000, 3_000)
    (raw_dir / "a.jsonl").write_bytes(b'{"a": 1}\n' * 1_500)
    if share < 1:
        with pytest.raises(DataError, match=r"1,500 of 1,500 lines are no records"):
            clean_one(raw_dir, cleaned_dir, settings)
    else:
        assert clean_one(raw_dir, cleaned_dir, settings).marker.records == 1_500


def test_a_failed_redo_leaves_no_marker_that_vouches_for_the_old_text(tmp_path: Path) -> None:
    raw_dir, cleaned_dir = write_raw(tmp_path, files=1), tmp_path / "cleaned"
    clean_one(raw_dir, cleaned_dir)
    (raw_dir / "wiki_0.jsonl").write_bytes(b"garbage\n")
    with pytest.raises(DataError):
        clean_one(raw_dir, cleaned_dir)
    with pytest.raises(DataError, match="unfinished"):
        cleaned_files(cleaned_dir)


def test_damaged_compression_is_named(tmp_path: Path) -> None:
    raw_dir = write_raw(tmp_path, files=1)
    data = gzip.compress(b"".join(record(number) for number in range(2_000)))
    (raw_dir / "wiki_1.jsonl.gz").write_bytes(data[:-100])
    with pytest.raises(DataError, match=r"wiki_1\.jsonl\.gz: damaged \.gz data after line \d+"):
        cleaner.main(arguments(tmp_path))


def test_an_absent_or_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw: no such folder of raw files"):
        cleaner.main(arguments(tmp_path))
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=r"raw: no raw files \(\.jsonl, .*it holds nothing"):
        cleaner.main(arguments(tmp_path))


def test_a_second_run_on_the_folder_is_refused(tmp_path: Path) -> None:
    write_raw(tmp_path)
    with (
        sole_writer(tmp_path / "cleaned", "testing"),
        pytest.raises(BusyError, match="another process is cleaning into this folder"),
    ):
        cleaner.main(arguments(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", range(1, 7), ids=lambda call: f"fsync_{call}")
def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    calls = itertools.count(1)

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(number, os.strerror(number))

    raw_dir, cleaned_dir = write_raw(tmp_path, files=1), tmp_path / "cleaned"
    clean_one(raw_dir, cleaned_dir)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        clean_one(raw_dir, cleaned_dir)
    assert raised.value.filename == str(text_path_of(cleaned_dir, "wiki_0"))
    assert not list(cleaned_dir.glob(".*"))
    assert marker_path_of(text_path_of(cleaned_dir, "wiki_0")).exists() == (call == 6)


def test_a_write_that_fails_ends_everything_and_names_the_text(tmp_path: Path) -> None:
    write_raw(tmp_path, files=2, records=4_000)
    limit = 100_000  # bytes in a file; Python ignores SIGXFSZ
    done = subprocess.run(
        ["prlimit", f"--fsize={limit}", *command(tmp_path, "--workers", "2")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert re.search(r"error: \S+/cleaned_wiki_[01]\.txt: File too large", done.stderr)
    assert not contents(tmp_path)
    assert not temporaries(tmp_path)


def test_a_file_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    raw_dir = write_raw(tmp_path)
    memory = Path("/proc/self/mem")  # reading its first page fails like a broken disk
    if not memory.exists():
        pytest.skip("needs /proc/self/mem")
    (raw_dir / "wiki_1.jsonl").unlink()
    (raw_dir / "wiki_1.jsonl").symlink_to(memory)
    with pytest.raises(
        DataError, match=r"wiki_1\.jsonl: cannot be read after line 0: Input"
    ) as caught:
        cleaner.main(arguments(tmp_path))
    assert "1 of 3 files failed; the others are finished." in caught.value.hint
    assert len(contents(tmp_path)) == 6


def test_a_file_that_cannot_be_opened_keeps_its_text(tmp_path: Path) -> None:
    raw_dir, cleaned_dir = write_raw(tmp_path, files=1), tmp_path / "cleaned"
    clean_one(raw_dir, cleaned_dir)
    raw = find_raw_files(raw_dir)[0]
    raw.path.unlink()
    with pytest.raises(DataError, match="No such file or directory"):
        file_cleaner.clean_file(raw, cleaned_dir, SETTINGS, lambda *_: None)
    assert len(cleaned_files(cleaned_dir)) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), r"wiki_0\.jsonl: out of memory\n  Try fewer --workers"),
        (RecursionError("deep"), r"wiki_0\.jsonl: unexpected RecursionError: deep\n  This is a"),
    ],
)
def test_any_error_of_a_worker_names_its_file(
    tmp_path: Path, error: Exception, message: str
) -> None:
    todo = find_raw_files(write_raw(tmp_path))
    in_work = pool._InWork(pool._Shared(multiprocessing.get_context("spawn"), len(todo)), todo)
    futures: dict[Future[Any], Any] = {Future(): raw for raw in todo[:1]}
    for future in futures:
        future.set_exception(error)
    (failure,) = pool._follow(futures, in_work, SETTINGS, InterruptGuard(""))
    assert re.search(message, str(failure))
    assert failure.__cause__ is error


def big_raw(folder: Path, records: int = 24_000) -> Path:
    """Enough work for a few seconds."""
    raw_dir = write_raw(folder, files=0)
    lines = b"".join(record(number) for number in range(records))
    for file in range(2):
        (raw_dir / f"wiki_{file}.jsonl").write_bytes(lines)
    return raw_dir


def wait_until(happened: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def children_of(process: subprocess.Popen[str]) -> list[int]:
    """The worker processes, without multiprocessing's resource tracker."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True
    )
    return [int(child) for child in found.stdout.split()]


def temporaries(folder: Path) -> list[Path]:
    return list((folder / "cleaned").glob(".*.tmp"))


def test_ctrl_c_in_a_terminal_ends_all_processes_quietly(tmp_path: Path) -> None:
    big_raw(tmp_path)
    process = start(tmp_path, "--workers", "2")
    wait_until(lambda: children_of(process))  # which are still importing
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "SIGINT: stopped; finished files are kept" in said
    assert "The same command goes on with the others." in said
    assert "Traceback" not in said
    assert not temporaries(tmp_path)


def test_sigterm_ends_the_workers_and_leaves_nothing_partial(tmp_path: Path) -> None:
    big_raw(tmp_path)
    process = start(tmp_path, "--workers", "2")
    wait_until(lambda: temporaries(tmp_path))
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143, said
    assert "SIGTERM: stopped; finished files are kept" in said
    assert not temporaries(tmp_path)
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("number", "gap_seconds"),
    [(signal.SIGINT, 0.005), (signal.SIGINT, 0.03), (signal.SIGINT, 0.08), (signal.SIGTERM, 0.03)],
)
def test_a_doubled_signal_to_all_processes_is_one(
    tmp_path: Path, number: signal.Signals, gap_seconds: float
) -> None:
    """As when a terminal and a parent, or `timeout`, tell every process of the group."""
    big_raw(tmp_path)
    process = start(tmp_path, "--workers", "2")
    wait_until(lambda: temporaries(tmp_path))
    os.killpg(process.pid, number)
    time.sleep(gap_seconds)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number, said
    assert f"{number.name}: stopped; finished files are kept" in said
    assert "Traceback" not in said
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_workers_start_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    class Signalled(ProcessPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), number)
            return super().submit(*args, **kwargs)

    monkeypatch.setattr(pool, "ProcessPoolExecutor", Signalled)
    write_raw(tmp_path, files=1)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped") as caught:
        cleaner.main(arguments(tmp_path))
    assert caught.value.exit_code == 128 + number


WITHOUT_WORKERS = """
import multiprocessing, sys
multiprocessing.set_executable(sys.argv.pop(1))
import cleaner
from utils.cli import run_script
run_script(cleaner.main)
"""


def test_workers_that_cannot_start_are_an_error(tmp_path: Path) -> None:
    write_raw(tmp_path)
    for executable in ("/bin/false", "/absent"):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_WORKERS, executable, *arguments(tmp_path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1, done.stderr
        assert "a worker process was killed while no files were in work" in done.stderr
        assert not contents(tmp_path)


@pytest.mark.parametrize("error", [BrokenPipeError(), EOFError(), BrokenProcessPool()])
@pytest.mark.parametrize("step", ["__init__", "submit"])
def test_a_broken_pipe_to_a_worker_is_no_end_of_our_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, step: str
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ProcessPoolExecutor, step, broken)
    write_raw(tmp_path, files=1)
    with pytest.raises(DataError, match="a worker process was killed while no files were in work"):
        cleaner.main(arguments(tmp_path))


def test_a_killed_worker_is_an_error_that_names_the_files(tmp_path: Path) -> None:
    big_raw(tmp_path, records=20_000)
    process = start(tmp_path, "--workers", "2")
    wait_until(lambda: len(temporaries(tmp_path)) == 2)
    time.sleep(0.3)  # until both have reported how far they are
    os.kill(children_of(process)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a worker process was killed while wiki_" in said
    assert "Out of memory is the usual reason: try fewer --workers" in said
    assert not temporaries(tmp_path)


def kill_and_rerun(folder: Path, seed: int) -> None:
    delay = random.Random(seed).uniform(0.3, 2.5)
    process = start(folder, "--workers", "2")
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=10)  # workers hold its pipes: they must have ended too
    for path in (folder / "cleaned").glob("cleaned_*.json"):
        text = path.with_suffix(".txt")
        assert read_marker(text).output_sha256 == sha256_of(text)


def kill_often(folder: Path, tries: int) -> None:
    big_raw(folder, records=6_000)
    cleaner.main(arguments(folder))
    expected = contents(folder)
    for seed in range(tries):
        for path in (folder / "cleaned").glob("cleaned_*"):
            path.unlink()
        kill_and_rerun(folder, seed)
        for path in (folder / "cleaned").glob("cleaned_*.txt"):
            assert path.read_bytes() == expected[path.name], "a final name held a partial text"
        subprocess.run(command(folder), check=True, capture_output=True, timeout=60)
        assert contents(folder) == expected
        assert not temporaries(folder)


def test_kill_leaves_no_partial_file(tmp_path: Path) -> None:
    kill_often(tmp_path, tries=2)


@pytest.mark.slow
def test_fifty_kills_leave_no_partial_file(tmp_path: Path) -> None:
    kill_often(tmp_path, tries=50)


def test_without_a_terminal_progress_is_plain_lines(tmp_path: Path) -> None:
    write_raw(tmp_path)
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert "MB/s" in done.stderr.splitlines()[-1]


def test_progress_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "PLAIN_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.02)
    size_mb = (big_raw(tmp_path, records=20_000) / "wiki_0.jsonl").stat().st_size / 1e6
    cleaner.main(arguments(tmp_path))
    lines = re.findall(
        rf"^cleaning: ([\d.]+) of {2 * size_mb:.1f} MB \((\d+)%\), [\d.]+ MB/s, [\d.]+ s left,"
        r" ([\d,]+) articles, wiki_0: (\d+)%$",
        capfd.readouterr().err,
        re.MULTILINE,
    )
    assert lines, "of the first file, the only one in work"
    for done_mb, share, articles, share_of_file in lines:
        assert int(share) == pytest.approx(100 * float(done_mb) / (2 * size_mb), abs=2)
        assert int(share_of_file) == pytest.approx(100 * float(done_mb) / size_mb, abs=3)
        assert 0 <= int(articles.replace(",", "")) <= 20_000
    assert any(articles != "0" for *_, articles, _ in lines)


def test_usage() -> None:
    done = subprocess.run(
        [sys.executable, "cleaner.py", "--workers", "many"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 2
    assert "--workers" in done.stderr


def test_real_files(shared_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(shared_dir / "data" / "structured_contents_real")
    cleaner.main(arguments(tmp_path, "--set", "cleaner.max_bad_share=0.4"))
    (text,) = [path for path in cleaned_files(tmp_path / "cleaned") if "wme" in path.name]
    marker = read_marker(text)
    assert marker.records == 86
    assert marker.bad_lines == {}
    whole = "\n".join(read_articles(text))
    for artefact in (" 's ", "(listen)", "Coordinates:", "{\\displaystyle", "↑", "{{", " ()", "(;"):
        assert artefact not in whole
