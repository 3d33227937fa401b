"""dataloader.py: what is loaded, how it is split, and the order of batches."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

import dataloader
from dataloader import (
    WindowDataset,
    WindowLoader,
    WindowSampler,
    create_simple_train_val_dataloaders,
)
from tests.test_batch_stream import LazySlot
from tests.workspaces import Workspace, WorkspaceMaker
from utils import sides
from utils.batch_stream import widen
from utils.errors import ConfigError, DatasetError, DeviceError
from utils.token_files import read_metadata, read_stream

SPAN_TOKENS = 64


def loaders(workspace: Workspace, **options: object) -> tuple[WindowLoader, WindowLoader]:
    options = {"batch_size": 8, "verbose": False, **options}
    train, val, _ = create_simple_train_val_dataloaders(
        config=workspace.config,
        device="cpu",
        **options,  # type: ignore[arg-type]
    )
    return train, val


def rows_of(loader: WindowLoader) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in loader for row in batch.tolist()]


def stream_of(workspace: Workspace) -> tuple[list[int], list[int]]:
    folder = workspace.config.paths.dataset_dir
    metadata = read_metadata(folder)
    (file,) = metadata.files
    stream, starts = read_stream(folder, metadata, file)
    return stream.tolist(), starts.tolist()


def test_the_call_of_the_specification(prepared_workspace: Workspace) -> None:
    train_loader, val_loader, info = create_simple_train_val_dataloaders(
        batch_size=8,
        val_split=0.1,
        shuffle_train=True,
        test_mode=False,
        verbose=True,
        seed=42,
        config=prepared_workspace.config_path,
        device="cpu",
    )
    assert isinstance(train_loader, DataLoader)
    assert isinstance(train_loader.dataset, Dataset)
    window = prepared_workspace.config.dataset_prep.window
    for batch in (*train_loader, *val_loader):
        assert batch.dtype == torch.int64
        assert batch.shape[1] == window
    assert info["train_size"] == len(train_loader.dataset)  # type: ignore[arg-type]
    assert info["val_size"] == len(rows_of(val_loader))
    assert info["train_device"] == info["val_device"] == "cpu"
    assert len(train_loader) == info["train_size"] // 8


def test_windows_are_those_on_disk(prepared_workspace: Workspace) -> None:
    folder = prepared_workspace.config.paths.dataset_dir
    stored = Counter(tuple(row) for row in np.load(folder / "tokens_part_0.npy").tolist())
    train, val = loaders(prepared_workspace, batch_size=1)
    seen = Counter(rows_of(train)) + Counter(rows_of(val))
    assert not seen - stored
    assert len(val) > 0


@pytest.mark.parametrize("seed", range(10))
def test_no_document_and_no_span_is_on_both_sides(prepared_workspace: Workspace, seed: int) -> None:
    """Every token of a side belongs to documents of that side, and no 64 tokens are shared."""
    train, val = loaders(prepared_workspace, seed=seed, batch_size=1)
    window = prepared_workspace.config.dataset_prep.window
    stream, starts = stream_of(prepared_workspace)
    document_of = np.searchsorted(starts, np.arange(len(stream)), side="right")
    position = {tuple(stream[i : i + window]): i for i in range(len(stream) - window + 1)}
    sides = [
        {int(d) for row in rows_of(side) for d in document_of[position[row] :][:window]}
        for side in (train, val)
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    joined = [loader.windows.stream.tolist() for loader in (train, val)]
    spans = [
        {tuple(side[i : i + SPAN_TOKENS]) for i in range(len(side) - SPAN_TOKENS + 1)}
        for side in joined
    ]
    assert all(spans)
    assert not spans[0] & spans[1]


def test_order_depends_on_seed_and_epoch_and_can_start_anywhere(
    prepared_workspace: Workspace,
) -> None:
    first, _ = loaders(prepared_workspace)
    again, _ = loaders(prepared_workspace)
    epochs = [rows_of(first), rows_of(first)]
    assert epochs[0] != epochs[1]
    assert [rows_of(again), rows_of(again)] == epochs
    again.set_position(epoch=1, batch=3)
    assert rows_of(again) == epochs[1][3 * 8 :]
    assert rows_of(again) != epochs[1], "the third epoch has an order of its own"


def test_a_loop_that_ends_early_does_not_move_on(prepared_workspace: Workspace) -> None:
    loader, _ = loaders(prepared_workspace)
    first = [batch.tolist() for batch in islice(loader, len(loader))]  # never asked for one more
    assert [batch.tolist() for batch in loader] == first
    assert [batch.tolist() for batch in loader] != first


def test_the_windows_of_a_batch_are_told_without_disturbing_the_loop(
    prepared_workspace: Workspace,
) -> None:
    loader, _ = loaders(prepared_workspace)
    quiet, _ = loaders(prepared_workspace)
    for epoch in range(2):
        batches = [batch.tolist() for batch in quiet]
        for number, batch in enumerate(loader):
            assert batch.tolist() == batches[number]
            for other in (epoch, epoch + 3):
                assert len(set(loader.indices_of(other, number))) == len(batch)
            indices = loader.indices_of(epoch, number)
            assert [loader.windows[index].tolist() for index in indices] == batches[number]
            start = int(loader.windows.starts[indices[0]])
            stream = loader.windows.stream[start : start + loader.windows.window]
            assert stream.tolist() == batches[number][0]


def test_global_random_state_stays_put(prepared_workspace: Workspace) -> None:
    train, val = loaders(prepared_workspace)
    before = torch.get_rng_state()
    rows_of(train), rows_of(val)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_is_complete_and_always_in_the_same_order(
    prepared_workspace: Workspace,
) -> None:
    """The order is a random one: the first batches alone are a fair sample of the text."""
    _, val = loaders(prepared_workspace, batch_size=5)
    assert rows_of(val) == rows_of(val)
    starts = val.windows.starts.tolist()
    assert starts != sorted(starts)
    assert len(set(starts)) == len(starts)
    assert len(rows_of(val)) == len(val.dataset)  # type: ignore[arg-type]


def test_unshuffled_training_keeps_the_order_of_the_text(prepared_workspace: Workspace) -> None:
    train, _ = loaders(prepared_workspace, batch_size=1, shuffle_train=False)
    stream, _ = stream_of(prepared_workspace)
    text = ",".join(map(str, stream))
    places = [text.index(",".join(map(str, row))) for row in rows_of(train)]
    assert places == sorted(places)


def test_workers_give_the_same_batches(make_workspace: WorkspaceMaker) -> None:
    alone, _ = loaders(make_workspace())
    workspace = make_workspace()
    config = workspace.config.model_copy(
        update={"dataloader": workspace.config.dataloader.model_copy(update={"num_workers": 1})}
    )
    helped, _ = loaders(Workspace(workspace.folder, workspace.config_path, config))
    assert rows_of(helped) == rows_of(alone)
    helped.set_position(epoch=0, batch=2)
    assert next(iter(helped)).tolist() == [list(row) for row in rows_of_epoch(alone)[16:24]]


def rows_of_epoch(loader: WindowLoader) -> list[tuple[int, ...]]:
    loader.set_position(epoch=0, batch=0)
    return rows_of(loader)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"val_split": 0.0}, "dataloader.val_split: input should be greater than 0"),
        ({"val_split": 1.5}, "dataloader.val_split: input should be less than 1"),
        ({"batch_size": 0}, "training.batch_size: input should be greater than 0"),
        ({"seed": -1}, "dataloader.seed: input should be greater than or equal to 0"),
    ],
)
def test_arguments_are_checked_like_the_configuration(
    prepared_workspace: Workspace, values: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"the given settings has 1 problem:\n.*{problem}"):
        loaders(prepared_workspace, **values)


def streaming(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> WindowLoader:
    """The training loader of `dataloader.train_device: cpu`; without a GPU, slots stand in."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(
            dataloader,
            "cuda_slots",
            lambda rows, window, _: [LazySlot(rows, window) for _ in range(2)],
        )
    section = workspace.config.dataloader.model_copy(update={"train_device": "cpu"})
    config = workspace.config.model_copy(update={"dataloader": section})
    loader, _, info = create_simple_train_val_dataloaders(
        batch_size=8, config=config, device=device, verbose=False
    )
    assert info["train_device"] == "cpu"
    return loader


