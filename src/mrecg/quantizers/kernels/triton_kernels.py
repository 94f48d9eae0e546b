"""Fake quantization and soft rounding as Triton kernels: what `kernels.c` is for the CPU. Importing this needs Triton.

Formulas, their sources and their names are those of formulas.py. Tensors are read as flat memory, with 64-bit offsets; sums are
taken in parts of fixed size and never by atomic additions, so that the same tensors give the same bits. Values are computed in
float32, also where they are stored in fewer bits.
"""

from typing import no_type_check  # its annotations and values are Triton's, not Python's

import triton
import triton.language as tl

from mrecg.quantizers.kernels import formulas

__all__ = [
    "adam",
    "fake_quantize",
    "fake_quantize_backward",
    "soft_rounding",
    "soft_rounding_backward",
    "squared_error",
]

LOWEST, HIGHEST = tl.constexpr(formulas.INSIDE[0]), tl.constexpr(formulas.INSIDE[1])
SMALLEST_SQUARE = tl.constexpr(formulas.SMALLEST_SQUARE)
NO_FRACTIONS = tl.constexpr(1.5 * 2**23)
"""A float32 whose neighbors are integers: adding it rounds."""


@triton.jit
@no_type_check
def _clip(x, low, high):
    return tl.where(x < low, low, tl.where(x > high, high, x))  # a NaN stays one


@triton.jit
@no_type_check
def _code(ratio, lowest, highest):
    # Bounds are integers, so clipping may come before rounding; then the addition rounds, half to even.
    return (_clip(ratio, lowest, highest) + NO_FRACTIONS) - NO_FRACTIONS


@triton.jit
@no_type_check
def _load(pointers, exist):
    return tl.load(pointers, mask=exist, other=0).to(tl.float32)


@triton.jit
@no_type_check
def _ratio(clipped, keep, scale, places, exist):
    ratio = tl.div_rn(clipped, scale)  # a plain division is approximate
    if keep is not None:
        ratio = ratio * _load(keep + places, exist)
    return ratio


@triton.jit
@no_type_check
def fake_quantize(
    x, keep, scale, quantized, size, lowest, highest, floor, ceiling, block: tl.constexpr
):
    """Quantize and dequantize a block of `size` values; `keep` is a pointer or `None`, `scale` a pointer."""
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exist = places < size
    step = tl.load(scale)
    clipped = _clip(_load(x + places, exist), floor, ceiling)
    ratio = _ratio(clipped, keep, step, places, exist)
    code = _code(ratio, lowest, highest)
    if keep is None:
        tl.store(quantized + places, code * step, mask=exist)
    else:
        tl.store(quantized + places, clipped + (code - ratio) * step, mask=exist)


@triton.jit
@no_type_check
def fake_quantize_backward(
    gradient,
    x,
    unit,
    keep,
    scale,
    of_x,
    sums,
    size,
    lowest,
    highest,
    floor,
    ceiling,
    block: tl.constexpr,
):
    """Store a block of the gradient of x, and the block's part of the gradient of the scale's factor in `sums`."""
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exist = places < size
    value = _load(x + places, exist)
    slope = _load(gradient + places, exist)
    ratio = _ratio(_clip(value, floor, ceiling), keep, tl.load(scale), places, exist)
    outside = (ratio <= lowest - 0.5) | (ratio >= highest + 0.5)
    passed = tl.where(outside, 0.0, slope)
    is_clipped = (value <= floor) | (value >= ceiling)
    tl.store(of_x + places, tl.where(is_clipped, 0.0, passed), mask=exist)
    part = tl.sum(slope * _code(ratio, lowest, highest) - passed * ratio, axis=0)
    tl.store(sums + tl.program_id(0), part * tl.load(unit))


