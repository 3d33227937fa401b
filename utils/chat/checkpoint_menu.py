"""Training runs and their checkpoints, shown as lists to choose from."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.chat.columns import fits
from utils.chat.menus import ALL, aligned, ask_choice, ask_until, parse_number, parse_numbers
from utils.checkpoint import CheckpointSummary, summarise_checkpoint
from utils.config import Config
from utils.errors import CheckpointError, PipelineError, UsageError
from utils.files import format_bytes
from utils.runs import CheckpointFile, Run, list_runs
from utils.terminal import printable, say, warn

_STYLES = {"best": "green", "latest": "blue", "broken": "red"}


@dataclass(frozen=True)
class ListedCheckpoint:
    """A file of a list: what it says of itself, or, in `problem`, why it cannot be used."""

    file: CheckpointFile
    summary: CheckpointSummary | None
    problem: str = ""


def inspect_run(
    run: Run, config: Config, problems: Mapping[Path, str]
) -> tuple[ListedCheckpoint, ...]:
    """A run's files; `problems` are those that came up when loading. At least one is usable."""
    listed = tuple(_inspect(file, config, problems) for file in run.checkpoints)
    if not any(entry.summary for entry in listed):
        raise CheckpointError(
            f"{run.path}: none of its {len(listed)} checkpoints can be used:\n"
            + "\n".join(f"  - {entry.file.path.name}: {entry.problem}" for entry in listed),
            "Choose another run with --run.",
        )
    return listed


def choose_mode() -> bool:
    """Ask for the mode: true for a comparison of several models."""
    say("\nInference mode", "bold")
    say("  1  single model")
    say("  2  multi-model comparison")
    return ask_choice("Mode", "--checkpoint", 2, default=1) == 2


def choose_run(checkpoint_dir: Path) -> Run:
    """Ask for a training run, newest first; not asked where there is only one."""
    runs = list_runs(checkpoint_dir)
    if not runs:
        raise CheckpointError(
            f"{checkpoint_dir}: no checkpoints here",
            "Train a model first: python train.py. Or name a file with --checkpoint.",
        )
    if len(runs) == 1:
        say(f"The only training run: {_run_name(runs[0])}", "dim")
        return runs[0]
    say(f"\nTraining runs in {checkpoint_dir}", "bold")
    rows = [
        [
            str(number),
            _run_name(run),
            _date(run.modified_seconds),
            f"{len(run.checkpoints)} checkpoint{'s' * (len(run.checkpoints) != 1)}",
            "most recent" if number == 1 else "",
        ]
        for number, run in enumerate(runs, start=1)
    ]
    for number, line in enumerate(_fitting(rows, right=[0], spare=[3, 2]), start=1):
        say(line, *(("bold", "cyan") if number == 1 else ()))
    return runs[ask_choice("Training run", "--run", len(runs), default=1) - 1]


def choose_checkpoints(listed: Sequence[ListedCheckpoint], several: bool) -> list[Path]:
    """Ask for one usable checkpoint, or several; not asked where there is only one."""
    usable = [entry for entry in listed if entry.summary]
    if len(listed) == 1:
        say(f"The only checkpoint: {listed[0].file.path.name}", "dim")
        return [usable[0].file.path]
    _show_checkpoints(listed)
    flag = "--checkpoint"
    if several:
        question = f"Checkpoints, such as 1,2, or {ALL!r}: "
        return ask_until(question, flag, lambda answer: _parse_several(answer, listed))
    preferred = next((entry for entry in usable if entry.file.kind == "best"), usable[0])
    default = listed.index(preferred) + 1
    question = f"Checkpoint [{default}]: "
    return [ask_until(question, flag, lambda answer: _parse_one(answer or str(default), listed))]


def all_usable(listed: Sequence[ListedCheckpoint]) -> list[Path]:
    """The usable ones, saying what is left out; names of one and the same file count once."""
    chosen: list[Path] = []
    for entry in listed:
        path = entry.file.path
        if entry.summary is None:
            warn(f"{path.name} is left out: {entry.problem}")
        elif twin := next((other for other in chosen if other.samefile(path)), None):
            say(f"{path.name} is the same file as {twin.name}", "dim")
        else:
            chosen.append(path)
    return chosen


