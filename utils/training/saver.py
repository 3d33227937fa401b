"""Checkpoints written beside training: it waits only while the tensors are copied to memory."""

import os
import signal
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from utils.checkpoint import Checkpoint, save_checkpoint
from utils.errors import PipelineError
from utils.runs import LATEST, list_checkpoints, prune_step_checkpoints
from utils.terminal import warn

# A write that is given up ends within milliseconds, unless the disk is busy with its last bytes.
GIVE_UP_SECONDS = 1.0
THREAD_NAME = "checkpoint saver"


class CheckpointSaver:
    """Writes the checkpoints of one run folder, one at a time, in a thread of its own.

    A save that failed is raised by the next `check`, `save` or `close`, once. As a context
    manager it ends with `close`; while another error passes through, it only warns of a failure,
    and a KeyboardInterrupt gives the write up, which leaves the old files as they are. A process
    that is killed leaves the last save on the disk, or, if that was under way, the one before it.
    """

    def __init__(self, run_folder: Path, keep_step_checkpoints: int) -> None:
        self.run_folder = run_folder
        self.keep_step_checkpoints = keep_step_checkpoints
        self._host_copy = HostCopy()
        self._failure: BaseException | None = None
        # Instead of Thread.join, which after a KeyboardInterrupt takes its thread for ended.
        self._is_idle = Event()
        self._is_idle.set()
        self._is_given_up = Event()

    def save(self, checkpoint: Checkpoint, also_as: Sequence[str] = ()) -> None:
        """Copy `checkpoint` and return; it is then written under `also_as` and as the latest.

        Latest comes last: should we die in between, the run is resumed before it and comes here
        again. Old step checkpoints are deleted after that. Waits for the save before.
        """
        self.close()
        copied = self._host_copy(checkpoint)
        # Not to be waited for when the interpreter ends, or a second Ctrl-C would not quit at once.
        self._is_idle.clear()
        names = [*also_as, LATEST]
        Thread(target=self._write, args=(copied, names), name=THREAD_NAME, daemon=True).start()

    def check(self) -> None:
        """Raise if a save has failed, without waiting for the one under way."""
        if self._failure is None:  # else the save is over: nobody sets it while it is cleared
            return
        failure, self._failure = self._failure, None
        raise failure

    def close(self) -> None:
        """Return when all is on the disk, or raise. More can be saved afterwards."""
        try:
            self._is_idle.wait()
        except KeyboardInterrupt:
            self._give_up()
            raise
        self.check()

    def _write(self, checkpoint: Checkpoint, names: Sequence[str]) -> None:
        try:
            first, *others = [self.run_folder / name for name in names]
            save_checkpoint(checkpoint, first, others, self._is_given_up.is_set)
            prune_step_checkpoints(self.run_folder, self.keep_step_checkpoints)
        except BaseException as error:  # told by the main thread, which alone may end the program
            self._failure = error
        finally:
            self._is_idle.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif not isinstance(error, KeyboardInterrupt):
            try:
                self.close()
            except PipelineError as failure:
                warn(str(failure))
            except Exception as failure:
                warn(f"a checkpoint could not be saved: {type(failure).__name__}: {failure}")
        else:
            self._give_up()

    def _give_up(self) -> None:
        """End the write, or, where the disk does not let go of it, the process."""
        self._is_given_up.set()
        # An interpreter that ends around a thread inside torch crashes.
        if not self._is_idle.wait(GIVE_UP_SECONDS):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)


class HostCopy:
    """Copies checkpoints into buffers of its own, which are made once and used again.

    Those for tensors on a GPU are pinned, so that the copies run at the speed of the bus. A copy
    holds until the next one is made.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[object, ...], Tensor] = {}
        self._devices: set[torch.device] = set()

    def __call__(self, checkpoint: Checkpoint) -> Checkpoint:
        """A checkpoint that shares no tensor, mapping or list with this one."""
        self._devices.clear()
        values = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}
        copied = replace(checkpoint, **{k: self._copy(v, (k,)) for k, v in values.items()})
        # Weights change right after: wait for the copies that are still on their way.
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        return copied

    def _copy(self, value: Any, key: tuple[object, ...]) -> Any:
        if isinstance(value, Tensor):
            if value.is_cuda:
                self._devices.add(value.device)
            return self._buffer(value, key).copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {name: self._copy(part, (*key, name)) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(part, (*key, i)) for i, part in enumerate(value))
        return value

    def _buffer(self, tensor: Tensor, key: tuple[object, ...]) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        return buffer


def bytes_to_come(run_folder: Path | None, file_bytes: int, step_checkpoints: int) -> int:
    """The most that a run of such checkpoints will yet add to its folder at any one time.

    `run_folder` is None for a run that has none yet. At worst no two names share a file, and a new
    one stands beside the old latest, the best and `step_checkpoints` of steps. Of these, what is in
    the folder already needs no more room.
    """
    at_once = 3 + step_checkpoints
    files = list_checkpoints(run_folder) if run_folder else []
    ours = [file.path for file in files if file.kind != "other"]
    there = {path.stat().st_ino for path in ours}
    return max(1, at_once - len(there)) * file_bytes
