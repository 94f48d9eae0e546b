"""The element-wise parts of a step on CUDA devices by Triton kernels, one pass over memory in each direction.

torch's builds for CUDA bring Triton; without it, torch's operators compute. As on the CPU nothing is kept for the backward
passes but the arguments. Nothing waits for the device, so that CUDA graphs can hold it.
"""

import importlib
import importlib.util
import math
import os
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mrecg.errors import reason_of
from mrecg.quantizers.kernels.strides import match_strides

__all__ = [
    "adam",
    "are_ready",
    "fake_quantize",
    "fake_quantize_backward",
    "fits",
    "soft_rounding",
    "soft_rounding_backward",
    "squared_error",
]

_DTYPES = (torch.float32, torch.bfloat16)
BLOCK = 1024
"""Values that one program of a kernel works on at once."""


@cache
def _kernels() -> Any:
    return importlib.import_module("mrecg.quantizers.kernels.triton_kernels")


@cache
def are_ready() -> bool:
    """Return whether Triton is installed, and compiles and runs a kernel here; one warning says why it does not.

    Triton launches its kernels by code in C, which needs a compiler and Python's headers; an empty CC means no compiler.
    """
    if importlib.util.find_spec("triton") is None or os.environ.get("CC") == "":
        return False
    try:
        one = torch.ones((), device="cuda")
        fake_quantize(one, None, one, 0, 1, -math.inf, math.inf)
    except Exception as error:  # of Triton, its compilers, the loader or the driver
        warnings.warn(
            "The kernels in Triton could not be compiled and run, so torch's operators compute instead, which takes longer "
            f"({reason_of(error)}); if a C compiler or Python's headers are missing, install them.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def fits(tensor: Tensor) -> bool:
    """Return whether the kernels take a tensor: float32 or bfloat16 on a CUDA device. Compiles one at the first call."""
    return tensor.is_cuda and tensor.dtype in _DTYPES and are_ready()


def fake_quantize(
    x: Tensor,
    keep: Tensor | None,
    scale: Tensor,
    lowest: float,
    highest: float,
    floor: float,
    ceiling: float,
) -> Tensor:
    """Return the quantized and dequantized `x`, clipped to [floor, ceiling] first; `lowest` and `highest` are whole."""
    quantized = torch.empty_like(x)
    x = match_strides(x, quantized)  # which is dense
    keep = None if keep is None else match_strides(keep, quantized)
    numbers = (x.numel(), *map(float, (lowest, highest, floor, ceiling)))
    with torch.cuda.device_of(x):
        _kernels().fake_quantize[_blocks(x),](x, keep, scale, quantized, *numbers, BLOCK)
    return quantized


def fake_quantize_backward(
    gradient: Tensor,
    x: Tensor,
    unit: Tensor,
    keep: Tensor | None,
    scale: Tensor,
    lowest: float,
    highest: float,
    floor: float,
    ceiling: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the scale's factor."""
    of_x, sums = torch.empty_like(x), unit.new_empty(_blocks(x))
    gradient, x = match_strides(gradient, of_x), match_strides(x, of_x)
    keep = None if keep is None else match_strides(keep, of_x)
    numbers = (x.numel(), *map(float, (lowest, highest, floor, ceiling)))
    with torch.cuda.device_of(x):
        _kernels().fake_quantize_backward[len(sums),](
            *(gradient, x, unit, keep, scale, of_x, sums, *numbers, BLOCK)
        )
    return of_x, sums.sum().view_as(unit)


def _blocks(x: Tensor) -> int:
    return -(-x.numel() // BLOCK)


def soft_rounding(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> Tensor:
    """Return the softly rounded weight. Its tensors `lie_in_rows`."""
    soft = torch.empty_like(alpha)
    alpha = match_strides(alpha, soft)
    base, span = match_strides(base, soft), match_strides(span, soft)
    with torch.cuda.device_of(alpha):
        _kernels().soft_rounding[len(alpha),](
            *(alpha, base, span, scale_delta, soft, *_row(alpha, scale_delta), 1 / levels, BLOCK)
        )
    return soft


def soft_rounding_backward(
    gradient: Tensor,
    alpha: Tensor,
    base: Tensor,
    span: Tensor,
    scale_delta: Tensor,
    levels: int,
    strength: float | Tensor,
    exponent: float | Tensor,
    learns_scale: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of α, with the slope of the rounding penalty, and of the scale deltas, learned or not."""
    of_alpha = torch.empty_like(alpha)
    gradient, alpha = match_strides(gradient, of_alpha), match_strides(alpha, of_alpha)
    base, span = match_strides(base, of_alpha), match_strides(span, of_alpha)
    each_row = scale_delta.numel() == len(alpha)
    of_rows = torch.empty_like(scale_delta) if each_row else alpha.new_empty(len(alpha))
    by_pointer = isinstance(strength, Tensor)
    slope = (strength, exponent) if by_pointer else (float(strength), float(exponent))
    with torch.cuda.device_of(alpha):
        _kernels().soft_rounding_backward[len(alpha),](
            *(gradient, alpha, base, span, scale_delta, of_alpha, of_rows),
            *(*_row(alpha, scale_delta), 1 / levels, *slope),
            *(by_pointer or strength != 0, by_pointer, BLOCK),
        )
    return of_alpha, of_rows if each_row else of_rows.sum().view_as(scale_delta)


def _row(weight: Tensor, scale_delta: Tensor) -> tuple[int, int]:
    """Return the length of a row, and the stride of the scale deltas."""
    return weight.numel() // len(weight), int(scale_delta.numel() > 1)


def squared_error(output: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Return `weight · Σ (output − target)²`, and its gradient with respect to the output."""
    slope, sums = torch.empty_like(output), target.new_empty(_blocks(output))
    output, target = match_strides(output, slope), match_strides(target, slope)
    with torch.cuda.device_of(output):
        _kernels().squared_error[len(sums),](
            output, target, slope, sums, output.numel(), weight, BLOCK
        )
    return sums.sum() * weight, slope


def adam(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    rate: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Change a dense parameter and its moments as Adam does in the step of that number, from 1 on.

    Elements of the gradient that are NaN or infinite count as 0.
    """
    gradient = match_strides(gradient, parameter)
    constants = (*betas, *map(math.log, betas), eps, BLOCK)
    with torch.cuda.device_of(parameter):
        _kernels().adam[_blocks(parameter),](
            *(parameter, gradient, mean, square, step, rate, parameter.numel(), *constants)
        )
