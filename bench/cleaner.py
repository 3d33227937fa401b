"""How fast raw records become cleaned text: a cleaning worker against orjson merely parsing them.

`python -m bench.cleaner FILE [FILE ...]`: CPU time of cleaning each file, with all rules and the
output on disk, beside that of parsing its lines and dropping what they hold; then two workers
against one on the clock, and the memory of a worker as its file grows.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import REPOSITORY, Timing, bench_parser, in_child, publish, side_by_side, table
from utils.articles import CleanerSettings
from utils.cleaning.file_cleaner import clean_file
from utils.cleaning.inputs.raw_files import RawFile, find_raw_files
from utils.cleaning.pool import clean_files
from utils.cli import config_from, run_script
from utils.errors import DataError
from utils.files import format_bytes
from utils.terminal import say

GOAL = 0.35  # times orjson
WORKERS_GOAL = 1.8  # times one worker
MEMORY_GOAL_BYTES = 80_000_000
PACKAGES = ("msgspec", "orjson", "numpy")
_BUFFER_BYTES = 1 << 20
_GROWTH = 4  # how much longer the longer file is, of the memory's
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
    """How long cleaning a folder of raw files takes, the start of the workers included."""
    with tempfile.TemporaryDirectory() as cleaned_dir:
        start = time.perf_counter()
        clean_files(find_raw_files(folder), Path(cleaned_dir), settings, workers)
        return time.perf_counter() - start


def worker_peak_bytes(folder: Path) -> int:
    """The most memory that a worker of `cleaner.py` held, all of its process."""
    with tempfile.TemporaryDirectory() as cleaned_dir:
        paths = {"raw_dir": folder, "cleaned_dir": cleaned_dir}
        options = [f"--set=paths.{key}={value}" for key, value in paths.items()]
        process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "cleaner.py", "--workers=1", *options],
            cwd=REPOSITORY,
            stderr=subprocess.DEVNULL,
        )
        peak = 0
        while process.poll() is None:
            peak = max([peak, *map(_peak_bytes, _children(process.pid))])
            time.sleep(_POLL_SECONDS)
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
    parser = bench_parser("Cleaning against orjson parsing the same file.", repeats=15)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="plain JSON lines")
    parser.add_argument(
        "--growth", type=int, default=16, help="copies of a file in each that the workers clean"
    )
    args = parser.parse_args(arguments)
    config = config_from(args)
    settings = CleanerSettings(
        min_characters=config.cleaner.min_characters,
        max_bad_share=config.cleaner.max_bad_share,
        limit_articles=None,
        drop_duplicate_texts=False,
    )
    files = [path.resolve() for path in args.files]
    speeds: dict[str, Mapping[str, Timing]] = {}
    for path in files:
        say(f"cleaning {path.name} {args.repeats} times on one core")
        speeds[path.name] = in_child(1, compare, path, settings, args.repeats)
    clocks, peaks = _scaling(files, settings, args.growth)
    sizes = {path.name: path.stat().st_size for path in files}
    publish(
        args,
        "cleaner",
        "Cleaning",
        _body(sizes, speeds, clocks, peaks),
        {
            "speeds": {name: {k: t.cpu_min for k, t in s.items()} for name, s in speeds.items()},
            "seconds_by_workers": clocks,
            "worker_peak_bytes": peaks,
        },
        PACKAGES,
    )


def _scaling(
    files: Sequence[Path], settings: CleanerSettings, growth: int
) -> tuple[dict[int, float], dict[int, int]]:
    """Best of three by number of workers, and a worker's peak memory by its file's length."""
    pairs = files[: max(2, len(files) // 2 * 2)]  # which two workers can share evenly
    with tempfile.TemporaryDirectory() as folder:
        say(f"cleaning {growth} copies of {len(pairs)} files each with one worker and with two")
        _repeated(pairs, Path(folder), growth)
        clocks = {workers: float("inf") for workers in (1, 2)}
        for _ in range(3):
            for workers in clocks:
                clocks[workers] = min(
                    clocks[workers], seconds_with(workers, Path(folder), settings)
                )
    peaks = {}
    for times in (growth // _GROWTH, growth):
        with tempfile.TemporaryDirectory() as folder:
            _repeated(files[:1], Path(folder), times)
            peaks[times * files[0].stat().st_size] = worker_peak_bytes(Path(folder))
    return clocks, peaks


def _body(
    sizes: Mapping[str, int],
    speeds: Mapping[str, Mapping[str, Timing]],
    clocks: Mapping[int, float],
    peaks: Mapping[int, int],
) -> str:
    rows = []
    for name, timings in speeds.items():
        rates = [sizes[name] / 1e6 / timings[who].cpu_min for who in ("orjson", "cleaner")]
        rows.append([name, *(f"{rate:.0f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"])
    memory = ", ".join(
        f"{format_bytes(size)}: {format_bytes(peak)}" for size, peak in peaks.items()
    )
    cores = len(os.sched_getaffinity(0))
    return (
        "One core, MB of JSON lines per CPU second, the best of the rounds; the goal is"
        f" {GOAL} x.\n\n{table(['file', 'orjson parses', 'cleaned', 'x'], rows)}\n\n"
        f"Two workers: {clocks[1] / clocks[2]:.2f} x one ({clocks[1]:.1f} s and {clocks[2]:.1f} s"
        f" on {cores} cores, their start included; goal {WORKERS_GOAL} x).\n"
        f"A worker's peak memory, by the length of its file (goal"
        f" {format_bytes(MEMORY_GOAL_BYTES)}): {memory}."
    )


if __name__ == "__main__":
    run_script(main)
