"""How fast raw records become cleaned text: a cleaning worker against orjson merely parsing them.

`python -m bench.cleaner FILE FILE [FILE ...]`: CPU time of cleaning each file, with all rules and
the output on disk, beside that of parsing its lines and dropping what they hold; then two workers
against one on the clock, and the memory of a worker as its file grows. Needs Linux.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import (
    REPOSITORY,
    Timing,
    bench_parser,
    environment_of,
    in_child,
    positive,
    publish,
    side_by_side,
    table,
    times_as_fast,
)
from utils.articles import CleanerSettings
from utils.cleaning.file_cleaner import clean_file
from utils.cleaning.inputs.raw_files import RawFile, find_raw_files
from utils.cleaning.pool import clean_files, raise_failures
from utils.cli import config_from, run_script, shared_options
from utils.errors import DataError, UsageError
from utils.files import format_bytes
from utils.terminal import say

GOAL = 0.35  # times orjson
WORKERS_GOAL = 1.8  # times one worker
MEMORY_GOAL_BYTES = 80_000_000
PACKAGES = ("msgspec", "orjson", "numpy")
_BUFFER_BYTES = 1 << 20
_GROWTH = 4  # how much longer the longer file is, of the memory's
_ROUNDS = 3  # of one worker and of two
_POLL_SECONDS = 0.005


def compare(path: Path, settings: CleanerSettings, repeats: int) -> dict[str, Timing]:
    """Parsing and cleaning one file in turns; to be run on one core."""
    import orjson

    def parse() -> None:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            for line in file:
                orjson.loads(line)

    raw = _raw_file(path)
    with tempfile.TemporaryDirectory() as folder:

        def clean() -> None:
            clean_file(raw, Path(folder), settings, lambda _bytes, _articles: None)

        return side_by_side({"orjson": parse, "cleaner": clean}, repeats)


def seconds_with(workers: int, folder: Path, settings: CleanerSettings) -> float:
    """How long cleaning a folder of raw files takes, the start of the workers included.

    Raises DataError if any of them cannot be cleaned.
    """
    raw_files = find_raw_files(folder)
    assert len(raw_files) >= workers, "no more of them would work"
    with tempfile.TemporaryDirectory() as cleaned_dir:
        start = time.perf_counter()
        _, errors = clean_files(raw_files, Path(cleaned_dir), settings, workers)
        seconds = time.perf_counter() - start
    raise_failures(errors, len(raw_files))
    return seconds


def worker_peak_bytes(folder: Path, options: Sequence[str]) -> int:
    """The most memory that a worker of `cleaner.py` with `options` held, all of its process.

    Raises DataError if it failed, or if nothing could be measured.
    """
    with tempfile.TemporaryDirectory() as cleaned_dir, tempfile.TemporaryFile() as shown:
        paths = {"raw_dir": folder, "cleaned_dir": cleaned_dir}
        process = subprocess.Popen(  # noqa: S603 - our own script
            [
                *(sys.executable, str(REPOSITORY / "cleaner.py"), "--workers=1", *options),
                *(f"--set=paths.{key}={value}" for key, value in paths.items()),
            ],
            stderr=shown,
        )
        peak = 0
        while process.poll() is None:
            peak = max([peak, *map(_peak_bytes, _children(process.pid))])
            time.sleep(_POLL_SECONDS)
        if process.returncode:
            shown.seek(0)
            said = shown.read().decode(errors="replace").strip()
            raise DataError(f"cleaner.py failed with exit code {process.returncode}:\n{said}")
    if not peak:
        raise DataError("the memory of cleaner.py's worker could not be read", "Needs Linux.")
    return peak


def _raw_file(path: Path) -> RawFile:
    for raw in find_raw_files(path.parent):
        if raw.path == path and not raw.packing:
            return raw
    raise DataError(f"{path}: no plain file of JSON lines", "Name one that orjson can parse.")


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []


def _peak_bytes(pid: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _repeated(paths: Sequence[Path], folder: Path, times: int) -> None:
    """Each file so many times its length, under its own name."""
    for path in paths:
        with (folder / path.name).open("wb") as file:
            for _ in range(times):
                file.write(path.read_bytes())


def main(arguments: Sequence[str]) -> None:
    parser = bench_parser("cleaner", "Cleaning against orjson parsing the same file.", repeats=41)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="plain JSON lines, two files or more"
    )
    parser.add_argument(
        "--growth",
        type=positive,
        default=16,
        metavar="N",
        help="copies of a file in each that the workers clean (default: 16)",
    )
    args = parser.parse_args(arguments)
    files = [path.resolve() for path in args.files]
    _check_usable(files, args.growth)
    config = config_from(args)
    environment = environment_of(PACKAGES, args.commit)
    settings = CleanerSettings(
        min_characters=config.cleaner.min_characters,
        max_bad_share=config.cleaner.max_bad_share,
        limit_articles=None,
        drop_duplicate_texts=False,
    )
    speeds: dict[str, Mapping[str, Timing]] = {}
    for path in files:
        say(f"cleaning {path.name} {args.repeats} times on one core")
        speeds[path.name] = in_child(1, compare, path, settings, args.repeats)
    clocks = _clocks(files[: len(files) // 2 * 2], settings, args.growth)
    peaks = {}
    for times in (args.growth // _GROWTH, args.growth):
        with tempfile.TemporaryDirectory() as folder:
            _repeated(files[:1], Path(folder), times)
            size_bytes = times * files[0].stat().st_size
            peaks[size_bytes] = worker_peak_bytes(Path(folder), shared_options(args))
    sizes = {path.name: path.stat().st_size for path in files}
    publish(
        args,
        "cleaner",
        "Cleaning",
        _body(sizes, speeds, clocks, peaks),
        {
            "speeds": {name: {k: t.values() for k, t in s.items()} for name, s in speeds.items()},
            "seconds_by_workers": clocks,
            "worker_peak_bytes": peaks,
        },
        environment,
    )


def _check_usable(files: Sequence[Path], growth: int) -> None:
    """Before any timing, what would make a wrong number or end it late."""
    if len(files) < 2:
        raise UsageError("two workers need two files", "Name another FILE of about the same size.")
    if len({path.name for path in files}) < len(files):
        raise UsageError("two files have one name", "Rename one, for they go into one folder.")
    if growth < _GROWTH:
        raise UsageError(f"--growth is {growth}", f"Take {_GROWTH} or more.")
    if not Path("/proc/self/status").exists():
        raise UsageError("the memory of a worker is read from /proc", "Run it on Linux.")
    for path in files:
        _raw_file(path)


def _clocks(
    files: Sequence[Path], settings: CleanerSettings, growth: int
) -> dict[int, list[float]]:
    """Seconds of each round by number of workers; two share an even number of files evenly."""
    assert len(files) % 2 == 0
    clocks: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        say(f"cleaning {growth} copies of {len(files)} files each with one worker and with two")
        _repeated(files, Path(folder), growth)
        for _ in range(_ROUNDS):
            for workers, seconds in clocks.items():
                seconds.append(seconds_with(workers, Path(folder), settings))
    return clocks


def _body(
    sizes: Mapping[str, int],
    speeds: Mapping[str, Mapping[str, Timing]],
    clocks: Mapping[int, Sequence[float]],
    peaks: Mapping[int, int],
) -> str:
    rows = []
    for name, timings in speeds.items():
        rates = [sizes[name] / 1e6 / timings[who].cpu_min for who in ("orjson", "cleaner")]
        ratio = times_as_fast(timings["cleaner"].cpu, timings["orjson"].cpu)
        rows.append([name, *(f"{rate:.0f}" for rate in rates), f"{ratio:.2f}"])
    memory = ", ".join(
        f"{format_bytes(size)}: {format_bytes(peak)}" for size, peak in peaks.items()
    )
    cores = len(os.sched_getaffinity(0))
    one, two = (statistics.median(clocks[workers]) for workers in (1, 2))
    return (
        "One core, MB of JSON lines per CPU second, the best of the rounds; x is the median of the"
        f" rounds' ratios, and its goal {GOAL}.\n\n"
        f"{table(['file', 'orjson parses', 'cleaned', 'x'], rows)}\n\n"
        f"Two workers: {times_as_fast(clocks[2], clocks[1]):.2f} x one ({one:.1f} s and {two:.1f} s"
        f" on {cores} cores, their start included; medians of {len(clocks[1])} rounds; goal"
        f" {WORKERS_GOAL} x).\nA worker's peak memory, by the length of its file (goal"
        f" {format_bytes(MEMORY_GOAL_BYTES)}): {memory}."
    )


if __name__ == "__main__":
    run_script(main)
