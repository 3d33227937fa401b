"""The decoder's layers around our own kernels: what model.py computes, faster.

The kernels were measured on NVIDIA's Hopper GPUs (H100, H200) and are used there alone;
elsewhere torch.compile makes its own of the plain layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import ModelConfig
from utils.kernels.attention import HEAD_SIZES, causal_attention
from utils.kernels.residual_norm import Branch, residual_norm

HOPPER = 9  # major compute capability
KEYS = 4  # of dropout in a layer: attention, two branches; one fills up 16 bytes


def kernels_fit(shape: ModelConfig, device: torch.device) -> bool:
    """Whether these kernels serve a model of this shape on this device."""
    return (
        device.type == "cuda"
        and torch.version.hip is None  # AMD counts its capabilities otherwise
        and torch.cuda.get_device_capability(device)[0] == HOPPER
        and shape.hidden_size // shape.num_heads in HEAD_SIZES
    )


class FusedDecoder:
    """Calls a decoder of pre-norm layers, in training and validation, under bf16 autocast.

    A layer's last branch is added by the layer after it, where it is normalised; the last layer's
    by the final norm. Dropout is a hash of keys that are drawn anew for every training pass.
    """

    def __init__(self, decoder: nn.TransformerDecoder, dropout: float) -> None:
        assert isinstance(decoder.norm, nn.LayerNorm)
        self.layers, self.norm, self.dropout = decoder.layers, decoder.norm, dropout
        device = decoder.norm.weight.device
        self.keys = torch.zeros(len(self.layers) + 1, KEYS, dtype=torch.int32, device=device)
        # The first layer has nothing to add. It shares the others' compiled code if that nothing is
        # of the same kind: a parameter with a gradient, which nobody reads.
        self._nothing = nn.Parameter(torch.zeros_like(decoder.norm.bias))
        # Combined, the casts of a layer's weights start as few kernels instead of one each.
        self._layer = torch.compile(fused_layer, options={"combo_kernels": True})

    def __call__(self, x: Tensor) -> Tensor:
        """The final norm's output for bf16 `x` (B, T, C), in bf16; tokens see those up to them."""
        if self.norm.training:
            self.keys.random_()
        branch = Branch(self._nothing.to(x.dtype).expand_as(x).contiguous(), self._nothing)
        for layer, keys in zip(self.layers, self.keys, strict=False):
            x, branch = self._layer(layer, x, branch, keys)
        dropout = self.dropout if self.norm.training else 0.0
        return residual_norm(x, branch, self.norm, dropout, self.keys[-1, 1])[1]


def fused_layer(
    layer: nn.TransformerDecoderLayer, x: Tensor, branch: Branch, keys: Tensor
) -> tuple[Tensor, Branch]:
    """Pass the stream `x` (B, T, C) and the `branch` to be added to it through a layer.

    Returns the stream, and the branch of the feed-forward block. `keys` is (KEYS,) int32.
    """
    attention = layer.self_attn
    dropout, attention_dropout = layer.dropout1.p, attention.dropout
    if not layer.training:
        dropout = attention_dropout = 0.0
    x, normed = residual_norm(x, branch, layer.norm1, dropout, keys[1])
    packed = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias.detach())
    mixed = causal_attention(
        packed, attention.in_proj_bias, attention.num_heads, attention_dropout, keys
    )
    attended = Branch(F.linear(mixed, attention.out_proj.weight), attention.out_proj.bias)
    x, normed = residual_norm(x, attended, layer.norm2, dropout, keys[2])
    hidden = layer.activation(layer.linear1(normed))
    return x, Branch(F.linear(hidden, layer.linear2.weight), layer.linear2.bias)
