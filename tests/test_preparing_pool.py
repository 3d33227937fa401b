"""utils/preparing/pool.py: several files at a time, and how their work ends."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_text import write_cleaned
from utils.articles import read_marker
from utils.errors import DataError, DatasetError, Interrupted
from utils.interrupts import InterruptGuard
from utils.preparing.pool import Tally, for_each_file
from utils.preparing.sources import Source

Job = Callable[[Source, Tally], str]


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    paths = [write_cleaned(tmp_path, f"part_{number}", ["text"]) for number in range(9)]
    return [Source(path, read_marker(path), 1, None, "new") for path in paths]


def run(sources: list[Source], job: Job, workers: int = 3) -> list[str]:
    with InterruptGuard("stopping") as guard:
        return for_each_file("Testing", sources, job, workers, guard)


@pytest.mark.parametrize("workers", [1, 2, 20])
def test_results_come_in_order(sources: list[Source], workers: int) -> None:
    def job(source: Source, tally: Tally) -> str:
        time.sleep(0.01 * (source.stem == "part_0"))
        return source.stem

    assert run(sources, job, workers) == [f"part_{number}" for number in range(9)]
    assert run([], job, workers) == []


def test_as_many_files_as_workers_are_in_work(sources: list[Source]) -> None:
    together = threading.Barrier(3)

    def job(source: Source, tally: Tally) -> str:
        together.wait(timeout=10)
        assert threading.active_count() <= outside + 3
        return ""

    outside = threading.active_count()
    run(sources, job, workers=3)


def test_text_errors_are_named_together_after_the_others(
    sources: list[Source], capsys: pytest.CaptureFixture[str]
) -> None:
    finished = []

    def job(source: Source, tally: Tally) -> str:
        if source.stem in ("part_1", "part_7"):
            raise DataError(f"{source.stem} is broken", "Mend it.")
        finished.append(source.stem)
        return ""

    with pytest.raises(
        DataError, match=r"part_[17] is broken\n  Mend it\.\npart_[17] is"
    ) as caught:
        run(sources, job)
    assert caught.value.hint == "2 of 9 files failed; the others are finished."
    assert len(finished) == 7
    assert "part_1 failed; the other files go on" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"^part_1 is broken\n  Mend it\.$"):
        run(sources[:3], job)


def test_any_other_error_ends_the_work_of_all(sources: list[Source]) -> None:
    begun = []
    failing = threading.Event()

    def job(source: Source, tally: Tally) -> str:
        begun.append(source.stem)
        if source.stem == "part_1":
            failing.set()
            raise DatasetError("no room")
        assert failing.wait(timeout=10)
        while True:  # until the work is to end
            tally.add(1)
            time.sleep(0.001)

    with pytest.raises(DatasetError, match="no room"):
        run(sources, job)
    assert len(begun) <= 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_of_all(sources: list[Source], number: signal.Signals) -> None:
    begun = []

    def job(source: Source, tally: Tally) -> str:
        begun.append(source.stem)
        if len(begun) == 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a Ctrl-C may arrive twice
        while True:
            tally.add(1)
            time.sleep(0.001)

    with pytest.raises(Interrupted, match=f"{number.name}: stopped; the finished files") as caught:
        run(sources, job)
    assert caught.value.exit_code == 128 + number
    assert len(begun) == 3


def test_the_tally_adds_up_over_threads(sources: list[Source]) -> None:
    tallies = []

    def job(source: Source, tally: Tally) -> str:
        for _ in range(1_000):
            tally.add(5, articles=2, characters=12, tokens=3)
        tallies.append(tally)
        return ""

    run(sources, job, workers=9)
    tally = tallies[0]
    assert (tally.size_bytes, tally.articles, tally.tokens) == (45_000, 18_000, 27_000)
    assert tally.note().startswith("18,000 articles, ")
    assert tally.note().endswith("k tokens/s, 4.00 chars/token")
