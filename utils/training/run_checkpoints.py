"""The checkpoints of a run: when it is saved, and under which names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from utils.checkpoint import Checkpoint, required_bytes
from utils.config import TrainingConfig
from utils.free_space import check_free_space
from utils.runs import BEST, step_name
from utils.training.run_place import RunPlace
from utils.training.saver import CheckpointSaver, bytes_to_come
from utils.training.state import Position, TrainingState


def check_room(checkpoint: Checkpoint, run_folder: Path | None, total_steps: int) -> None:
    """Raise CheckpointError if the run of which this is a checkpoint does not fit on the disk.

    `run_folder` is None for a run that is yet to get one in paths.checkpoint_dir.
    """
    settings = checkpoint.config.training
    step_checkpoints = min(
        settings.keep_step_checkpoints, total_steps // settings.checkpoint_interval_steps
    )
    needed_bytes = bytes_to_come(run_folder, required_bytes(checkpoint), step_checkpoints)
    check_free_space(run_folder or checkpoint.config.paths.checkpoint_dir, needed_bytes)


class RunCheckpoints:
    """Saves a run after each validation, and at every step that is to keep a file of its own.

    `snapshot` tells what to save; `before_save` is called before that. A context manager, which
    ends when all is on the disk.
    """

    def __init__(
        self,
        state: TrainingState,
        snapshot: Callable[[], Checkpoint],
        place: RunPlace,
        settings: TrainingConfig,
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.state, self.snapshot, self.before_save = state, snapshot, before_save
        self.interval_steps = settings.checkpoint_interval_steps
        self.saver = CheckpointSaver(place.folder, settings.keep_step_checkpoints)
        # What has not changed since is not saved again.
        self._saved_position: Position | None = replace(state.position) if place.is_saved else None

    def save_if_due(self, is_best: bool) -> None:
        """Save if this is a step to save at; `is_best` adds the name of the best."""
        position = self.state.position
        is_kept = position.step > 0 and position.step % self.interval_steps == 0
        if is_kept or position.validated_step == position.step:
            self.save([BEST] * is_best + [step_name(position.step)] * is_kept)

    def save(self, also_as: Sequence[str] = ()) -> None:
        """Begin to save as the latest, and under more names, unless nothing has changed."""
        if self.state.position == self._saved_position:
            return
        self.state.check_weights()
        self.before_save()
        self.saver.save(self.snapshot(), also_as)
        self._saved_position = replace(self.state.position)
        self.state.metrics.start_clock()

    def check(self) -> None:
        """Raise CheckpointError if a save that was begun has failed."""
        self.saver.check()

    def wait(self) -> None:
        """Return when all that was begun is on the disk, or raise."""
        self.saver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.saver.__exit__(kind, error, trace)
