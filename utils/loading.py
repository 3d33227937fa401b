"""Checkpoints as models that generate: whether they fit, and what they take.

The weights alone are read, memory-mapped (utils/checkpoint.py).
"""

from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint import Checkpoint, check_fit, load_weights_only
from utils.compile_cache import use_compile_cache
from utils.config import Config
from utils.errors import CheckpointError, ConfigError
from utils.inference_model import InferenceModel, names_in_checkpoint
from utils.quantization import quantize as quantize_in_place
from utils.quantized_linear import GROUP
from utils.terminal import warn

_QUANTIZED_BYTES = {"int8": 1.0, "int4": 0.5 + 4 / GROUP}  # a number, its scales included


def load_for_inference(
    path: Path, config: Config, device: torch.device, quantize: str | None = None
) -> tuple[InferenceModel, Checkpoint]:
    """The model in the checkpoint at `path`, ready to generate, and the checkpoint.

    `config` is for files of older programs, which hold none. `quantize` is one of
    utils.quantization's names. On the CPU an fp32 model shares the file's memory map: the optimizer
    takes no memory, and a file that is overwritten in place, not replaced as training does, would
    change the model. Raises CheckpointError if the file, or a weight in it, cannot be used.
    """
    if device.type == "cuda":  # where our kernels compile when they are first used
        try:
            use_compile_cache(config.paths.compile_cache_dir)
        except ConfigError as error:  # it only takes longer
            warn(str(error))
    checkpoint = load_weights_only(path, config)
    check_fit(checkpoint.model, _expected_shapes(checkpoint), checkpoint.name)
    model = InferenceModel.from_weights(
        checkpoint.config, checkpoint.model, device, inference_dtype(device)
    )
    _check_finite(model, checkpoint.name)
    if quantize is not None:
        quantize_in_place(model, quantize)
    return model, checkpoint


def inference_dtype(device: torch.device) -> torch.dtype:
    """The type of weights when generating: bf16 on a GPU, fp32 on the CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def required_bytes(config: Config, device: torch.device, rows: int, quantize: str | None) -> int:
    """About what a model takes: its weights, and reading `rows` full contexts into a cache.

    Quantizing on a GPU takes more for a moment: its matrices as they were.
    """
    shape = config.model
    width, layers = shape.hidden_size, shape.num_layers
    item_bytes = inference_dtype(device).itemsize
    matrices = layers * 12 * width**2
    vectors = layers * 13 * width + 2 * width
    embeddings = (shape.vocab_size + shape.max_position_embeddings) * width
    cache = 2 * rows * layers * shape.max_position_embeddings * width
    read = 10 * rows * shape.max_position_embeddings * width  # of one layer at a time
    quantized = _QUANTIZED_BYTES.get(quantize or "", item_bytes)
    return int(matrices * quantized) + (vectors + embeddings + cache + read) * item_bytes


def _expected_shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """The shape of every weight that a checkpoint of its configuration holds, by its name."""
    config, name = checkpoint.config, checkpoint.name
    layers = config.model.num_layers
    if layers > len(checkpoint.model):  # a billion layers would take forever to compare
        raise CheckpointError(f"{name}: has {len(checkpoint.model)} weights for {layers:,} layers")
    try:
        with torch.device("meta"):
            model = InferenceModel(config)
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond 64 bits
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{name}: its configuration makes no model: {reason}") from None
    names = names_in_checkpoint(layers)
    return {names[key]: weight.shape for key, weight in model.named_parameters()}


def _check_finite(model: InferenceModel, name: str) -> None:
    """Raise CheckpointError naming weights that are no numbers: no token could be drawn."""
    weights = dict(model.named_parameters())
    sums = torch.stack([weight.sum(dtype=torch.float32) for weight in weights.values()])
    if sums.isfinite().all():
        return
    names = names_in_checkpoint(model.config.model.num_layers)
    bad = [names[key] for key, weight in weights.items() if not _is_finite(weight)]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise CheckpointError(
            f"{name}: NaN or infinity among its weights: {', '.join(bad[:3])}{more}",
            "The run that wrote it had diverged: choose an earlier checkpoint.",
        )


def _is_finite(weight: Tensor) -> bool:
    return bool(weight.isfinite().all())
