"""bench/train_step.py, time_to_loss.py, resume.py and what they share, with a tiny model."""

import argparse
import json
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from bench import (
    loss_runs,
    nanogpt,
    resume,
    time_to_loss,
    train_loading,
    train_numerics,
    train_step,
)
from bench.loss_runs import Bounds, Run
from bench.measure import Timing
from bench.nanogpt import PEER, NanoGPT, first_windows, random_batches
from bench.random_tokens import config_with_data, random_workspace
from bench.run_difference import difference, tensors_of
from bench.time_to_loss import parse_recipe, run_all, summarise
from bench.training_runs import Launch, write_config
from dataloader import create_simple_train_val_dataloaders
from tests.conftest import REPOSITORY
from tests.tiny import tiny_config
from tokenizer import CodeLlamaTokenizer
from utils.config import Config
from utils.errors import TrainingError, UsageError
from utils.metrics import STEP_MS, VALIDATION_LOSS

CPU = torch.device("cpu")
# What the peer is asked for, in a model of our own: it predicts a token from the one before it.
STAND_IN = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters: few")
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)

    def forward(self, idx, targets=None):
        logits = self.head(self.embedding(idx))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss
"""


@pytest.fixture(scope="module")
def peer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    (folder / "model.py").write_text(STAND_IN)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny model with a dataset of random tokens: read only."""
    folder = tmp_path_factory.mktemp("random_tokens")
    shape = {"vocab_size": 300, "hidden_size": 16}
    training = {"batch_size": 4, "warmup_steps": 2, "max_validation_batches": 2}
    return random_workspace(tiny_config(folder, model=shape, training=training), folder, 20_000)


@pytest.fixture
def config_path(config: Config, tmp_path: Path) -> Path:
    return write_config(config, tmp_path / "config", {})


