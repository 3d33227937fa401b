"""Token windows to batches: training data on the GPU, validation data pinned on the CPU.

The tokens of a dataset lie in memory once, as uint16. Windows are a strided view of them and a
batch is one gather; only the batch is int64. Training data may stay in main memory too: its
batches are then sent to the GPU ahead of their use.
"""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.batch_stream import cuda_slots, stream_batches, widen
from utils.config import Config
from utils.config_file import load_config, override
from utils.device import choose_device, free_memory_bytes
from utils.errors import DatasetError, DeviceError
from utils.files import format_bytes
from utils.interrupts import InterruptGuard
from utils.sides import START_BYTES, TOKEN_BYTES, Side, load_sides, reading_bytes, split_sides
from utils.terminal import say
from utils.token_files import DatasetMetadata, read_metadata

CPU = torch.device("cpu")


class DatasetInfo(TypedDict):
    """What was loaded: sizes in windows and tokens, places, and the identity of the data."""

    train_size: int
    val_size: int
    dropped_size: int  # windows that touch both sides
    train_tokens: int
    val_tokens: int
    train_device: str
    val_device: str
    window: int
    stride: int
    vocab_size: int
    tokenizer_sha256: str
    dataset_fingerprint: str
    text_sha256: dict[str, str]  # of each cleaned text that it was made from, by stem