def check_stream(loader: WindowLoader, plain: WindowLoader) -> None:
    """The same batches as from main memory, from anywhere on, and the same position after."""
    assert loader.streams_to is not None
    assert rows_of(loader) == rows_of(plain)
    assert rows_of(loader) == rows_of(plain), "the second epoch"
    for side in (loader, plain):
        side.set_position(epoch=5, batch=2)
    assert rows_of(loader) == rows_of(plain)
    assert loader.order.epoch == plain.order.epoch == 6
    for _ in islice(loader, len(loader)):
        pass
    assert loader.order.epoch == 6
    assert rows_of(loader) == rows_of(plain)


def test_streamed_batches_are_those_of_the_resident_tokens(
    prepared_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("the same is shown on the GPU")
    plain, _ = loaders(prepared_workspace)
    check_stream(streaming(prepared_workspace, monkeypatch, torch.device("cuda")), plain)


def test_ids_above_int16_survive() -> None:
    """uint16 ids from 32,768 on are negative as int16; a batch must not show it."""
    stream = torch.tensor([0, 1, 32_767, 32_768, 65_535], dtype=torch.uint16)
    dataset = WindowDataset(stream, torch.tensor([0, 1]), window=4)
    assert dataset[1].tolist() == [1, 32_767, 32_768, 65_535]
    assert dataset.__getitems__([0, 1]).tolist() == [
        [0, 1, 32_767, 32_768],
        [1, 32_767, 32_768, 65_535],
    ]
    bits = dataset.gather(torch.tensor([1]), torch.empty(2, 4, dtype=torch.int16))
    assert widen(bits).tolist() == [[1, 32_767, 32_768, 65_535]]


def test_a_batch_is_whole_only_when_shuffling() -> None:
    dataset = WindowDataset(torch.zeros(13, dtype=torch.uint16), torch.arange(10), window=4)
    assert len(WindowSampler(dataset, 4, shuffle=True, seed=0)) == 2
    plain = WindowSampler(dataset, 4, shuffle=False, seed=0)
    assert [len(batch) for batch in plain] == [4, 4, 2]


def test_refused_datasets(make_workspace: WorkspaceMaker) -> None:
    workspace = make_workspace()
    model = workspace.config.model

    def with_model(**values: int) -> Workspace:
        config = workspace.config.model_copy(update={"model": model.model_copy(update=values)})
        return Workspace(workspace.folder, workspace.config_path, config)

    with pytest.raises(DatasetError, match=r"vocabulary of 400, but model.vocab_size is 500"):
        loaders(with_model(vocab_size=500))
    with pytest.raises(DatasetError, match=r"windows of 32 .*\n.*dataset_prep.py --window 16"):
        loaders(with_model(max_position_embeddings=16))
    with pytest.raises(DatasetError, match=r"windows to train on .* a batch takes 5,000"):
        loaders(workspace, batch_size=5000)
    with pytest.raises(DatasetError, match="no complete dataset here"):
        loaders(workspace, test_mode=True)


@pytest.mark.parametrize("fault", ["cut", "flip", "missing", "pickle"])
def test_damaged_token_files_are_refused_by_name(
    make_workspace: WorkspaceMaker, fault: str
) -> None:
    workspace = make_workspace(own_dataset=True)
    path = workspace.config.paths.dataset_dir / "tokens_part_0.npy"
    content = bytearray(path.read_bytes())
    if fault == "cut":
        path.write_bytes(content[:-10])
    elif fault == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif fault == "missing":
        path.unlink()
    else:
        bomb = np.array([_Bomb(workspace.folder / "exploded")], dtype=object)
        np.save(path, bomb, allow_pickle=True)
    with pytest.raises(DatasetError, match=r"tokens_part_0\.npy"):
        loaders(workspace)
    assert not (workspace.folder / "exploded").exists()


class _Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_an_unfinished_dataset_is_refused(make_workspace: WorkspaceMaker) -> None:
    workspace = make_workspace(own_dataset=True)
    (workspace.config.paths.dataset_dir / "metadata.json").unlink()
    with pytest.raises(DatasetError, match=r"metadata\.json(.|\n)*dataset_prep\.py"):
        loaders(workspace)


def test_tokens_that_do_not_fit_the_gpu_are_said_before_loading(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    monkeypatch.setattr(sides, "read_stream", None)
    with pytest.raises(DeviceError, match=r"need .* only 100 B of cuda(.|\n)*train_device to cpu"):
        create_simple_train_val_dataloaders(
            config=make_workspace().config, device=torch.device("cuda"), verbose=False
        )


def test_tokens_that_do_not_fit_main_memory_are_said_before_loading(
    make_workspace: WorkspaceMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataloader, "free_memory_bytes", lambda device: 5000)
    monkeypatch.setattr(sides, "read_stream", None)
    message = r"the dataset's tokens need .* kB of main memory, but only 5.0 kB of it are free"
    with pytest.raises(DeviceError, match=message):
        loaders(make_workspace())


def test_two_orders_of_an_epoch_have_to_fit_beside_the_windows(
    prepared_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = loaders(prepared_workspace)
    windows = (train.windows, val.windows)
    needed_bytes = 2 * train.windows.starts.nbytes
    needed_bytes += sum(side.stream.nbytes + side.starts.nbytes for side in windows)
    needed_bytes += sides.reading_bytes(read_metadata(prepared_workspace.config.paths.dataset_dir))
    monkeypatch.setattr(dataloader, "free_memory_bytes", lambda device: needed_bytes)
    loaders(prepared_workspace)
    monkeypatch.setattr(dataloader, "free_memory_bytes", lambda device: needed_bytes - 1)
    with pytest.raises(DeviceError, match="of main memory"):
        loaders(prepared_workspace)


class MadeBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the size of every tensor that is made."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.total += made.nbytes
        return made


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_makes_one_order(prepared_workspace: Workspace, shuffle: bool) -> None:
    train, _ = loaders(prepared_workspace, shuffle_train=shuffle)
    with MadeBytes() as made:  # type: ignore[no-untyped-call]
        train.order._order(1)
    assert made.total == train.windows.starts.nbytes


@pytest.mark.cuda
def test_training_tokens_live_on_the_gpu(make_workspace: WorkspaceMaker) -> None:
    workspace = make_workspace()
    train, val, info = create_simple_train_val_dataloaders(
        batch_size=8, config=workspace.config, device="cuda", verbose=False
    )
    on_cpu, _ = loaders(workspace)
    assert info["train_device"] == "cuda"
    batch = next(iter(train))
    assert batch.is_cuda
    assert batch.cpu().tolist() == next(iter(on_cpu)).tolist()
    assert all(batch.is_pinned() for batch in islice(val, 2))


@pytest.mark.cuda
def test_training_tokens_can_stay_in_main_memory(
    prepared_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    loader = streaming(prepared_workspace, monkeypatch, device)
    assert next(iter(loader)).is_cuda
    resident, _, _ = create_simple_train_val_dataloaders(
        batch_size=8, config=prepared_workspace.config, device=device, verbose=False
    )
    check_stream(loader, resident)
