"""What the bench scripts share: timing side by side, memory, the machine, and the record.

A bench times its contenders in one process, writes a section for people and a JSON line, and puts
the section into docs/RESULTS.md when it is told to; bench/record.py does so later, from what was
written. Where there is no git, `--commit` says what is measured. Pinning and memory need Linux.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from bench.record import RESULTS_PATH, marked, record, section_name
from utils.cli import script_parser
from utils.terminal import emit, say

REPOSITORY = Path(__file__).parent.parent
LINE_CHARACTERS = 104  # of RESULTS.md

P = ParamSpec("P")
R = TypeVar("R")


class Timing(NamedTuple):
    """Seconds of one call, in each round.

    CPU time is that of all threads, and of child processes that ended within the call.
    """

    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    @property
    def cpu_min(self) -> float:
        return min(self.cpu)

    @property
    def wall_min(self) -> float:
        return min(self.wall)

    @property
    def wall_median(self) -> float:
        return statistics.median(self.wall)

    def values(self) -> dict[str, object]:
        """The rounds, and what is told of them, for the JSON line."""
        return {
            **self._asdict(),
            "cpu_min": self.cpu_min,
            "cpu_median": statistics.median(self.cpu),
            "wall_min": self.wall_min,
            "wall_median": self.wall_median,
        }


def times_as_fast(ours: Sequence[float], peer: Sequence[float]) -> float:
    """How many times as fast as `peer`, by the seconds of the same rounds: the rounds' median.

    Both meet the same disturbances within a round, but not in two rounds.
    """
    return statistics.median(slow / fast for fast, slow in zip(ours, peer, strict=True))


def bench_parser(name: str, description: str, repeats: int | None) -> argparse.ArgumentParser:
    """A parser with every script's options and those of benches, for `python -m bench.NAME`.

    Those are --record, --commit and --repeats, which `repeats` None leaves out.
    """
    parser = script_parser(description)
    parser.prog = f"python -m bench.{name}"
    if repeats is not None:
        parser.add_argument(
            "--repeats",
            type=positive,
            default=repeats,
            metavar="N",
            help=f"calls of each contender (default: {repeats})",
        )
    parser.add_argument(
        "--record", action="store_true", help="replace this bench's section of docs/RESULTS.md"
    )
    parser.add_argument(
        "--commit",
        metavar="NAME",
        help="what is measured, such as `git describe --always --dirty` names it (default: by git)",
    )
    return parser


def positive(text: str) -> int:
    """A whole number above 0, of the command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def side_by_side(contenders: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Call every contender `repeats` times, in turns, so that all meet the same disturbances.

    The order moves on by one each round. Freeing what a call returned is not timed. The first
    round, in which caches may be cold, counts like the others.
    """
    names = list(contenders)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            cpu_start, wall_start = _cpu_seconds(), time.perf_counter()
            result = contenders[name]()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(_cpu_seconds() - cpu_start)
            del result
    return {name: Timing(tuple(cpu[name]), tuple(wall[name])) for name in names}


def in_child(cores: int | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `function` returns in a new process, kept to the first `cores` cores; None is all."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_keep_to, initargs=(cores,)) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_memory_bytes(call: Callable[[], object]) -> int:
    """The most memory that this process held during `call`, above what it held before.

    Call it once per process: an allocator gives out again what it kept of an earlier call.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory_bytes("VmRSS")
    result = call()
    peak = _memory_bytes("VmHWM") - before
    del result
    return peak


def paragraph(text: str) -> str:
    """`text` in lines as long as those of RESULTS.md."""
    return textwrap.fill(text, LINE_CHARACTERS, break_on_hyphens=False, break_long_words=False)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; all columns but the first are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "| " + " | ".join([f"{first:<{widths[0]}}", *map(str.rjust, rest, widths[1:])]) + " |"
        for first, *rest in (header, *rows)
    ]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def publish(
    args: argparse.Namespace,
    name: str,
    title: str,
    body: str,
    values: Mapping[str, object],
    environment: Mapping[str, str],
    part: str = "",
) -> None:
    """Show a result: the section for people, between its marks, and a JSON line with `values`.

    `body` is Markdown; above it go the title, the command, and the environment as `environment_of`
    found it before the measurement. With `--record` the section goes into docs/RESULTS.md too, to
    its own place there if it is only a `part` of the bench.
    """
    head = paragraph(f"`{_command(name)}` ({environment_line(environment)})")
    section = f"## {title}\n\n{head}\n\n{body.strip()}"
    emit(marked(section_name(name, part), section))
    if args.record:
        record(section_name(name, part), section)
        say(f"recorded in {RESULTS_PATH.relative_to(REPOSITORY)}", "green")
    parts = {"part": part} if part else {}
    emit(json.dumps({"bench": name, **parts, "environment": environment, **values}))


def environment_of(
    packages: Sequence[str], commit: str | None = None, with_gpu: bool = False
) -> dict[str, str]:
    """The day, the commit, the machine, and the versions of Python and `packages`.

    Ask before the measurement: the files may change while it runs. The commit is "unknown" where
    neither `commit` nor git tells it; the version of a package that is not installed is "absent".
    """
    return {
        "date": date.today().isoformat(),
        "commit": commit or _commit(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "Python": platform.python_version(),
        **{package: _version(package) for package in packages},
        **(_gpus() if with_gpu else {}),
    }


def _gpus() -> dict[str, str]:
    """The name of the first GPU, their number if more, and CUDA's version; nothing without one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    count = torch.cuda.device_count()
    return {
        "GPU": torch.cuda.get_device_name(),
        **({"GPUs": str(count)} if count > 1 else {}),
        "CUDA": str(torch.version.cuda),
    }


def _commit() -> str:
    from utils.environment import git_commit  # brings torch: not for every child process

    if not git_commit():  # git would look further up, into another project
        return "unknown"
    command = ["git", "status", "--porcelain", "--", "*.py", "config.json"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)  # noqa: S603
    return f"{git_commit()[:7]}{' with edits' if found.stdout else ''}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def environment_line(environment: Mapping[str, str]) -> str:
    """The environment for people."""
    today, commit, processor, cores, *versions = environment.items()
    named = [f"{name} {version}" for name, version in versions]
    return ", ".join([today[1], f"commit {commit[1]}", processor[1], f"{cores[1]} cores", *named])


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _command(name: str) -> str:
    """The command line; of absolute paths only the last name, the rest is this machine's affair."""
    shown = [re.sub(r"(?<![^=])/.*/(?=[^/])", ".../", part) for part in sys.argv[1:]]
    return shlex.join(["python", "-m", f"bench.{name}", *shown])


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _keep_to(cores: int | None) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _memory_bytes(key: str) -> int:
    """A line of this process's status. Unlike getrusage's peak, none counts the parent's memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