class WindowDataset(Dataset[Tensor]):
    """Windows of a token stream: `dataset[i]` is one, int64 of shape (window,).

    `stream` (tokens,) is uint16, `starts` (windows,) int64, both on one device.
    """

    def __init__(self, stream: Tensor, starts: Tensor, window: int) -> None:
        self.stream, self.starts, self.window = stream, starts, window
        # The gather runs on int16, which every device supports; the bits are the same.
        self.rows = stream.view(torch.int16).unfold(0, window, 1)  # (positions, window)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        return widen(self.rows[self.starts[index]])

    def __getitems__(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Several windows at once, (len(indices), window)."""
        index = torch.as_tensor(indices, device=self.starts.device)
        return widen(self.rows[self.starts[index]])

    def gather(self, indices: Tensor, out: Tensor) -> Tensor:
        """The same, as int16 of the same bits, in the first rows of `out`, which it returns."""
        filled = out[: len(indices)]
        torch.index_select(self.rows, 0, self.starts[indices], out=filled)
        return filled


class WindowSampler(Sampler[Tensor]):
    """Batches of window indices, reshuffled every epoch, resumable at any batch.

    The order of epoch n depends on `seed` and n alone. Iterating begins at the position that was
    set, and leaves it there.
    """

    def __init__(self, dataset: WindowDataset, batch_size: int, shuffle: bool, seed: int) -> None:
        self.size, self.device = len(dataset), dataset.starts.device
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.epoch = self.first_batch = 0
        self._ordered: tuple[int, Tensor] | None = None  # the last epoch asked for

    def set_position(self, epoch: int, batch: int) -> None:
        """Let the next iteration begin at batch number `batch` of epoch number `epoch`."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        """Batches in an epoch: whole ones when shuffling, else a smaller last one counts too."""
        return self.size // self.batch_size if self.shuffle else -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = self._order(self.epoch)
        for batch in range(self.first_batch, len(self)):
            yield self._rows_of(order, batch)

    def indices_of(self, epoch: int, batch: int) -> Tensor:
        """The window indices of one batch of an epoch, int64 (rows,), on the dataset's device."""
        assert 0 <= batch < len(self), "no such batch"
        return self._rows_of(self._order(epoch), batch)

    def _rows_of(self, order: Tensor, batch: int) -> Tensor:
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        """All window indices as they come in that epoch."""
        if self._ordered is None or self._ordered[0] != epoch:
            if self.shuffle:
                generator = torch.Generator().manual_seed(self.seed + epoch)
                order = torch.randperm(self.size, generator=generator)
            else:
                order = torch.arange(self.size)
            self._ordered = (epoch, order.to(self.device))
        return self._ordered[1]


class WindowLoader(DataLoader[Tensor]):
    """A DataLoader of whole batches (rows, window), int64, that can start at any of them.

    Batches are where the windows are; from main memory they go ahead to `device` if that is a
    GPU. Iterating to the end moves on to the next epoch; `set_position` goes anywhere.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        sampler: WindowSampler,
        workers: int,
        device: torch.device | None = None,
    ) -> None:
        on_cpu = dataset.starts.device.type == "cpu"
        workers = workers if on_cpu else 0
        super().__init__(
            dataset,
            batch_sampler=sampler,  # type: ignore[arg-type]
            worker_init_fn=_leave_signals_to_the_parent,
            collate_fn=_whole_batch,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_cpu and torch.cuda.is_available(),
            # DataLoader draws a seed per epoch; from the global generator it would break resuming.
            generator=torch.Generator().manual_seed(sampler.seed),
        )
        self.windows, self.order = dataset, sampler
        self.streams_to = device if on_cpu and device and device.type == "cuda" else None

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        # Not left to the sampler: it is read ahead, and a loop that ends early must not move on.
        epoch = self.order.epoch
        if self.streams_to is None:
            yield from super().__iter__()
        else:
            slots = cuda_slots(self.order.batch_size, self.windows.window, self.streams_to)
            yield from stream_batches(self.order, self.windows.gather, slots)
        self.set_position(epoch + 1, 0)

    def set_position(self, epoch: int, batch: int) -> None:
        """Let the next iteration begin at batch number `batch` of epoch number `epoch`."""
        self.order.set_position(epoch, batch)

    def indices_of(self, epoch: int, batch: int) -> list[int]:
        """Which windows make that batch of that epoch; an iteration under way is not disturbed.

        `loader.windows[index]` is window number `index`, to be decoded: tokens
        `starts[index]` to `starts[index] + window` of `loader.windows.stream`.
        """
        indices: list[int] = self.order.indices_of(epoch, batch).tolist()
        return indices


def create_simple_train_val_dataloaders(
    batch_size: int | None = None,
    val_split: float | None = None,
    shuffle_train: bool = True,
    test_mode: bool = False,
    verbose: bool = True,
    seed: int | None = None,
    *,
    config: Config | str | Path | None = None,
    device: torch.device | str | None = None,
) -> tuple[WindowLoader, WindowLoader, DatasetInfo]:
    """Load the dataset that config.json names, split by document, ready to iterate.

    Unset values are the configuration's. `test_mode` takes the small dataset that
    `dataset_prep.py --test` makes. `device` is where training happens, the GPU by default; the
    validation batches stay on the CPU, pinned where there is a GPU, always in the same order.
    Raises DatasetError for data that is incomplete, damaged or made for another vocabulary,
    DeviceError if it does not fit.
    """
    config = config if isinstance(config, Config) else load_config(config)
    given = {
        "training.batch_size": batch_size,
        "dataloader.val_split": val_split,
        "dataloader.seed": seed,
    }
    config = override(config, {key: value for key, value in given.items() if value is not None})
    batch_size, seed = config.training.batch_size, config.dataloader.seed
    device = device if isinstance(device, torch.device) else choose_device(device)
    train_device = device if config.dataloader.train_device == "cuda" else CPU
    dataset_dir = config.paths.test_dataset_dir if test_mode else config.paths.dataset_dir
    metadata = read_metadata(dataset_dir)
    _check_fits_model(metadata, dataset_dir, config)
    if verbose:
        say(f"Dataset {dataset_dir}: {metadata.tokens:,} tokens in {len(metadata.files)} file(s)")
    train, val = split_sides(dataset_dir, metadata, config.dataloader.val_split, seed)
    _check_sizes(train, val, batch_size, dataset_dir)
    _check_memory(train, val, train_device, reading_bytes(metadata))
    sides = [(train, train_device), (val, CPU)]
    train_set, val_set = (
        WindowDataset(stream, starts, metadata.window)
        for stream, starts in load_sides(dataset_dir, metadata, sides)
    )
    # In one random order for good, so that the first batches alone are a fair sample.
    order = torch.randperm(val.windows, generator=torch.Generator().manual_seed(seed))
    val_set.starts = val_set.starts[order]
    workers = config.dataloader.num_workers
    train_loader = WindowLoader(
        train_set, WindowSampler(train_set, batch_size, shuffle_train, seed), workers, device
    )
    val_loader = WindowLoader(val_set, WindowSampler(val_set, batch_size, False, seed), workers)
    info = DatasetInfo(
        train_size=train.windows,
        val_size=val.windows,
        dropped_size=metadata.windows - train.windows - val.windows,
        train_tokens=train.tokens,
        val_tokens=val.tokens,
        train_device=str(train_device),
        val_device="cpu",
        window=metadata.window,
        stride=metadata.stride,
        vocab_size=metadata.vocab_size,
        tokenizer_sha256=metadata.tokenizer_sha256,
        dataset_fingerprint=metadata.fingerprint,
        text_sha256={file.stem: file.source_sha256 for file in metadata.files},
    )
    if verbose:
        _report(info)
    return train_loader, val_loader, info


def _check_fits_model(metadata: DatasetMetadata, dataset_dir: Path, config: Config) -> None:
    positions = config.model.max_position_embeddings
    if metadata.vocab_size != config.model.vocab_size:
        raise DatasetError(
            f"{dataset_dir}: was made with a vocabulary of {metadata.vocab_size:,}, but"
            f" model.vocab_size is {config.model.vocab_size:,}",
            "Prepare the dataset again with this configuration, or correct it.",
        )
    if metadata.window > positions:
        raise DatasetError(
            f"{dataset_dir}: has windows of {metadata.window} tokens, but"
            f" model.max_position_embeddings is {positions}",
            f"Run dataset_prep.py --window {positions}, or raise max_position_embeddings.",
        )


def _check_memory(train: Side, val: Side, train_device: torch.device, reading: int) -> None:
    """`reading` is what loading takes of main memory beside the two sides, in bytes."""
    in_main_memory = val.memory_bytes + reading
    # Where epochs meet, the new order is made beside the old one, which an iteration may hold.
    training = train.memory_bytes + 2 * train.windows * START_BYTES
    if train_device.type == "cuda":
        _check_free(train_device, "training", training)
    else:
        in_main_memory += training
    _check_free(CPU, "dataset's", in_main_memory)


def _check_free(device: torch.device, whose: str, needed_bytes: int) -> None:
    free_bytes = free_memory_bytes(device)
    if free_bytes is None or needed_bytes <= free_bytes:
        return
    memory, place, choices = "main memory", "it", "Prepare less text, or free memory."
    if device.type == "cuda":
        memory, place = "GPU memory", str(device)
        choices = "Set dataloader.train_device to cpu, prepare less text, or use a larger GPU."
    raise DeviceError(
        f"the {whose} tokens need {format_bytes(needed_bytes)} of {memory}, but only"
        f" {format_bytes(free_bytes)} of {place} are free",
        choices,
    )


def _check_sizes(train: Side, val: Side, batch_size: int, dataset_dir: Path) -> None:
    if train.windows < batch_size or not val.windows:
        raise DatasetError(
            f"{dataset_dir}: has {train.windows:,} windows to train on and {val.windows:,} to"
            f" validate on, but a batch takes {batch_size:,}",
            "Prepare more text, or lower training.batch_size.",
        )


def _report(info: DatasetInfo) -> None:
    for name, size, tokens, device in (
        ("train", info["train_size"], info["train_tokens"], info["train_device"]),
        ("val", info["val_size"], info["val_tokens"], info["val_device"]),
    ):
        memory = format_bytes(tokens * TOKEN_BYTES + size * START_BYTES)
        say(f"  {name:5} {size:>11,} windows, {tokens:>13,} tokens, {memory:>8} on {device}")
    total = info["train_size"] + info["val_size"] + info["dropped_size"]
    share = info["dropped_size"] / total
    say(f"  left out {info['dropped_size']:,} windows ({share:.1%}) that touch both sides")


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach a whole process group, but training needs batches up to its save.

    Workers end when the loader tells them to, or when their parent is gone.
    """
    for number in InterruptGuard.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _whole_batch(batch: Tensor) -> Tensor:
    return batch
