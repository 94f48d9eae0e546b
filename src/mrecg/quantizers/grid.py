"""A real tensor on a grid of integers, and back."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "SMALLEST_SCALE",
    "Grid",
    "Neighbours",
    "Scaling",
    "bias_step",
    "container_shift",
    "dequantize",
    "neighbours",
    "quantize",
    "scaling_for_range",
]

SMALLEST_SCALE = 1e-8


class Grid(NamedTuple):
    """The integers that a code may take.

    Attributes:
        low: the smallest code.
        high: the largest code.
        symmetric: whether the zero point is 0.
    """

    low: int
    high: int
    symmetric: bool

    @property
    def dtype(self) -> torch.dtype:
        """The smallest integer type that holds the grid."""
        for dtype in (torch.uint8, torch.int8, torch.int16):
            bounds = torch.iinfo(dtype)
            if bounds.min <= self.low and self.high <= bounds.max:
                return dtype
        return torch.int32


class Scaling(NamedTuple):
    """Real value of a code: `(code − zero_point) · scale`; shapes broadcast against the tensor."""

    scale: Float[Tensor, "..."]
    zero_point: Float[Tensor, "..."]


class Neighbours(NamedTuple):
    """The two codes that each element of a tensor lies between.

    Attributes:
        below: the lower code, as float; the other is the next.
        value: its real value.
        step: how much more the other is worth; 0 outside the grid, where there is no choice.
        fraction: of the step, from the lower value to the element.
    """

    below: Float[Tensor, "..."]
    value: Float[Tensor, "..."]
    step: Float[Tensor, "..."]
    fraction: Float[Tensor, "..."]


def quantize(x: Float[Tensor, "..."], scaling: Scaling, grid: Grid) -> Float[Tensor, "..."]:
    """Codes of `x`, as floats: `clip(⌊x / s⌉ + z, low, high)`, rounding half to even like ONNX."""
    return torch.clamp(torch.round(x / scaling.scale) + scaling.zero_point, grid.low, grid.high)


def dequantize(codes: Float[Tensor, "..."], scaling: Scaling) -> Float[Tensor, "..."]:
    """The real values of `codes`."""
    return (codes - scaling.zero_point) * scaling.scale


def neighbours(x: Float[Tensor, "..."], scaling: Scaling, grid: Grid) -> Neighbours:
    """The codes that `x` may be rounded to."""
    ratio = x / scaling.scale
    floor = torch.floor(ratio)
    lowest, highest = grid.low - scaling.zero_point, grid.high - scaling.zero_point
    has_choice = (floor >= lowest) & (floor < highest)
    below = floor.clamp(lowest, highest)
    return Neighbours(
        below + scaling.zero_point,
        below * scaling.scale,
        has_choice * scaling.scale,
        ratio - floor,
    )


def scaling_for_range(low: Float[Tensor, "..."], high: Float[Tensor, "..."], grid: Grid) -> Scaling:
    """The scaling that maps the range `[min(low, 0), max(high, 0)]` onto the grid; zero is a grid point.

    A range of width zero gets the smallest scale, so that its codes are the zero point.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.symmetric:
        # A narrow or positive-only grid has no room below zero: only its upper end decides there.
        reach = torch.maximum(
            high / grid.high, low / min(grid.low, -1) if grid.low < 0 else low * 0
        )
        scale = reach.clamp(min=SMALLEST_SCALE)
        return Scaling(scale, torch.zeros_like(scale))
    scale = ((high - low) / (grid.high - grid.low)).clamp(min=SMALLEST_SCALE)
    zero_point = torch.clamp(grid.low - torch.round(low / scale), grid.low, grid.high)
    return Scaling(scale, zero_point)


def container_shift(low: int, high: int) -> int:
    """By how many binary digits the codes of a narrow weight grid may be moved up inside an 8-bit word.

    Up to 7 bits are used: products of such weights with 8-bit activations never saturate, on any CPU.
    """
    return max(0, 6 - (high - low).bit_length())


def bias_step(
    activation_scale: Float[Tensor, ""], weight_scale: Float[Tensor, " channels"], grid: Grid
) -> Float[Tensor, " channels"]:
    """What 1 in a 32-bit accumulator is worth, with the weight's codes moved up in their 8-bit words."""
    return activation_scale * (weight_scale * 2.0 ** -container_shift(grid.low, grid.high))
