"""utils/training/dry_run.py: too large a batch is found at once, with one that fits."""

import re
import weakref

import pytest
import torch

from utils.errors import DeviceError
from utils.training import dry_run
from utils.training.dry_run import ensure_batch_fits

CPU = torch.device("cpu")


class SmallMemory:
    """Tries that run out of memory above `limit` windows."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tries: list[int] = []
        self.left_behind: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, rows: int) -> None:
        """A try, which finds the memory of those before it free again."""
        assert not any(made() is not None for made in self.left_behind), "a try holds memory"
        activations = torch.empty(rows)
        self.left_behind.append(weakref.ref(activations))
        self.tries.append(rows)
        if rows > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes longer than thousands of made-up tries."""
    monkeypatch.setattr(dry_run, "release_memory", lambda device: None)


def refusal(memory: SmallMemory, rows: int, accumulation: int = 1) -> str:
    with pytest.raises(DeviceError) as caught:
        ensure_batch_fits(memory, rows, CPU, accumulation)
    return str(caught.value)


def test_a_batch_that_fits_is_tried_once() -> None:
    memory = SmallMemory(64)
    ensure_batch_fits(memory, 64, CPU)
    assert memory.tries == [64]


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 64, 100, 512])
@pytest.mark.usefixtures("no_collecting")
def test_the_largest_that_fits_is_found_in_few_tries(rows: int) -> None:
    for limit in range(1, rows):
        memory = SmallMemory(limit)
        message = refusal(memory, rows)
        assert f"a batch of {rows} windows does not fit" in message
        expected = limit if limit < 8 else limit // 8 * 8
        assert f"the largest found to fit, uncompiled, is {expected:,}" in message
        assert len(memory.tries) <= 1 + (7 + rows // 8).bit_length()
        assert len(set(memory.tries)) == len(memory.tries)


@pytest.mark.parametrize("accumulation", [1, 2, 3, 5])
@pytest.mark.usefixtures("no_collecting")
def test_the_proposed_settings_fit_and_keep_the_step(accumulation: int) -> None:
    for rows in (2, 13, 48, 64):
        for limit in range(1, rows):
            memory = SmallMemory(limit)
            message = refusal(memory, rows, accumulation)
            found = re.search(r"batch_size to (\d+) .*_steps to (\d+): (as many|\d+)", message)
            assert found is not None
            batch_size, steps = int(found[1]), int(found[2])
            assert batch_size <= limit
            same = batch_size * steps == rows * accumulation
            assert found[3] == ("as many" if same else str(batch_size * steps))
            assert abs(batch_size * steps - rows * accumulation) <= steps / 2


def test_a_window_that_does_not_fit_is_said() -> None:
    assert "neither does one window" in refusal(SmallMemory(0), 64)
    assert "neither does one window" in refusal(SmallMemory(0), 1)


def test_other_faults_are_not_hidden() -> None:
    def broken(rows: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        ensure_batch_fits(broken, 64, CPU)


def test_the_random_state_is_as_before() -> None:
    def draw(rows: int) -> None:
        torch.rand(rows)
        if rows > 3:
            raise torch.OutOfMemoryError

    before = torch.get_rng_state()
    ensure_batch_fits(draw, 2, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(DeviceError):
        ensure_batch_fits(draw, 9, CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.cuda
def test_a_real_gpu_runs_out_and_recovers() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    window_bytes = torch.cuda.mem_get_info()[0] // 44  # room for 43 and what torch rounds up
    before = torch.cuda.memory_allocated()

    def fill(rows: int) -> None:
        kept = [torch.empty(window_bytes, dtype=torch.uint8, device=device) for _ in range(rows)]
        assert len(kept) == rows

    with pytest.raises(
        DeviceError, match=r"of cuda are free for it; the largest found to fit, uncompiled, is 40"
    ):
        ensure_batch_fits(fill, 64, device)
    assert torch.cuda.memory_allocated() == before
    ensure_batch_fits(fill, 40, device)