@triton.jit
@no_type_check
def soft_rounding(alpha, base, span, delta, soft, size, stride, per_level, block: tl.constexpr):
    """Round a row of `size` weights; rows have deltas of their own (`stride` 1) or share one (`stride` 0)."""
    row = tl.program_id(0).to(tl.int64)
    factor = 1 + tl.load(delta + row * stride) * per_level
    first = 0
    while first < size:
        columns = first + tl.arange(0, block)
        exist = columns < size
        places = row * size + columns
        sigmoid = tl.sigmoid(_load(alpha + places, exist))
        change = _load(span + places, exist) * _clip(sigmoid, LOWEST, HIGHEST)
        rounded = _load(base + places, exist) + change
        tl.store(soft + places, rounded * factor, mask=exist)
        first += block


@triton.jit
@no_type_check
def soft_rounding_backward(
    gradient,
    alpha,
    base,
    span,
    delta,
    of_alpha,
    of_rows,
    size,
    stride,
    per_level,
    strength,
    exponent,
    penalized: tl.constexpr,
    by_pointer: tl.constexpr,
    block: tl.constexpr,
):
    """Store a row of the gradient of α, and the gradient of its scale delta; penalty as numbers or pointers to them."""
    row = tl.program_id(0).to(tl.int64)
    factor = 1 + tl.load(delta + row * stride) * per_level
    if by_pointer:
        strength = tl.load(strength)
        exponent = tl.load(exponent)
    sums = tl.zeros([block], tl.float32)
    first = 0
    while first < size:
        columns = first + tl.arange(0, block)
        exist = columns < size
        places = row * size + columns
        slope = _load(gradient + places, exist)
        width = _load(span + places, exist)
        sigmoid = tl.sigmoid(_load(alpha + places, exist))
        change = width * _clip(sigmoid, LOWEST, HIGHEST)
        sums += slope * (_load(base + places, exist) + change)
        of_sigmoid = slope * factor * width
        if penalized:
            distance = sigmoid - 0.5
            logarithm = tl.log2(distance * distance + SMALLEST_SQUARE)
            of_sigmoid -= strength * distance * tl.exp2(exponent * logarithm)
        outside = (sigmoid <= LOWEST) | (sigmoid >= HIGHEST)
        of_sigmoid = tl.where(outside, 0.0, of_sigmoid)
        tl.store(of_alpha + places, of_sigmoid * sigmoid * (1 - sigmoid), mask=exist)
        first += block
    tl.store(of_rows + row, tl.sum(sums, axis=0) * per_level)


@triton.jit
@no_type_check
def squared_error(output, target, slope, sums, size, weight, block: tl.constexpr):
    """Store a block of 2 · weight · (output − target), and the block's sum of squared differences in `sums`."""
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exist = places < size
    difference = _load(output + places, exist) - _load(target + places, exist)
    tl.store(slope + places, 2 * weight * difference, mask=exist)
    tl.store(sums + tl.program_id(0), tl.sum(difference * difference, axis=0))


@triton.jit
@no_type_check
def adam(
    parameter,
    gradient,
    mean,
    square,
    step,
    rate,
    size,
    beta1: tl.constexpr,
    beta2: tl.constexpr,
    log_beta1: tl.constexpr,
    log_beta2: tl.constexpr,
    eps: tl.constexpr,
    block: tl.constexpr,
):
    """Take a block's step with gradients that are finite or count as 0; `step` and `rate` are pointers."""
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exist = places < size
    taken = tl.load(step).to(tl.float64)  # 1 - 0.999 has few digits in float32
    of_mean = (1 - tl.exp(taken * log_beta1)).to(tl.float32)
    of_square = (1 - tl.exp(taken * log_beta2)).to(tl.float32)
    slope = _load(gradient + places, exist)
    slope = tl.where(tl.abs(slope) < float("inf"), slope, 0.0)
    first = beta1 * _load(mean + places, exist) + (1 - beta1) * slope
    second = beta2 * _load(square + places, exist) + (1 - beta2) * slope * slope
    tl.store(mean + places, first, mask=exist)
    tl.store(square + places, second, mask=exist)
    change = tl.load(rate) / of_mean * first / (tl.sqrt(second) / tl.sqrt(of_square) + eps)
    tl.store(parameter + places, _load(parameter + places, exist) - change, mask=exist)
