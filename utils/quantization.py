"""Quantization for inference: the matrices of the decoder layers in 8 or 4 bits.

Only weights are rounded; embeddings, the head tied to them, norms and biases stay as they are.
"""

import torch
from torch import nn

from utils.errors import DeviceError, UsageError
from utils.inference_model import InferenceModel
from utils.quantized_linear import GROUP, Int4Linear, Int8Linear

_INT4_CAPABILITY = (8, 0)  # of a GPU that has torch's int4 kernel
_KINDS: dict[str, type[Int8Linear] | type[Int4Linear]] = {"int8": Int8Linear, "int4": Int4Linear}
QUANTIZATIONS = tuple(_KINDS)


def quantize(model: InferenceModel, how: str) -> None:
    """Round the matrices of every layer in place; `how` is one of QUANTIZATIONS.

    The model must be on the device where it shall run. Raises UsageError for another name or a
    width that int4 cannot divide, DeviceError for a GPU without its kernel; the model is then as
    it was.
    """
    if how not in _KINDS:
        raise UsageError(
            f"no quantization is called {how!r}", f"Choose from {', '.join(QUANTIZATIONS)}."
        )
    if how == "int4":
        _check_int4_runs(model)
    for layer in model.layers:
        for name, linear in list(layer.named_children()):
            if type(linear) is nn.Linear:
                setattr(layer, name, _KINDS[how](linear))


def _check_int4_runs(model: InferenceModel) -> None:
    width, device = model.config.model.hidden_size, model.device
    if width % GROUP:
        raise UsageError(
            f"int4 needs a model.hidden_size that {GROUP} divides, this model's is {width}",
            "Choose int8.",
        )
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _INT4_CAPABILITY:
        raise DeviceError(
            f"int4 has no kernel for {torch.cuda.get_device_name(device)}",
            "It needs a GPU of compute capability 8.0 or newer. Choose int8.",
        )
