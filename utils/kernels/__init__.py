"""Triton kernels for the GPU, each beside the plain torch function that it replaces.

They need the triton package, which comes with torch's CUDA builds for Linux: ask `AVAILABLE`
before importing one.
"""

import importlib.util

AVAILABLE = importlib.util.find_spec("triton") is not None
