"""The element-wise parts of an optimization step and of a range search: compiled C on the CPU where there is a compiler, else torch operators."""

from mrecg.quantizers.kernels.compilation import are_loaded
from mrecg.quantizers.kernels.formulas import GAMMA, INSIDE, ZETA
from mrecg.quantizers.kernels.functions import Slope, fake_quantize, grid_errors, soft_rounding
from mrecg.quantizers.kernels.strides import match_strides

__all__ = [
    "GAMMA",
    "INSIDE",
    "ZETA",
    "Slope",
    "are_loaded",
    "fake_quantize",
    "grid_errors",
    "match_strides",
    "soft_rounding",
]
