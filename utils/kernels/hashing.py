"""A hash of 32-bit integers inside Triton kernels; utils/dropout.py has the same in torch."""

import triton
import triton.language as tl


@triton.jit
def scrambled(x):
    """See utils.dropout.scrambled."""
    return _multiplied(x ^ ((x >> 16) & 0xFFFF))


@triton.jit
def _multiplied(x):
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    return x * -2073254261


@triton.jit
def row_keys(key, head, rows):
    """Keys (rows,) of a head's score rows. `key` points to the key of all heads."""
    return scrambled(scrambled(tl.load(key) + head) + rows)


@triton.jit
def keeps(row_keys, columns, threshold):
    """Which scores to keep: the shapes of `row_keys` and `columns`, broadcast."""
    return _multiplied(row_keys ^ columns * 0x1E3779B1) < threshold  # row keys are mixed already


@triton.jit
def keeps_positions(key, positions, threshold):
    """Which of all values to keep: utils.dropout.hash_dropout's choice at int64 `positions`."""
    key = tl.load(key)
    return scrambled(positions.to(tl.int32) * (key | 1) + key) < threshold
