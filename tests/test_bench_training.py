"""bench/train_step.py, time_to_loss.py, resume.py and what they share, with a tiny model."""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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
from bench.loss_summary import summarise
from bench.measure import Timing
from bench.nanogpt import PEER, NanoGPT, first_windows, random_batches
from bench.random_tokens import config_with_data, random_workspace
from bench.record import sections_in
from bench.run_difference import difference, tensors_of
from bench.saved_runs import (
    check_comparable,
    environment_of_runs,
    left_to_train,
    load_runs,
    without_repeats,
)
from bench.step_timing import time_steps
from bench.time_to_loss import parse_recipe, run_all
from bench.training_runs import Launch, write_config
from bench.training_steps import Step
from dataloader import create_simple_train_val_dataloaders
from tests.conftest import REPOSITORY
from tests.tiny import tiny_config
from tokenizer import CodeLlamaTokenizer
from utils.config import Config
from utils.errors import DeviceError, TrainingError, UsageError
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


def run_bench(name: str, *options: object) -> tuple[str, list[dict[str, Any]], str]:
    """What a bench wrote for people, the values of its JSON lines, and what it said meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *map(str, options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    values = [json.loads(line) for line in lines if line.startswith("{")]
    assert {found["bench"] for found in values} == {name}
    return "\n".join(line for line in lines if not line.startswith("{")), values, done.stderr


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
    written, values, said = run_bench("train_step", *options, "--nanogpt", peer_folder)
    assert [found["part"] for found in values] == ["dropout 0", "dropout 0.1"]
    assert [name for name, _ in sections_in(written)] == [
        "train_step-dropout-0",
        "train_step-dropout-0.1",
    ]
    for found in values:
        assert list(found["contenders"]) == [PEER, "ours, adamw", "ours, muon"]
        assert all(contender["ratio"] > 0 for contender in found["contenders"].values())
        assert found["contenders"][PEER]["ratio"] == 1.0
        assert found["failures"] == {}
    assert written.count("Goal: 1.25 x nanoGPT. Reached: ") == 2
    assert "number of parameters" in said  # and not in what is recorded


def test_a_contender_that_fails_does_not_take_the_others_with_it() -> None:
    taken = []

    def fails_late(batch: torch.Tensor) -> None:
        taken.append(batch)
        if len(taken) > 8:
            raise RuntimeError("CUDA error")

    def fails_to_build() -> Step:
        raise DeviceError("no room")

    builders: dict[str, Callable[[], Step]] = {
        "broken": fails_to_build,
        "late": lambda: fails_late,
        "sound": lambda: lambda batch: None,
    }
    measured, failures = time_steps(builders, [torch.zeros(1)], CPU, repeats=3, steps=2)
    assert failures == {"broken": "no room", "late": "CUDA error"}
    assert list(measured) == ["sound"]
    assert len(measured["sound"].timing.wall) == 3


@pytest.mark.slow
def test_without_the_peer_the_bench_says_so_and_goes_on(config_path: Path) -> None:
    options = ["--config", config_path, "--device", "cpu", "--repeats", 1, "--steps", 1]
    options += ["--optimizers", "muon", "--dropout", 0]
    written, (values,), said = run_bench("train_step", *options)
    assert "without --nanogpt there is no peer" in said
    assert "Reached: not compared" in written
    assert values["part"] == "dropout 0 muon"


def test_losses_of_the_fast_and_the_plain_step_are_compared(config: Config) -> None:
    """On the CPU both compute the same; only the nudged weights may part, each otherwise."""
    body, values = train_numerics.compare_losses(config, CPU, 5)
    distances = values["mean_distances"]
    assert isinstance(distances, dict)
    assert distances["fast step"] < 1e-6
    first, second = (distances[name] for name in train_numerics.NUDGED)
    assert 0 < first < 1e-2
    assert 0 < second < 1e-2
    assert first != second
    assert f"nudged runs: {min(first, second):.2e} to {max(first, second):.2e}." in body


def test_a_way_to_train_that_fails_is_left_out(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(train_numerics, "fast_step", fails)
    _, values = train_numerics.compare_losses(config, CPU, 2)
    assert isinstance(values["losses"], dict)
    assert train_numerics.FAST not in values["losses"]
    assert set(train_numerics.NUDGED) < set(values["losses"])


def test_the_largest_distance_is_of_each_window_of_steps() -> None:
    losses = {train_numerics.PLAIN: [1.0] * 45, "other": [1.0] * 45}
    losses["other"][3], losses["other"][19], losses["other"][44] = 1.5, 0.25, 1.125
    assert train_numerics.largest(losses, "other") == [0.75, 0.0, 0.125]


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
    _, _, info = create_simple_train_val_dataloaders(config=config, device=CPU, verbose=False)
    info["train_size"], info["val_size"] = 1_000, 100
    return Bounds(config, "cpu", MACHINE, info, windows, 10, 20, 10, None, None)


MACHINE = {"date": "2026-01-02", "commit": "abc1234", "processor": "a CPU", "cores": "2"}


def run_of(name: str, seed: int, step_ms: float, *losses: float) -> Run:
    """Validated every 10 steps after a slow start; each step on the clock takes a second."""
    records: list[dict[str, float]] = [{"step": 0, "time": 101.0, VALIDATION_LOSS: 9.0}]
    for number, loss in enumerate(losses, start=1):
        span = step_ms if number > 1 else 99 * step_ms
        records.append({"step": 10 * number, "time": 0.0, STEP_MS: span})
        records.append({"step": 10 * number, "time": 100.0 + 10 * number, VALIDATION_LOSS: loss})
    return Run(name, {}, seed, MACHINE, "data", 1_024, 32_768, 100.0, records)


def test_runs_that_cannot_be_compared_are_refused() -> None:
    run = run_of("a", 1, 1.0, 5.0)
    other_gpu = run._replace(environment={**MACHINE, "GPU": "H200"})
    for other, problem in (
        (other_gpu, "of different GPUs: a CPU and H200"),
        (run._replace(windows=512), "of different numbers of windows to validate on: 1024 and 512"),
        (run._replace(dataset="other"), "of different datasets: data and other"),
        (run._replace(settings={"training.beta1": 0.8}), "called a are of different recipes"),
        (run._replace(step_tokens=16_384), "called a are of different recipes"),
    ):
        with pytest.raises(UsageError, match=problem):
            check_comparable([run, other._replace(seed=2)])
    check_comparable([run, run._replace(recipe="b", step_tokens=16_384)])


def test_a_run_counts_once_and_is_not_trained_again(config: Config) -> None:
    plans = [
        loss_runs.planned(bounds_of(config), "a", {"training.batch_size": 2}, seed)
        for seed in (1, 2)
    ]
    done = plans[0]._replace(records=[{"step": 0}])
    assert without_repeats([done, plans[0], plans[1]]) == [done, plans[1]]
    assert left_to_train(plans, [done]) == [plans[1]]
    with pytest.raises(UsageError, match="of different GPUs"):
        left_to_train(plans, [done._replace(environment={**MACHINE, "GPU": "H200"})])


def test_a_plan_says_how_much_it_is_validated_on(config: Config) -> None:
    bounds = bounds_of(config, windows=1_024)
    changes = {"training.batch_size": 8, "training.gradient_accumulation_steps": 2}
    plan = loss_runs.planned(bounds, "a", changes, 1)
    assert (plan.windows, plan.step_tokens) == (100, 8 * 2 * 16)
    assert loss_runs.planned(bounds._replace(windows=30), "a", changes, 1).windows == 24


def test_runs_of_two_days_are_told_with_both() -> None:
    run = run_of("a", 1, 1.0, 5.0)
    later = run._replace(environment={**MACHINE, "date": "2026-01-03"})
    assert environment_of_runs([run, later, run]) == {
        **MACHINE,
        "date": "2026-01-02 and 2026-01-03",
    }


def test_a_file_that_holds_no_runs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text('[{"recipe": "a", "seed": 1}]')
    with pytest.raises(UsageError, match=r"runs\.json: holds no runs"):
        load_runs([path])


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
    options += ["--commit", "abc1234"]
    saved = tmp_path / "peer.json"
    alone = ["--only", "nanogpt", "--nanogpt", peer_folder, "--save", saved]
    _, (values,), _ = run_bench("time_to_loss", *options, *alone)
    assert [result["recipe"] for result in values["results"]] == [PEER]
    recipe = "ours=optimizer=adamw,learning_rate=0.05,max_steps=20"
    both = ["--load", saved, "--load", saved, "--ours", recipe]
    written, (values,), said = run_bench("time_to_loss", *options, "--only", "ours", *both)
    peer, ours = values["results"]
    assert peer["steps"] == [20]
    assert ours["settings"]["training.learning_rate"] == 0.05
    assert ours["steps"] in ([10], [20])
    assert ours["clock_ratio"] == peer["clock_seconds"][0] / ours["clock_seconds"][0]
    assert {run["environment"]["commit"] for run in values["runs"]} == {"abc1234"}
    assert values["environment"]["commit"] == "abc1234"
    assert values["windows"] == 8
    assert "there more than once" in said
    assert "on the same 8 windows for all" in " ".join(written.split())
    assert "| step |" in written


def test_runs_of_several_calls_are_told_together_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time_to_loss, "visible_gpus", list)
    files: list[Path] = []
    for run in (run_of(PEER, 1, 1000.0, 5.0, 4.0), run_of("ours", 1, 500.0, 4.0, 3.9)):
        gpu = {**MACHINE, "GPU": "H200", "date": f"2026-01-0{len(files) + 1}"}
        files.append(tmp_path / f"{run.recipe}.json")
        files[-1].write_text(json.dumps([run._replace(environment=gpu)._asdict()]))
    both = tmp_path / "both.json"
    options = ["--only", "neither", "--save", str(both)]
    time_to_loss.main([*options, *(f"--load={path}" for path in files)])
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["environment"]["date"] == "2026-01-01 and 2026-01-02"
    assert values["environment"]["GPU"] == "H200"
    assert [result["training_ratio"] for result in values["results"]] == [1.0, 4.0]
    assert [run.recipe for run in load_runs([both])] == [PEER, "ours"]


def test_a_stretch_that_a_validation_cuts_is_timed_by_its_own_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step takes a second on the clock, each validation a hundred."""
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr(nanogpt, "time", clock)

    def passes(seconds: float) -> float:
        now[0] += seconds
        return 5.0

    peer = SimpleNamespace(
        device=CPU,
        set_learning_rate=lambda rate: None,
        step=lambda inputs, targets, following: passes(1),
        mean_loss=lambda windows: passes(100),
    )
    stream = torch.arange(100).numpy().astype("uint16")
    records = list(nanogpt.train(peer, stream, [torch.zeros(2, 8)], 2, 30, 15))  # type: ignore[arg-type]
    spans = {record["step"]: record[STEP_MS] for record in records if STEP_MS in record}
    assert spans == {10: 1_000.0, 20: 1_000.0, 30: 1_000.0}


