"""A decoder layer and a head of fused kernels: what model.py computes, faster.

The kernels were measured on NVIDIA's Hopper GPUs (H100, H200) and are used there alone; elsewhere
torch.compile makes its own of the plain layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import ModelConfig
from utils.dropout import hash_dropout
from utils.kernels.attention import HEAD_SIZES, causal_attention
from utils.kernels.feed_forward import feed_forward

HOPPER = 9  # major compute capability
KEYS = 4  # of a layer's dropout: attention's, the two residual branches'; one fills 16 bytes
_ALIGNED = 8  # features; tensor descriptors want rows of whole 16 bytes


def kernels_fit(shape: ModelConfig, device: torch.device) -> bool:
    """Whether these kernels serve a model of this shape on this device."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device)[0] == HOPPER
        and shape.hidden_size // shape.num_heads in HEAD_SIZES
        and shape.hidden_size % _ALIGNED == 0
    )


def fused_layer(
    layer: nn.TransformerDecoderLayer, x: Tensor, attention_dropout: float, keys: Tensor
) -> Tensor:
    """The layer's output for bf16 `x` (B, T, C), every token seeing those up to itself.

    Its weights may be of another type. Dropout follows `keys` (KEYS,) int32.
    """
    attention = layer.self_attn
    packed = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias.detach())
    mixed = causal_attention(
        packed,
        attention.in_proj_bias,
        attention.num_heads,
        attention_dropout if layer.training else 0.0,
        keys,
    )
    dropout = layer.dropout1.p if layer.training else 0.0
    x = x + hash_dropout(attention.out_proj(mixed), dropout, keys[1])
    y = feed_forward(layer.norm2(x), layer.linear1.weight, layer.linear1.bias, layer.linear2.weight)
    return x + hash_dropout(y + layer.linear2.bias, dropout, keys[2])
