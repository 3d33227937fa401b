"""utils/device.py: no silent fallback, and random states that survive a file."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_config
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.device import (
    autocast,
    choose_device,
    describe_device,
    free_memory_bytes,
    memory_errors,
    release_memory,
    restore_rng_state,
    rng_state,
    seed_everything,
)
from utils.errors import DeviceError, UsageError

CPU = torch.device("cpu")


@pytest.fixture
def set_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_gpus(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_gpus


@pytest.mark.parametrize("name", [None, "cuda", "cuda:0"])
def test_no_gpu_is_an_error_that_names_the_way_out(
    set_gpus: Callable[[int], None], name: str | None
) -> None:
    set_gpus(0)
    message = "no CUDA GPU is available to PyTorch\n  Give --device cpu to use the CPU"
    with pytest.raises(DeviceError, match=message):
        choose_device(name)
    assert choose_device("cpu") == CPU


def test_a_gpu_is_chosen_where_there_is_one(
    set_gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device(None) == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    assert choose_device("cpu") == CPU
    with pytest.raises(DeviceError, match="cuda:2: there are only 2 GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "mps", "meta"])
def test_a_device_of_another_kind_is_refused(set_gpus: Callable[[int], None], name: str) -> None:
    set_gpus(1)
    message = f"--device {name}: no such device\n  Give cpu, cuda or cuda:N"
    with pytest.raises(UsageError, match=message):
        choose_device(name)


def test_the_cpu_is_described_and_computes_in_fp32() -> None:
    assert describe_device(CPU) == f"CPU ({torch.get_num_threads()} threads)"
    for precision in ("bf16", "fp32"):
        with autocast(CPU, precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_free_memory_is_told_where_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory_bytes(CPU)
    assert free is None or free > 1e6
    table = "MemTotal:       16 kB\nMemFree:        1 kB\nMemAvailable:   12 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)
    assert free_memory_bytes(CPU) == 12 * 1024

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert free_memory_bytes(CPU) is None
    release_memory(CPU)


def test_running_out_of_memory_is_told_and_other_faults_are_not_hidden() -> None:
    for fault in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        with (
            pytest.raises(DeviceError, match="not enough memory for reading\n  Read less"),
            memory_errors("reading", "Read less."),
        ):
            raise fault
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors("reading", ""):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("inside", "expected"),
    [(torch.OutOfMemoryError("no memory"), DeviceError), (ValueError("odd"), RuntimeError)],
)
def test_memory_that_ran_out_while_a_graph_was_captured_is_told(
    inside: Exception, expected: type[Exception]
) -> None:
    """The end of a capture then raises an error of its own, as a `with` block's end may."""

    def capture() -> None:
        try:
            raise inside
        finally:
            raise RuntimeError(
                "CUDA error: operation failed due to a previous error during capture"
            )

    with pytest.raises(expected), memory_errors("a step", ""):
        capture()


def draw() -> tuple[object, ...]:
    """Something of every generator, of every kind of number they make."""
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.random(),
        np.random.standard_normal(),
        torch.rand(3).tolist(),
        torch.randn(17).tolist(),
    )


@pytest.mark.parametrize("warm_up", [0, 1, 4])
def test_random_states_survive_a_checkpoint(tmp_path: Path, warm_up: int) -> None:
    path = tmp_path / "a.pt"
    seed_everything(7)
    for _ in range(warm_up):  # an odd number of Gaussian draws leaves one behind for the next
        draw()
    config = tiny_config(tmp_path)
    save_checkpoint(Checkpoint(config, {"w": torch.ones(1)}, rng=rng_state(CPU)), path)
    expected = [draw() for _ in range(300)]  # past the end of the generators' own buffers
    seed_everything(99)
    restore_rng_state(load_checkpoint(path, config).rng, CPU)
    assert [draw() for _ in range(300)] == expected


def test_a_seed_repeats_everything() -> None:
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    assert draw() != first


@pytest.mark.cuda
def test_the_gpus_random_state_survives_and_bf16_is_used() -> None:
    device = choose_device(None)
    assert "GiB free" in describe_device(device)
    assert free_memory_bytes(device)
    torch.rand(5, device=device)
    state = rng_state(device)
    expected = torch.rand(5, device=device)
    torch.rand(5, device=device)
    restore_rng_state(state, device)
    assert torch.rand(5, device=device).equal(expected)
    ones = torch.ones(2, 2, device=device)
    with autocast(device, "bf16"):
        assert (ones @ ones).dtype == torch.bfloat16
    with autocast(device, "fp32"):
        assert (ones @ ones).dtype == torch.float32
