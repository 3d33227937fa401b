"""Which checkpoints to use: what the flags name, and questions for what they leave open."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.chat.checkpoint_menu import (
    all_usable,
    choose_checkpoints,
    choose_mode,
    choose_run,
    inspect_run,
)
from utils.chat.menus import ALL
from utils.config import Config
from utils.runs import find_checkpoint, find_in_run, find_run
from utils.terminal import is_interactive


@dataclass(frozen=True)
class Selection:
    """Checkpoints to use, and those of them that were asked for by a name of their own."""

    paths: Sequence[Path]
    named: Sequence[Path] = ()


def select(
    run_name: str | None, names: Sequence[str] | None, config: Config, problems: dict[Path, str]
) -> list[Path]:
    """The files of `selection_of`."""
    return list(selection_of(run_name, names, config, problems).paths)


def selection_of(
    run_name: str | None, names: Sequence[str] | None, config: Config, problems: dict[Path, str]
) -> Selection:
    """The checkpoints `names` of the run `run_name`; what is None is asked.

    `problems` are those of files that did not load before.
    """
    folder = config.paths.checkpoint_dir
    run = find_run(folder, run_name) if run_name else None
    if not names:
        several = is_interactive() and choose_mode()
        run = run or choose_run(folder)
        return Selection(choose_checkpoints(inspect_run(run, config, problems), several))
    paths: list[Path] = []
    named: list[Path] = []
    for name in names:
        path = Path(name)
        if len(path.parts) > 1 or (run is None and path.exists()):
            named.append(find_checkpoint(path))
            paths.append(named[-1])
            continue
        run = run or choose_run(folder)
        if name == ALL:
            paths += all_usable(inspect_run(run, config, {}))
        else:
            named.append(find_in_run(run, name))
            paths.append(named[-1])
    return Selection(paths, named)