def run_bench(name: str, *options: object) -> tuple[str, dict[str, object], str]:
    """A bench's section, the values of its last line, and what it said meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *map(str, options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    section, _, last = done.stdout.rstrip().rpartition("\n")
    values: dict[str, object] = json.loads(last)
    assert values["bench"] == name
    return section, values, done.stderr


@pytest.mark.parametrize("bench", [train_step, time_to_loss, resume])
def test_help_says_how_a_bench_is_run(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {bench.__name__} ")


# A dataset of nothing


def test_random_tokens_fit_the_model_and_its_tokenizer(config: Config) -> None:
    train, val, info = create_simple_train_val_dataloaders(config=config, device=CPU, verbose=False)
    tokenizer = CodeLlamaTokenizer.load(config.paths.tokenizer_dir, config)
    assert info["tokenizer_sha256"] == tokenizer.sha256
    assert info["train_tokens"] + info["val_tokens"] >= 19_000
    ids = torch.cat([next(iter(train)), next(iter(val))])
    assert 0 < ids.min() <= ids.max() < 300


def test_a_prepared_dataset_is_taken_as_it_is(config: Config, tmp_path: Path) -> None:
    assert config_with_data(config, tmp_path, 100) is config
    assert not any(tmp_path.iterdir())


# nanoGPT


def test_a_folder_without_nanogpt_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no model\.py"):
        nanogpt.load_module(tmp_path)


def test_the_peer_gets_our_shape_and_learns(peer_folder: Path, config: Config) -> None:
    torch.manual_seed(0)
    peer = NanoGPT(peer_folder, config, CPU, dropout=0.25, vocab_size=320)
    shape = peer.model.config
    assert isinstance(shape, sys.modules[nanogpt.MODULE_NAME].GPTConfig)
    assert vars(shape) == {
        "block_size": 16,
        "vocab_size": 320,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 16,
        "dropout": 0.25,
        "bias": True,
    }
    peer.set_learning_rate(0.1)
    ids = torch.arange(64).view(4, 16)
    before = peer.mean_loss([ids])
    for _ in range(30):
        peer.step(ids, ids + 1)
    assert peer.mean_loss([ids]) < before / 2


def test_the_peers_loss_is_that_of_each_token_from_those_before_it(
    peer_folder: Path, config: Config
) -> None:
    peer = NanoGPT(peer_folder, config, CPU, dropout=0.0)
    batches = [torch.randint(300, (rows, 16)) for rows in (4, 3)]
    ids = torch.cat(batches)
    logits = peer.model.head(peer.model.embedding(ids[:, :-1]))  # type: ignore[operator]
    expected = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert peer.mean_loss(batches) == pytest.approx(expected.item(), rel=1e-6)


def test_random_batches_are_stretches_of_the_stream_and_what_follows() -> None:
    stream = torch.arange(100).numpy().astype("uint16")
    inputs, targets = next(random_batches(stream, 5, 10, CPU))
    assert inputs.shape == targets.shape == (5, 10)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(10))
    assert torch.equal(targets, inputs + 1)


def test_both_are_validated_on_the_same_windows(config: Config) -> None:
    bounds = bounds_of(config, windows=12)
    settings = loss_runs.our_settings(bounds, {"training.batch_size": 2})
    ours, theirs = (
        create_simple_train_val_dataloaders(rows, config=config, device=CPU, verbose=False)[1]
        for rows in (2, 4)
    )
    count = settings["training.max_validation_batches"]
    assert isinstance(count, int)
    assert torch.equal(
        torch.cat(list(islice(ours, count))), torch.cat(first_windows(theirs, 12, 4))
    )


# The training step


def test_the_speed_is_compared_for_each_dropout(config_path: Path, peer_folder: Path) -> None:
    options = ["--config", config_path, "--device", "cpu", "--repeats", 2, "--steps", 2]
    section, values, said = run_bench("train_step", *options, "--nanogpt", peer_folder)
    results = values["results"]
    assert isinstance(results, list)
    assert [result["dropout"] for result in results] == [0.0, 0.1]
    for result in results:
        assert list(result["contenders"]) == [PEER, "ours, adamw", "ours, muon"]
        assert all(found["ratio"] > 0 for found in result["contenders"].values())
        assert result["contenders"][PEER]["ratio"] == 1.0
    assert "Goal: 1.25 x nanoGPT. Reached: " in section
    assert "number of parameters" in said  # and not in what is recorded


@pytest.mark.slow
def test_without_the_peer_the_bench_says_so_and_goes_on(config_path: Path) -> None:
    options = ["--config", config_path, "--device", "cpu", "--repeats", 1, "--steps", 1]
    section, _, said = run_bench("train_step", *options, "--optimizers", "muon", "--dropout", 0)
    assert "without --nanogpt there is no peer" in said
    assert "Reached: not compared" in section


def test_losses_of_the_fast_and_the_plain_step_are_compared(config: Config) -> None:
    """On the CPU both compute the same; only the nudged weights may part."""
    _, values = train_numerics.compare_losses(config, CPU, 5)
    distances = values["mean_distances"]
    assert isinstance(distances, dict)
    assert distances["fast step"] < 1e-6
    assert 0 < distances["fp32, nudged"] < 1e-2


def test_waiting_is_what_a_step_takes_beyond_batches_in_hand() -> None:
    timings = {
        train_loading.IN_HAND: Timing(cpu=(1, 1, 1), wall=(1.0, 2.0, 2.0)),
        "loader": Timing(cpu=(1, 1, 1), wall=(1.1, 2.2, 9.0)),
    }
    assert train_loading.waiting_share(timings, "loader") == pytest.approx(0.1)


def test_loading_is_timed_with_the_real_loader(config: Config) -> None:
    body, values = train_loading.compare_loading(config, CPU, repeats=1, steps=2)
    assert values["waiting_shares"].keys() == {"tokens in main memory"}  # type: ignore[attr-defined]
    assert "tokens on the GPU" not in body


# Time to a loss


def bounds_of(config: Config, windows: int = 8) -> Bounds:
    return Bounds(config, "cpu", 1_000, windows, 10, 20, 10, None, None)


def run_of(name: str, seed: int, step_ms: float, *losses: float) -> Run:
    """Validated every 10 steps after a slow start; each step on the clock takes a second."""
    records: list[dict[str, float]] = [{"step": 0, "time": 101.0, VALIDATION_LOSS: 9.0}]
    for number, loss in enumerate(losses, start=1):
        span = step_ms if number > 1 else 99 * step_ms
        records.append({"step": 10 * number, "time": 0.0, STEP_MS: span})
        records.append({"step": 10 * number, "time": 100.0 + 10 * number, VALIDATION_LOSS: loss})
    return Run(name, {}, seed, 100.0, records)


def test_seconds_of_training_leave_out_the_start_and_those_on_the_clock_do_not() -> None:
    run = run_of("a", 1, 500.0, 5.0, 4.0, 3.0)
    assert run.first_at(4.5) == 20
    assert run.training_seconds(20) == 10.0
    assert run.clock_seconds(20) == 20.0
    assert run.first_at(2.9) is None


def test_ratios_are_of_the_mean_seconds_to_the_peers_mean_loss() -> None:
    runs = [
        run_of(PEER, 1, 1000.0, 6.0, 5.0, 4.0, 3.9),
        run_of(PEER, 2, 1000.0, 6.0, 5.0, 4.0, 4.1),
        run_of("fast", 1, 500.0, 5.0, 4.0),
        run_of("fast", 2, 500.0, 3.9, 3.0, 3.0),
        run_of("slow", 1, 500.0, 5.0, 4.0),
        run_of("slow", 2, 500.0, 5.0, 4.01),
    ]
    peer, fast, slow = summarise(runs)
    assert (peer.steps, peer.training_ratio) == ([40, 40], 1.0)
    assert fast.steps == [20, 10]
    assert fast.training_ratio == pytest.approx(40 / mean_of(10, 5))
    assert fast.clock_ratio == pytest.approx(40 / mean_of(20, 10))
    assert (slow.steps, slow.training_ratio) == ([20, None], None)
    assert [summary.training_ratio for summary in summarise(runs[2:])] == [None, None]


def mean_of(*values: float) -> float:
    return sum(values) / len(values)


def test_a_recipe_is_read_from_the_command_line() -> None:
    text = "fast=optimizer=muon,learning_rate=2e-3,dataloader.num_workers=1"
    assert parse_recipe(text) == (
        "fast",
        {
            "training.optimizer": "muon",
            "training.learning_rate": 0.002,
            "dataloader.num_workers": 1,
        },
    )
    for wrong in ("fast", "fast=", "fast=muon", "=optimizer=muon", f"{PEER}=optimizer=muon"):
        with pytest.raises(UsageError, match="is not NAME=KEY=VALUE"):
            parse_recipe(wrong)


def test_a_recipe_of_another_batch_is_validated_as_often_and_on_as_much(config: Config) -> None:
    changes = {"training.batch_size": 8, "training.max_steps": 300}
    settings = loss_runs.our_settings(bounds_of(config, windows=16), changes)
    assert settings["training.max_validation_batches"] == 2
    assert settings["training.epochs"] == math.ceil(300 / 125)
    assert round(settings["training.validation_interval_epochs"] * 125) == 10  # type: ignore[operator]


def test_a_failed_training_does_not_take_the_others_with_it() -> None:
    def fails(gpu: str | None) -> Run:
        raise TrainingError("it broke")

    used = []

    def works(gpu: str | None) -> Run:
        used.append(gpu)
        return run_of("a", 1, 1.0, 5.0)

    assert len(list(run_all([fails, works, works, works], ["0", "1"]))) == 3
    assert set(used) <= {"0", "1"}


def test_the_time_to_a_loss_is_measured_in_two_calls(
    config_path: Path, peer_folder: Path, tmp_path: Path
) -> None:
    options = ["--config", config_path, "--device", "cpu", "--steps", 20, "--every", 10]
    options += ["--ours-every", 10, "--windows", 8, "--seeds", 1]
    saved = tmp_path / "peer.json"
    alone = ["--only", "nanogpt", "--nanogpt", peer_folder, "--save", saved]
    _, values, _ = run_bench("time_to_loss", *options, *alone)
    assert [result["recipe"] for result in values["results"]] == [PEER]  # type: ignore[attr-defined]
    recipe = "ours=optimizer=adamw,learning_rate=0.05,max_steps=20"
    section, values, _ = run_bench(
        "time_to_loss", *options, "--only", "ours", "--ours", recipe, "--load", saved
    )
    assert isinstance(values["results"], list)
    peer, ours = values["results"]
    assert peer["steps"] == [20]
    assert ours["settings"]["training.learning_rate"] == 0.05
    assert ours["steps"] in ([10], [20])
    assert ours["clock_ratio"] == peer["clock_seconds"][0] / ours["clock_seconds"][0]
    assert "| step |" in section


# Resuming, saving, starting


def quick(**options: object) -> argparse.Namespace:
    given = {"device": "cpu", "steps": 40, "save_steps": 20, "modes": ["default"], **options}
    return argparse.Namespace(**given)


def test_a_cut_run_is_resumed_and_is_the_uncut_one(config: Config, tmp_path: Path) -> None:
    _, values = resume.compare_resuming(quick(), config, tmp_path)
    found = values["default"]  # type: ignore[index]
    assert 10 <= found["cut_after_step"] < 40
    for which in ("again", "resumed"):
        assert found[which]["tensors"] == 0
        assert found[which]["first_step"] is None
        assert found[which]["of_tensors"] > 50


@pytest.mark.slow
def test_a_run_of_another_seed_is_told_apart(config: Config, tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        settings = {"training.max_steps": 3, "training.seed": seed}
        runs.append(resume.launch(quick(), config, tmp_path / str(seed), settings).run())
    found = difference(*runs)
    assert 0 < found.tensors < found.of_tensors
    assert found.largest > 0
    assert found.first_step == 1
    assert "losses from step 1" in str(found)


def test_what_train_py_said_last_is_in_the_error(config: Config, tmp_path: Path) -> None:
    write_config(config, tmp_path, {"training.max_steps": 1})
    with pytest.raises(TrainingError, match="ended with 1 instead of 0") as caught:
        Launch(tmp_path, "cuda:99" if not torch.cuda.is_available() else "cuda:999").run()
    assert "error: " in str(caught.value)


def test_what_a_save_costs_is_what_steps_take_beyond_the_median(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume, "SAVE_INTERVAL_STEPS", 10)
    ends, now = [], 0.0
    for step in range(1, 26):
        now += {1: 50.0, 11: 3.0, 12: 2.0}.get(step, 1.0)
        ends.append(now)
    assert resume.extra_seconds(ends) == ([3.0, 0.0], 1.0)


@pytest.mark.slow
def test_the_start_is_timed_to_the_first_step(config: Config, tmp_path: Path) -> None:
    _, values = resume.measure_starting(quick(), config, tmp_path)
    seconds = values["seconds"]  # type: ignore[index]
    assert list(seconds) == ["empty compile cache", "warm compile cache"]
    assert all(0.5 < found < 100 for found in seconds.values())


@pytest.mark.slow
def test_saving_is_measured_against_not_saving(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SAVE_INTERVAL_STEPS", 8)
    _, values = resume.measure_saving(quick(), config, tmp_path)
    assert values["checkpoint_bytes"] > 10_000  # type: ignore[index]
    assert [len(found) for found in values["seconds_beyond"].values()] == [2, 2]  # type: ignore[index]


def test_tensors_are_found_wherever_they_are() -> None:
    values = {"a": torch.ones(1), "b": [torch.ones(2), {"c": (3, torch.ones(3))}]}
    assert [name for name, _ in tensors_of(values)] == [".a", ".b.0", ".b.1.c.1"]
