"""Linear layers with weights in 8 or 4 bits, for inference.

`int8` has a scale per output; `int4` has a scale and a centre per GROUP inputs of an output, and
runs on the kernels that torch has for it. Nothing here asks the host, so a step on the GPU can be
captured in a CUDA graph.

torchao rounds to int8 just so, in a tensor subclass, but on the CPU turns every matrix back into
floating point for every token, which takes much of the time that smaller weights save;
bench/quantize.py compares.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 64  # inputs that share a scale and a centre in int4; torch has kernels for 32, 64, 128, 256
_INT8_MULTIPLE = 16  # of the inputs that torch's int8 kernel takes; it reads past the end of others
_INNER_K_TILES = 4  # of that kernel's layout; 16 times this divides every multiple of GROUP
_TINY = 1e-12  # in place of the scale of weights that are all equal


class Int8Linear(nn.Module):
    """An nn.Linear whose weight is `codes * scales`: int8 (out, in), bf16 (out, 1)."""

    codes: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scales = round_to_int8(linear.weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) of x (..., T, in)."""
        if x.device.type == "cpu" and x.size(-2) == 1 and x.size(-1) % _INT8_MULTIPLE == 0:
            # A token's time is that of reading the weights: this kernel reads them as they are.
            # The number of rows does not matter, so each is the same alone and in a batch.
            rows = x.flatten(0, -2).to(torch.bfloat16)
            product = torch._weight_int8pack_mm(rows, self.codes, self.scales.flatten())
            return product.to(x.dtype).view(*x.shape[:-1], -1) + self.bias
        product = F.linear(x, self.codes.to(x.dtype))
        return torch.addcmul(self.bias, product, self.scales.flatten().to(x.dtype))


class Int4Linear(nn.Module):
    """An nn.Linear whose weight is in 4 bits, packed as the kernel of its device wants it.

    `scales_and_centres` is bf16 (in / GROUP, out, 2). The product is computed in bf16.
    """

    codes: Tensor
    scales_and_centres: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scales, centres = round_to_int4(linear.weight)
        self.register_buffer("codes", _pack(codes))
        pairs = torch.stack([scales, centres], dim=-1).transpose(0, 1).contiguous()
        self.register_buffer("scales_and_centres", pairs)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) of x (..., in)."""
        rows = x.flatten(0, -2).to(torch.bfloat16)
        multiply = (
            torch._weight_int4pack_mm if x.is_cuda else torch.ops.aten._weight_int4pack_mm_for_cpu
        )
        product: Tensor = multiply(rows, self.codes, GROUP, self.scales_and_centres)
        return product.to(x.dtype).view(*x.shape[:-1], -1) + self.bias


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, int8 (out, in), and scales, bf16 (out, 1): the weight is near `codes * scales`.

    No weight is moved by more than half its scale.
    """
    exact = weight.detach().float()
    scales = (exact.abs().amax(1, keepdim=True) / 127).clamp(min=_TINY).to(torch.bfloat16)
    codes = (exact / scales.float()).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes 0 to 15, int32 (out, in), scales and centres, bf16 (out, in / GROUP).

    A weight is near `(code - 8) * scale + centre` of its group; the codes span the group's range.
    """
    groups = weight.detach().float().reshape(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).clamp(min=_TINY).to(torch.bfloat16)
    centres = (low + 8 * scales.float()).to(torch.bfloat16)
    codes = ((groups - centres.float()[..., None]) / scales.float()[..., None]).round() + 8
    return codes.clamp(0, 15).flatten(1).to(torch.int32), scales, centres


def _pack(codes: Tensor) -> Tensor:
    """Two codes a byte, in the order of the kernel of their device."""
    if not codes.is_cuda:
        packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        return packed
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    return torch._convert_weight_to_int4pack(pairs, _INNER_K_TILES)
