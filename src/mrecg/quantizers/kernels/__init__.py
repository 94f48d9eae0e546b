"""The element-wise parts of an optimization step and of a range search.

They are compiled C on the CPU where there is a compiler, Triton on a CUDA device where it is installed, else torch operators.
"""

import torch

from mrecg.quantizers.kernels import compilation, fused
from mrecg.quantizers.kernels.formulas import GAMMA, INSIDE, ZETA
from mrecg.quantizers.kernels.functions import (
    Slope,
    fake_quantize,
    grid_errors,
    soft_rounding,
    squared_error,
)
from mrecg.quantizers.kernels.strides import match_strides

__all__ = [
    "GAMMA",
    "INSIDE",
    "ZETA",
    "Slope",
    "computed_by",
    "fake_quantize",
    "fit",
    "grid_errors",
    "match_strides",
    "soft_rounding",
    "squared_error",
]


def fit(tensor: torch.Tensor) -> bool:
    """Return whether compiled kernels take a tensor's number format as it is."""
    return compilation.fits(tensor) or fused.fits(tensor)


def computed_by(device: torch.device) -> str:
    """Return what has computed float32 numbers on a device: `native`, `triton` or `torch`."""
    if device.type == "cuda":
        return "triton" if fused.fits(torch.empty(0, device=device)) else "torch"
    return "native" if compilation.are_loaded() else "torch"
