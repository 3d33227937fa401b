"""Dropout whose mask is a hash of a key and the position.

No random state moves, and a hash is many times cheaper than the ten rounds of Philox behind torch's
own dropout. The attention kernels hash again on the way back instead of storing a mask; elsewhere
torch stores what it needs.
"""

import torch
from torch import Tensor


def scrambled(x: Tensor) -> Tensor:
    """int32 to int32; the high bits of the result depend on all bits of the input.

    Source: "lowbias32" of Chris Wellons' hash prospector, whose last shift only low bits would see.
    Products wrap around; shifts are made logical by masks.
    """
    return _multiplied(x ^ ((x >> 16) & 0xFFFF))


def _multiplied(x: Tensor) -> Tensor:
    """The two products of the hash: enough for inputs whose bits are mixed already."""
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    return x * -2073254261  # 0x846CA68B


def keep_threshold(probability: float) -> int:
    """Hashes below it are kept when each value is dropped with `probability`."""
    return min(round((1 - probability) * 2**32) - 2**31, 2**31 - 1)


def hash_dropout(x: Tensor, probability: float, key: Tensor) -> Tensor:
    """`x` with about this share of its values at 0 and the others scaled up to make up for it.

    `key`, one int32, decides which: the same key drops the same positions.
    """
    if not probability:
        return x
    positions = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    # A factor of their own keeps two keys' masks from being one sequence, shifted.
    is_kept = scrambled(positions * (key | 1) + key) < keep_threshold(probability)
    return torch.where(is_kept, x * (1 / (1 - probability)), 0.0)


def score_mask(key: Tensor, heads: int, tokens: int, probability: float) -> Tensor:
    """The mask of the attention kernel: (heads, T, T), true where a weight is kept.

    `heads` counts those of all rows of a batch. The referee of utils/kernels/attention.py.
    """
    rows = torch.arange(tokens, dtype=torch.int32, device=key.device)
    of_head = scrambled(key + torch.arange(heads, dtype=torch.int32, device=key.device))
    of_row = scrambled(of_head[:, None] + rows)
    return _multiplied(of_row[:, :, None] ^ rows * 0x1E3779B1) < keep_threshold(probability)