def describe_parameters(count: int) -> str:
    """A number of parameters for people: "117.5 M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _parse_one(answer: str, listed: Sequence[ListedCheckpoint]) -> Path:
    return _usable(listed[parse_number(answer, len(listed)) - 1])


def _parse_several(answer: str, listed: Sequence[ListedCheckpoint]) -> list[Path]:
    numbers = parse_numbers(answer, len(listed))
    if answer.lower() == ALL:
        return all_usable(listed)
    return [_usable(listed[number - 1]) for number in numbers]


def _usable(entry: ListedCheckpoint) -> Path:
    if entry.summary is None:
        raise UsageError(f"{entry.file.path.name} cannot be used: {entry.problem}")
    return entry.file.path


def _inspect(
    file: CheckpointFile, config: Config, problems: Mapping[Path, str]
) -> ListedCheckpoint:
    if file.path in problems:
        return ListedCheckpoint(file, None, problems[file.path])
    try:
        return ListedCheckpoint(file, summarise_checkpoint(file.path, config))
    except PipelineError as error:
        return ListedCheckpoint(file, None, problem_of(error, file.path))


def problem_of(error: PipelineError, path: Path) -> str:
    """What an error says about `path`, without the path, in one line."""
    return " ".join(error.what.removeprefix(f"{path}: ").split())


def _show_checkpoints(listed: Sequence[ListedCheckpoint]) -> None:
    folder = listed[0].file.path.parent
    say(f"\nCheckpoints of {folder.name}", "bold")
    header = ["", "checkpoint", "step", "val loss", "saved", "size", "parameters", ""]
    best = next((entry.summary for entry in listed if entry.file.kind == "best"), None)
    notes = [_notes(entry, best) for entry in listed]
    rows = [
        [str(number), *_facts(entry), ", ".join(noted)]
        for number, (entry, noted) in enumerate(zip(listed, notes, strict=True), start=1)
    ]
    lines = _fitting([header, *rows], right=[0, 2, 3, 5, 6], spare=[6, 5, 4])
    say(lines[0], "dim")
    for noted, line in zip(notes, lines[1:], strict=True):
        say(line, *(_STYLES[note] for note in noted[:1]))
    for entry in listed:
        if entry.summary is None:
            say(f"  {printable(entry.file.path.name)} {printable(entry.problem)}", "red")


def _notes(entry: ListedCheckpoint, best: CheckpointSummary | None) -> list[str]:
    """Which of _STYLES a file is. Best is what training calls so: the first with the lowest loss.

    So is that same step under another name; but not a later one that shows the same loss, which
    may be that of the last validation before it.
    """
    kind, summary = entry.file.kind, entry.summary
    if summary is None:
        return ["broken"]
    is_best = kind == "best" or (summary.step is not None and summary == best)
    return ["latest"] * (kind == "latest") + ["best"] * is_best


def _facts(entry: ListedCheckpoint) -> list[str]:
    file, summary = entry.file, entry.summary
    step = file.step if summary is None or summary.step is None else summary.step
    loss = summary.validation_loss if summary else None
    return [
        file.path.name,
        "-" if step is None else f"{step:,}",
        "-" if loss is None else f"{loss:.4f}",
        _date(file.modified_seconds),
        format_bytes(file.size_bytes),
        describe_parameters(summary.parameters) if summary else "-",
    ]


def _fitting(
    rows: Sequence[Sequence[str]], right: Sequence[int], spare: Sequence[int]
) -> list[str]:
    """Indented lines of columns; on a narrow terminal those in `spare` are left out, in turn."""
    for left_out in range(len(spare) + 1):
        kept = [n for n in range(len(rows[0])) if n not in spare[:left_out]]
        cells = [[row[n] for n in kept] for row in rows]
        lines = aligned(cells, right=[place for place, n in enumerate(kept) if n in right])
        lines = [f"  {line}" for line in lines]
        if all(map(fits, lines)):
            break
    return lines


def _run_name(run: Run) -> str:
    return f"{run.path.name} (flat folder)" if run.is_flat else run.path.name


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
