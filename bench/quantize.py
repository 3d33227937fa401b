"""What quantized weights cost and save: perplexity, memory, speed.

`python -m bench.quantize [--checkpoint FILE] [--config PATH]` compares a model with its quantized
forms in one process, in turns: continuing a short prompt with one row, and reading a long one. The
perplexity is that of validation windows of the configured dataset. Without a checkpoint weights are
random, which tells of memory and speed alone. On the CPU torchao's forms are compared too, where it
is installed; on a GPU our kernels have no place for its tensors.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import (
    Timing,
    bench_parser,
    environment_of,
    paragraph,
    positive,
    publish,
    side_by_side,
    table,
    times_as_fast,
)
from dataloader import create_simple_train_val_dataloaders
from model import create_model
from utils.cli import config_from, run_script
from utils.config import Config
from utils.device import choose_device, describe_device
from utils.generation import NEVER, Engine
from utils.inference_model import InferenceModel
from utils.loading import inference_dtype, load_for_inference
from utils.quantization import QUANTIZATIONS, quantize
from utils.sampling import Sampling
from utils.terminal import say

PLAIN = "as trained"
TORCHAO_KINDS = {
    "torchao int8 weight-only": "Int8WeightOnlyConfig",
    "torchao int8 dynamic": "Int8DynamicActivationInt8WeightConfig",
}
PACKAGES = ("torch", "torchao", "numpy")
SHORT_PROMPT_TOKENS = 16
LONG_PROMPT_TOKENS = 256
ROWS = 8  # of a batch when perplexity is measured
BF16_BYTES = 2
GOAL = (
    "Goals: int8 has a perplexity at most 1 % higher, takes 1.9 x less memory than bf16 and is no"
    " slower on the CPU; int4's perplexity is at most 5 % higher."
)


class Subject(NamedTuple):
    """A model of one kind, ready to generate; it took `ready_seconds` from plain weights."""

    model: InferenceModel
    engine: Engine
    ready_seconds: float


class Figures(NamedTuple):
    """What was measured of one kind; no perplexity where weights are random."""

    perplexity: float | None
    layer_bytes: int
    ready_seconds: float
    generating: Timing
    reading: Timing

    def change_percent(self, plain: Self) -> float | None:
        """How much higher the perplexity is than that of `plain`."""
        if self.perplexity is None or plain.perplexity is None:
            return None
        return 100 * (self.perplexity / plain.perplexity - 1)


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = config_from(args)
    device = choose_device(args.device)
    environment = environment_of(PACKAGES, args.commit, with_gpu=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    windows = [] if args.checkpoint is None else validation_windows(config, args.windows)
    plain = _plain_model(args.checkpoint, config, device)
    long_prompt = min(LONG_PROMPT_TOKENS, plain.max_positions // 2)
    kinds = [PLAIN, *QUANTIZATIONS]
    if device.type == "cpu" and find_spec("torchao") is not None:
        kinds += TORCHAO_KINDS
    subjects = {kind: prepare(kind, args.checkpoint, config, device) for kind in kinds}
    figures = measure(subjects, windows, args.tokens, long_prompt, args.repeats)
    bf16_bytes = BF16_BYTES * sum(weight.numel() for weight in plain.layers.parameters())
    values = {
        "threads": torch.get_num_threads(),
        "tokens": args.tokens,
        "long_prompt_tokens": long_prompt,
        "validation_windows": sum(map(len, windows)),
        "bf16_layer_bytes": bf16_bytes,
        "kinds": {kind: _values(found, figures[PLAIN]) for kind, found in figures.items()},
    }
    weights = "trained" if windows else "random"
    about = (
        f"{_shape(plain.config)}, {weights} weights, on {describe_device(device)}. {args.tokens}"
        f" tokens after {SHORT_PROMPT_TOKENS}, and the first one after {long_prompt}, one row each;"
        f" rates are the best of {args.repeats} rounds, ratios their median."
    )
    if windows:
        about += f" Perplexity on {sum(map(len, windows)):,} validation windows."
    body = f"{paragraph(about)}\n\n{_table(figures, bf16_bytes, args.tokens)}\n\n{paragraph(GOAL)}"
    part = f"{device.type}-{weights}"
    publish(args, "quantize", "Quantized weights", body, values, environment, part)


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("quantize", "Compare quantized weights with plain ones.", repeats=5)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="(default: random weights)")
    parser.add_argument("--device", help="cuda (default), cuda:N or cpu")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of the CPU (default: torch's choice)"
    )
    parser.add_argument(
        "--tokens", type=positive, default=64, metavar="N", help="to generate (default: 64)"
    )
    parser.add_argument(
        "--windows",
        type=positive,
        default=512,
        metavar="N",
        help="validation windows to measure perplexity with, about (default: 512)",
    )
    return parser


def validation_windows(config: Config, count: int) -> list[Tensor]:
    """So many windows of the configured dataset, a few more or all, as batches (rows, tokens)."""
    _, loader, _ = create_simple_train_val_dataloaders(
        ROWS, config=config, device="cpu", verbose=False
    )
    return list(islice(loader, -(-count // ROWS)))


def prepare(kind: str, path: Path | None, config: Config, device: torch.device) -> Subject:
    """The model in one of its forms: PLAIN, one of QUANTIZATIONS or of TORCHAO_KINDS."""
    model = _plain_model(path, config, device)
    began = time.perf_counter()
    if kind in QUANTIZATIONS:
        quantize(model, kind)
    elif kind in TORCHAO_KINDS:
        from torchao import quantization as torchao

        torchao.quantize_(model.layers, getattr(torchao, TORCHAO_KINDS[kind])())
    engine = Engine(model, NEVER, 0)
    engine.warm_up()
    return Subject(model, engine, time.perf_counter() - began)


def _plain_model(path: Path | None, config: Config, device: torch.device) -> InferenceModel:
    if path is not None:
        return load_for_inference(path, config, device)[0]
    torch.manual_seed(config.training.seed)
    weights = create_model(config).state_dict()
    return InferenceModel.from_weights(config, weights, device, inference_dtype(device))


def measure(
    subjects: Mapping[str, Subject],
    windows: Sequence[Tensor],
    tokens: int,
    long_prompt: int,
    repeats: int,
) -> dict[str, Figures]:
    """The figures of every kind: perplexities one after the other, times in turns."""
    perplexities = {}
    for kind, subject in subjects.items():
        if windows:
            say(f"reading {sum(map(len, windows)):,} windows: {kind}")
        perplexities[kind] = perplexity(subject.model, windows) if windows else None
    say("generating")
    generating, reading = (
        side_by_side(
            {kind: _generation(subject.engine, *sizes) for kind, subject in subjects.items()},
            repeats,
        )
        for sizes in ((SHORT_PROMPT_TOKENS, tokens), (long_prompt, 1))
    )
    return {
        kind: Figures(
            perplexities[kind],
            layer_bytes(subject.model),
            subject.ready_seconds,
            generating[kind],
            reading[kind],
        )
        for kind, subject in subjects.items()
    }


@torch.inference_mode()
def perplexity(model: InferenceModel, windows: Sequence[Tensor]) -> float:
    """Of all tokens of the windows (rows, tokens) but each first, given those before it."""
    total, count = 0.0, 0
    for batch in windows:
        ids = batch.to(model.device)
        logits, targets = model(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
        total += F.cross_entropy(logits, targets, reduction="sum").item()
        count += len(targets)
    return math.exp(total / count)


def layer_bytes(model: InferenceModel) -> int:
    """What the decoder layers hold: matrices with their scales, biases, norms."""
    return sum(_bytes_of(tensor) for tensor in model.layers.state_dict().values())


def _bytes_of(tensor: Tensor) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    parts, _ = tensor.__tensor_flatten__()  # torchao's own count is that of the plain weight
    return sum(getattr(tensor, part).nbytes for part in parts)


def _generation(engine: Engine, prompt_tokens: int, tokens: int) -> Callable[[], object]:
    prompt = [index % 97 for index in range(prompt_tokens)]
    sampling = Sampling(tokens, temperature=0.0, top_k=0, top_p=1.0)
    return lambda: list(engine.generate([prompt], sampling))


def _shape(config: Config) -> str:
    shape = config.model
    return f"{shape.num_layers} layers of width {shape.hidden_size}"


def _table(figures: Mapping[str, Figures], bf16_bytes: int, tokens: int) -> str:
    plain = figures[PLAIN]
    header = ["", "perplexity", "change", "layers, MB", "less than bf16"]
    header += ["ready, s", "tokens/s", "to plain", "prompt, ms", "to plain"]
    rows = []
    for kind, found in figures.items():
        change = found.change_percent(plain)
        rows.append(
            [
                kind,
                "-" if found.perplexity is None else f"{found.perplexity:.3f}",
                "-" if change is None else f"{change:+.3f} %",
                f"{found.layer_bytes / 1e6:.2f}",
                f"{bf16_bytes / found.layer_bytes:.2f} x",
                f"{found.ready_seconds:.2f}",
                f"{tokens / found.generating.wall_min:.1f}",
                f"{times_as_fast(found.generating.wall, plain.generating.wall):.2f} x",
                f"{found.reading.wall_min * 1e3:.1f}",
                f"{times_as_fast(found.reading.wall, plain.reading.wall):.2f} x",
            ]
        )
    return table(header, rows)


def _values(found: Figures, plain: Figures) -> dict[str, object]:
    return {
        **found._asdict(),
        "change_percent": found.change_percent(plain),
        "generating": found.generating.values(),
        "reading": found.reading.values(),
    }


if __name__ == "__main__":
    run_script(main)