# Resuming, saving, starting


def quick(**options: object) -> argparse.Namespace:
    given = {"device": "cpu", "steps": 40, "save_steps": 20, **options}
    return argparse.Namespace(**given)


def test_a_cut_run_is_resumed_and_is_the_uncut_one(config: Config, tmp_path: Path) -> None:
    _, body, values = resume.compare_resuming("default", quick(), config, tmp_path)
    assert 10 <= values["cut_after_step"] < 40  # type: ignore[operator]
    for which in ("again", "resumed"):
        found = values[which]
        assert isinstance(found, dict)
        assert found["tensors"] == 0
        assert found["first_step"] is None
        assert found["of_tensors"] > 50
    assert body.count("same to the bit") == 2


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


def test_each_way_to_resume_is_a_result_of_its_own(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that fails is told of in the end; the others are there."""

    def resumes(mode: str, *arguments: object) -> resume.Finding:
        if mode == "default":
            raise TrainingError("it broke")
        return resume.Finding(f"Resuming, {mode}", "Well.", {"mode": mode})

    monkeypatch.setattr(resume, "compare_resuming", resumes)
    options = ["--config", str(config_path), "--only", "exact", "--modes", "default"]
    with pytest.raises(TrainingError, match="not measured: exact default"):
        resume.main([*options, "compile off", "deterministic, compile off"])
    assert [name for name, _ in sections_in(capsys.readouterr().out)] == [
        "resume-exact-compile-off",
        "resume-exact-deterministic-compile-off",
    ]


def test_too_few_steps_to_measure_saving_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="--save-steps 199"):
        resume.main(["--only", "saving", "--save-steps", "199"])


def test_what_a_save_costs_is_what_steps_take_beyond_those_without_saving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it slows every step; what is less than a whole stretch is left out."""
    monkeypatch.setattr(resume, "SAVE_INTERVAL_STEPS", 10)
    steps = {1: 50.0, 11: 3.0, 12: 2.0, **dict.fromkeys(range(21, 31), 1.5), 31: 90.0}
    spans = [steps.get(step, 1.0) for step in range(2, 36)]
    assert resume.extra_seconds(spans, 1.0) == [3.0, 5.0]


@pytest.mark.slow
def test_the_start_is_timed_to_the_first_step(config: Config, tmp_path: Path) -> None:
    _, body, values = resume.measure_starting(quick(), config, tmp_path)
    seconds = values["seconds"]
    assert isinstance(seconds, dict)
    assert values["validation_batches"] == 2
    assert "a validation of at most 2 batches" in " ".join(body.split())
    assert list(seconds) == ["empty compile cache", "warm compile cache"]
    assert all(0.5 < found < 100 for found in seconds.values())


@pytest.mark.slow
def test_saving_is_measured_against_not_saving(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SAVE_INTERVAL_STEPS", 8)
    _, _, values = resume.measure_saving(quick(save_steps=26), config, tmp_path)
    assert values["checkpoint_bytes"] > 10_000  # type: ignore[operator]
    assert [len(found) for found in values["seconds_longer"].values()] == [2, 2]  # type: ignore[attr-defined]


def test_tensors_are_found_wherever_they_are() -> None:
    values = {"a": torch.ones(1), "b": [torch.ones(2), {"c": (3, torch.ones(3))}]}
    assert [name for name, _ in tensors_of(values)] == [".a", ".b.0", ".b.1.c.1"]
