"""Device, precision and random state, decided in one place."""

import gc
import random
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import DeviceError, UsageError


def choose_device(name: str | None) -> torch.device:
    """The device called `name` ("cpu", "cuda", "cuda:1"), or the GPU if `name` is None.

    A numbered GPU becomes torch's current one. Raises DeviceError without a usable GPU: nothing
    falls back to the CPU by itself.
    """
    try:
        kind = torch.device(name or "cuda").type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: no such device", "Give cpu, cuda or cuda:N.")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(
            "no CUDA GPU is available to PyTorch", "Give --device cpu to use the CPU."
        )
    device = torch.device(name or "cuda")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise DeviceError(f"{name}: there are only {torch.cuda.device_count()} GPUs")
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def choose_device_for_inference(name: str | None) -> torch.device:
    """The device that `name` asks for, by default a GPU if there is one: a CPU will do."""
    return choose_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def describe_device(device: torch.device) -> str:
    """For people: "NVIDIA H100 80GB HBM3 (78.4 of 79.2 GiB free)" or "CPU (2 threads)"."""
    if device.type == "cpu":
        return f"CPU ({torch.get_num_threads()} threads)"
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return f"{name} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory that new tensors on `device` may take; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(values["MemAvailable"].split()[0]) * 1024


def release_memory(device: torch.device) -> None:
    """Give the memory of tensors that nothing refers to any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# What torch says when a CPU, a GPU, or a library on it, has no memory left.
_NO_MEMORY = re.compile(
    r"can't allocate memory|[Cc]annot allocate memory|size calculation overflowed|out of memory"
    r"|STATUS_ALLOC_FAILED"
)


# What ending a graph's capture says, in place of what went wrong in it.
_CAPTURE_BROKEN = "previous error during capture"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, also from within a compiler or a CUDA library.

    So does one from the capture of a graph that this ended.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY.search(str(error)):
        return True
    behind = error.__context__ if _CAPTURE_BROKEN in str(error) else None
    return behind is not None and is_out_of_memory(behind)


@contextmanager
def memory_errors(activity: str, hint: str) -> Iterator[None]:
    """Turn torch's "out of memory" inside the block into DeviceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(f"not enough memory for {activity}", hint) from None


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 arithmetic on a GPU if `precision` is "bf16"; nothing otherwise."""
    if device.type == "cuda" and precision == "bf16":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def seed_everything(seed: int) -> None:
    """Seed every generator that a training run may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator, as tensors and plain values that load without pickled code."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.array(keys)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on drawing where `rng_state` was taken."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
