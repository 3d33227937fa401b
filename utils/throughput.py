"""How fast a model could train at most: its arithmetic for a token, and what a GPU can do."""

import torch

from utils.config import ModelConfig

# Dense bf16 tensor-core FLOP/s with fp32 accumulation, by the name torch gives the device, as
# NVIDIA states them: H100, H200, GH200, B200, A100, L40S and L4 datasheets (half of the figures
# with sparsity), GeForce cards from the Ada and Ampere GA102 whitepapers. A part of a GPU (MIG) or
# a laptop's has another name, and is not here.
PEAK_FLOPS_PER_SECOND = {
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200 480GB": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
}


def flops_per_token(shape: ModelConfig, parameters: int, window: int) -> int:
    """Floating-point operations of training on one token, forward and backward.

    6 N + 12 L H Q T of PaLM (Chowdhery et al. 2022, appendix B) with N as nanoGPT's estimate_mfu
    counts it: all of the model's `parameters` but the position embedding. H Q is the width.
    """
    counted = parameters - shape.max_position_embeddings * shape.hidden_size
    return 6 * counted + 12 * shape.num_layers * shape.hidden_size * window


def peak_tokens_per_second(
    shape: ModelConfig, parameters: int, window: int, device: torch.device
) -> float | None:
    """What training would reach if `device` did nothing but that arithmetic in bf16.

    Tokens a second divided by this are the model FLOP/s utilization (MFU). None on the CPU, and
    on a GPU whose peak is not known.
    """
    if device.type != "cuda":
        return None
    peak = PEAK_FLOPS_PER_SECOND.get(torch.cuda.get_device_name(device))
    return None if peak is None else peak / flops_per_token(shape, parameters, window)
