"""A decoder layer around our attention kernel: what model.py computes, faster.

The kernels were measured on NVIDIA's Hopper GPUs (H100, H200) and are used there alone;
elsewhere torch.compile makes its own of the plain layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config import ModelConfig
from utils.dropout import hash_dropout
from utils.kernels.attention import HEAD_SIZES, causal_attention

HOPPER = 9  # major compute capability
KEYS = 4  # of a layer's dropout: attention's, the two residual branches'; one fills 16 bytes


def kernels_fit(shape: ModelConfig, device: torch.device) -> bool:
    """Whether these kernels serve a model of this shape on this device."""
    return (
        device.type == "cuda"
        and torch.version.hip is None  # AMD counts its capabilities otherwise
        and torch.cuda.get_device_capability(device)[0] == HOPPER
        and shape.hidden_size // shape.num_heads in HEAD_SIZES
    )


def fused_layer(
    layer: nn.TransformerDecoderLayer, x: Tensor, attention_dropout: float, keys: Tensor
) -> Tensor:
    """The layer's output for bf16 `x` (B, T, C), in bf16, every token seeing those up to itself.

    Under autocast, which casts the weights. Dropout follows `keys` (KEYS,) int32.
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
    y = layer.linear2(layer.activation(layer.linear1(layer.norm2(x))))
    return x + hash_dropout(y, dropout, keys[2])
