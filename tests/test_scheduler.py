"""utils/scheduler.py: torch's own warm-up and cosine, and resuming in the middle of them."""

import doctest

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import utils.scheduler
from utils.optimizer import Optimizers
from utils.scheduler import Scheduler, learning_rate_at

SHAPE = {"peak": 6e-4, "minimum": 6e-5, "warmup_steps": 7, "total_steps": 40}


def optimizer(peak: float = SHAPE["peak"]) -> torch.optim.Optimizer:
    """Two groups, as ours has, to be scheduled by `peak`."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "peak_lr": peak} for _ in range(2)]
    return torch.optim.SGD(groups, lr=123.0)


def scheduler(**changes: float) -> Scheduler:
    shape = {**SHAPE, **changes}
    optimizers = Optimizers({"sgd": optimizer(shape["peak"])})
    return Scheduler(optimizers, **shape)  # type: ignore[arg-type]


def rates(chosen: Scheduler, steps: int) -> list[float]:
    """The rates that the optimizer's steps take; every group has the same."""
    found = []
    for _ in range(steps):
        used = [group["lr"] for group in chosen.optimizers.param_groups]
        assert used == [pytest.approx(chosen.learning_rate, rel=1e-15)] * 2
        found.append(chosen.learning_rate)
        chosen.optimizers.step()
        chosen.step()
    return found


@pytest.mark.parametrize(("warmup", "total"), [(1, 2), (7, 40), (1, 100), (39, 40)])
def test_rates_are_those_of_torchs_schedulers(warmup: int, total: int) -> None:
    reference = optimizer()
    for group in reference.param_groups:
        group["lr"] = SHAPE["peak"]
    warm = LinearLR(reference, start_factor=1 / (warmup + 1), total_iters=warmup)
    cosine = CosineAnnealingLR(reference, T_max=total - warmup, eta_min=SHAPE["minimum"])
    schedule = SequentialLR(reference, [warm, cosine], milestones=[warmup])
    ours = scheduler(warmup_steps=warmup, total_steps=total)
    for rate in rates(ours, total):
        assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        reference.step()
        schedule.step()


def test_the_ends_of_the_schedule() -> None:
    found = rates(scheduler(), 45)
    assert found[0] == pytest.approx(6e-4 / 8)
    assert found[7] == max(found) == 6e-4
    assert found[39] > 6e-5
    assert found[40:] == [6e-5] * 5
    assert found[:8] == sorted(found[:8])
    assert found[7:] == sorted(found[7:], reverse=True)


def test_no_warmup_starts_at_the_peak_and_short_runs_only_warm_up() -> None:
    assert rates(scheduler(warmup_steps=0, total_steps=2), 3) == [6e-4, pytest.approx(3.3e-4), 6e-5]
    short = rates(scheduler(warmup_steps=5, total_steps=3), 7)
    assert short == [pytest.approx(step * 1e-4) for step in (1, 2, 3, 4, 5)] + [6e-5] * 2


def test_the_example_of_the_docstring() -> None:
    results = doctest.testmod(utils.scheduler)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("cut", [0, 3, 7, 8, 39, 41])
def test_a_restored_schedule_goes_on_where_it_was(cut: int) -> None:
    whole = rates(scheduler(), 45)
    first = scheduler()
    rates(first, cut)
    second = scheduler()
    assert second.load_state_dict(first.state_dict()) == []
    assert rates(second, 45 - cut) == whole[cut:]


def test_a_changed_schedule_is_told_and_holds() -> None:
    first = scheduler()
    rates(first, 20)
    second = scheduler(peak=1e-3, total_steps=80)
    assert second.load_state_dict(first.state_dict()) == [
        "peak of the learning rate was 0.0006, is now 0.001",
        "total_steps of the learning rate was 40, is now 80",
    ]
    expected = learning_rate_at(20, 1e-3, 6e-5, warmup_steps=7, total_steps=80)
    assert second.learning_rate == expected
    assert second.optimizers.param_groups[1]["lr"] == pytest.approx(expected, rel=1e-15)
    older = {"steps_taken": 1, "shape": {}}
    assert second.load_state_dict(older)[0] == "peak of the learning rate was None, is now 0.001"


def test_every_group_has_the_same_share_of_its_own_peak() -> None:
    parts = {"slow": optimizer(SHAPE["peak"]), "fast": optimizer(0.02)}
    both = Scheduler(Optimizers(parts), **SHAPE)  # type: ignore[arg-type]
    for _ in range(45):
        share = both.learning_rate / SHAPE["peak"]
        for name, peak in (("slow", SHAPE["peak"]), ("fast", 0.02)):
            rates = [group["lr"] for group in parts[name].param_groups]
            assert rates == [pytest.approx(peak * share, rel=1e-15)] * 2
        both.optimizers.step()
        both.step()
    assert parts["fast"].param_groups[0]["lr"] == pytest.approx(0.02 * 0.1)
