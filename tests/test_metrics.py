"""utils/metrics.py: means over a window, throughput, and when to stop."""

import json
import math

import pytest
import torch

from tests.tiny import tiny_config, tiny_model
from utils.config import ModelConfig
from utils.metrics import TRAIN_LOSS, VALIDATION_LOSS, MetricsTracker, perplexity
from utils.throughput import flops_per_token, peak_tokens_per_second


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("utils.metrics.time.perf_counter", clock)
    return clock


def test_metrics_are_means_over_the_window(clock: Clock) -> None:
    tracker = MetricsTracker(window_steps=3, patience=5, min_delta=0.0)
    for step in range(1, 6):
        clock.now += 0.5 * step
        tracker.record_step(
            loss=10.0 - step,
            gradient_norm=float(step),
            tokens=1000,
            data_seconds=0.12,
        )
    summary = tracker.summary()
    assert summary == {
        TRAIN_LOSS: pytest.approx(6.0),  # of 7, 6, 5
        "train/gradient_norm": pytest.approx(4.0),
        "train/tokens": 5000.0,
        "perf/tokens_per_second": pytest.approx(3000 / 6),
        "perf/step_ms": pytest.approx(2000.0),
        "perf/data_share": pytest.approx(0.36 / 6),
    }
    assert (TRAIN_LOSS, VALIDATION_LOSS) == ("train/loss", "val/loss")


def test_time_outside_of_steps_does_not_count(clock: Clock) -> None:
    tracker = MetricsTracker(window_steps=3, patience=5, min_delta=0.0)
    clock.now += 999.0
    tracker.start_clock()
    clock.now += 2.0
    tracker.record_step(1.0, 1.0, tokens=100, data_seconds=0.0)
    assert tracker.summary()["perf/tokens_per_second"] == pytest.approx(50.0)


def test_nothing_measured_is_not_a_number() -> None:
    summary = MetricsTracker(3, 5, 0.0).summary()
    assert math.isnan(summary["train/loss"])
    assert summary["perf/tokens_per_second"] == 0.0
    assert summary["perf/data_share"] == 0.0


def test_training_stops_when_patience_is_spent() -> None:
    tracker = MetricsTracker(3, patience=2, min_delta=0.1)
    found = []
    for number, loss in enumerate((5.0, 4.95, 4.8, math.nan, math.inf), start=1):
        is_best = tracker.record_validation(loss, step=10 * number)
        found.append((is_best, tracker.should_stop))
    assert found == [
        (True, False),
        (False, False),  # better, but by too little
        (True, False),
        (False, False),
        (False, True),
    ]
    assert (tracker.best_loss, tracker.best_step) == (4.8, 30)


def test_a_loss_that_only_equals_the_best_is_no_improvement() -> None:
    tracker = MetricsTracker(3, patience=1, min_delta=0.0)
    assert tracker.record_validation(5.0, step=1)
    assert not tracker.record_validation(5.0, step=2)
    assert tracker.should_stop


def test_what_was_measured_survives_a_resume(clock: Clock) -> None:
    tracker = MetricsTracker(3, 5, 0.0)
    for step in range(5):
        clock.now += 1.0
        tracker.record_step(float(step), 1.0 + step, tokens=10, data_seconds=0.0)
    tracker.record_validation(3.0, step=2)
    tracker.record_validation(4.0, step=4)
    state = tracker.state_dict()
    json.dumps(state)  # plain values, so that a checkpoint may hold them
    other = MetricsTracker(3, 5, 0.0)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert (other.best_loss, other.best_step, other.validations_since_best) == (3.0, 2, 1)
    for chosen in (tracker, other):
        chosen.record_step(9.0, 9.0, tokens=10, data_seconds=0.0)
    assert tracker.summary()["train/loss"] == other.summary()["train/loss"] == pytest.approx(16 / 3)
    assert other.summary()["train/tokens"] == 60.0
    narrower = MetricsTracker(2, 5, 0.0)
    narrower.load_state_dict(state)
    assert list(narrower.losses) == [3.0, 4.0]


def test_the_status_line_says_all_of_it_in_order(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 12.34 * 2**30)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda: 15.0 * 2**30)
    tracker = MetricsTracker(3, 5, 0.0, peak_tokens_per_second=4e6)
    clock.now += 0.02
    tracker.record_step(3.14159, 1.0, tokens=32_768, data_seconds=0.000_1)
    assert tracker.status(3.3, skipped_steps=2) == (
        "loss 3.142, val 3.300, 1,638.4k tokens/s, 20.0 ms/step, MFU 41.0%, 12.3 GiB, data 0.5%,"
        " 2 skipped"
    )
    summary = tracker.summary()
    assert summary["perf/mfu"] == pytest.approx(0.4096)
    assert summary["mem/peak_gib"] == pytest.approx(12.34)
    assert summary["mem/reserved_gib"] == 15.0


def test_without_a_gpu_that_is_known_there_is_no_mfu(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ModelConfig()
    cuda = torch.device("cuda")
    assert peak_tokens_per_second(shape, 10**8, 512, torch.device("cpu")) is None
    for name in ("NVIDIA H20", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "RTX 4090 Laptop GPU"):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda _, name=name: name)
        assert peak_tokens_per_second(shape, 10**8, 512, cuda) is None
    tracker = MetricsTracker(3, 5, 0.0)
    clock.now += 1.0
    tracker.record_step(1.0, 1.0, tokens=100, data_seconds=0.0)
    assert "perf/mfu" not in tracker.summary()
    assert tracker.status() == "loss 1.000, 0.1k tokens/s, 1,000.0 ms/step, data 0.0%"


def test_mfu_is_what_nanogpt_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of its GPT.estimate_mfu, for a model of this size on an A100."""
    config = tiny_config()
    shape, model = config.model, tiny_model(config)
    tokens_per_second, window = 1e5, shape.max_position_embeddings
    n = sum(p.numel() for p in model.parameters()) - model.position_embedding.weight.numel()
    layers, heads = shape.num_layers, shape.num_heads
    q, t = shape.hidden_size // shape.num_heads, window
    flops_per_fwdbwd = (6 * n + 12 * layers * heads * q * t) * t
    expected = flops_per_fwdbwd * tokens_per_second / t / 312e12
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    peak = peak_tokens_per_second(shape, model.parameter_count(), window, torch.device("cuda"))
    assert peak is not None
    assert tokens_per_second / peak == pytest.approx(expected)


def test_a_token_of_the_default_model_costs_0_8_gflop() -> None:
    parameters = 117_531_648  # of which 512 x 512 for positions
    expected = 6 * (parameters - 512 * 512) + 12 * 32 * 512 * 512
    assert flops_per_token(ModelConfig(), parameters, 512) == expected
    assert expected == pytest.approx(0.8043e9, rel=1e-3)


def test_perplexity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(32016)) == pytest.approx(32016)
    assert perplexity(700.0) == math.exp(700)
    assert perplexity(1e4) == perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))
