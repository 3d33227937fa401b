"""utils/training/preparation.py: what is tried before the first step leaves no trace."""

import weakref
from typing import Any

import pytest
import torch
import torch._inductor.config as compiler_settings

from model import LanguageModel
from tests.states import assert_same
from tests.tiny import tiny_config
from utils.errors import DeviceError
from utils.optimizer import build_optimizers
from utils.training import preparation
from utils.training.preparation import compile_errors, prepare, try_batch
from utils.training.step import TrainStep


@pytest.fixture
def step() -> TrainStep:
    config = tiny_config(training={"batch_size": 4})
    model = LanguageModel(config)
    optimizers = build_optimizers(model, config.training)
    return TrainStep(model, optimizers, torch.device("cpu"), config.training)


@pytest.mark.parametrize("rows", [4, 2])
def test_a_batch_is_tried_in_all_that_training_does_and_forgotten(
    step: TrainStep, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    seen: list[tuple[tuple[int, ...], bool]] = []
    loss = LanguageModel.loss

    def noted(self: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(ids.shape), torch.is_grad_enabled()))
        return loss(self, ids)

    monkeypatch.setattr(LanguageModel, "loss", noted)
    try_batch(step, 97, 16, rows)
    assert seen == [((rows, 16), True), ((rows, 16), False)]
    assert_same(step.model.state_dict(), before)
    assert all(parameter.grad is None for parameter in step.parameters)
    assert step.model.training


def test_a_batch_that_does_not_fit_is_forgotten_too(
    step: TrainStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("utils.training.preparation.evaluate", full)
    step.model.eval()
    with pytest.raises(torch.OutOfMemoryError):
        try_batch(step, 97, 16, 4)
    assert all(parameter.grad is None for parameter in step.parameters)
    assert step.model.training


def test_what_graphs_will_keep_is_taken_while_it_is_validated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU that is made up: a step takes 3,000 bytes, of which 2,000 are free again."""
    step = step_on_a_made_up_gpu(cuda_graphs=True)
    held: list[torch.Tensor | None] = []
    made: list[weakref.ref[torch.Tensor]] = []
    empty = torch.empty

    def noted(size: Any, **options: Any) -> torch.Tensor:
        tensor = empty(size, dtype=options["dtype"])
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(torch, "empty", noted)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1000)
    monkeypatch.setattr(preparation, "random_windows", lambda *_: torch.ones(4, 16).long())
    monkeypatch.setattr(preparation, "pass_through", lambda *_: None)
    monkeypatch.setattr(preparation, "validate", lambda *_: held.extend(ref() for ref in made))
    try_batch(step, 97, 16, 4)
    assert [tensor.nbytes for tensor in held if tensor is not None] == [2000]
    held.clear()
    assert [ref() for ref in made] == [None]


@pytest.mark.cuda
def test_a_validation_finds_no_more_memory_than_graphs_leave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("cuda")
    config = tiny_config(training={"batch_size": 64, "compile": False})
    model = LanguageModel(config).to(device)
    optimizers = build_optimizers(model, config.training)
    step = TrainStep(model, optimizers, device, config.training)
    taken: list[tuple[int, int]] = []
    original = preparation.validate

    def noted(*arguments: Any) -> None:
        taken.append((torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()))
        original(*arguments)

    monkeypatch.setattr(preparation, "validate", noted)
    before = torch.cuda.memory_allocated()
    try_batch(step, 97, 16, 64)
    ((now, peak),) = taken
    assert before < peak <= now
    assert torch.cuda.memory_allocated() <= before


def step_on_a_made_up_gpu(**training: Any) -> TrainStep:
    config = tiny_config(training={"batch_size": 4, **training})
    model = LanguageModel(config)
    optimizers = build_optimizers(model, config.training)
    step = TrainStep(model, optimizers, torch.device("cpu"), config.training)
    step.device = torch.device("cuda")
    return step


@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_missing_compiler_is_told_with_the_way_around_it() -> None:
    message = (
        r"torch\.compile does not work here: InvalidCxxCompiler: No working C\+\+ compiler found in"
        r" .*no-such-compiler.*\n  It needs .*--set training\.compile=false"
    )
    with (
        pytest.raises(DeviceError, match=message) as caught,
        compiler_settings.patch({"cpp.cxx": ("no-such-compiler",)}),
        compile_errors(),
    ):
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), torch.OutOfMemoryError("none")])
def test_other_faults_are_not_the_compilers(error: RuntimeError) -> None:
    with pytest.raises(type(error), match=str(error)), compile_errors():
        raise error


@pytest.mark.parametrize("compiles", [True, False])
def test_only_what_is_compiled_needs_a_cache(
    compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = step_on_a_made_up_gpu(compile=compiles, cuda_graphs=False)
    used: list[Any] = []
    for name in ("ensure_batch_fits", "mark_warm", "validate", "random_windows"):
        monkeypatch.setattr(preparation, name, lambda *_: None)
    monkeypatch.setattr(preparation, "is_warm", lambda *_: False)
    monkeypatch.setattr(preparation, "use_compile_cache", used.append)
    monkeypatch.setattr(LanguageModel, "compile_for_training", lambda _: None)
    config = tiny_config(training={"batch_size": 4, "compile": compiles, "cuda_graphs": False})
    prepare(step, config, 16)
    assert used == [config.paths.compile_cache_dir] * compiles


def test_the_cpu_is_ready_at_once(step: TrainStep, capsys: pytest.CaptureFixture[str]) -> None:
    random_state = torch.get_rng_state()
    prepare(step, tiny_config(training={"batch_size": 4}), 16)
    assert capsys.readouterr().err == ""
    assert torch.equal(torch.get_rng_state(), random_state)
