"""Grids: the real values that integer codes stand for."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers.frozen import FrozenActivation, FrozenWeight

__all__ = [
    "SMALLEST_SCALE",
    "Grid",
    "RangeSearch",
    "RoundingNeighbors",
    "Scaling",
    "UniformGrid",
    "accumulator_scale",
    "container_shift",
    "scaling_for_range",
    "usable_scale",
]

SMALLEST_SCALE = 2.0**-60
"""The product of two, the scale of an accumulator, is still a normal 32-bit float."""
_SCALE_OF_ZEROS = 1e-8
"""Where all values are zero, any scale is right."""


class Scaling(NamedTuple):
    """Scale and zero point; a code's real value is `(code − zero_point) · scale`. Shapes broadcast against the tensor."""

    scale: Float[Tensor, "..."]
    zero_point: Float[Tensor, "..."]


class RoundingNeighbors(NamedTuple):
    """The two codes that each element of a tensor may be rounded to.

    Attributes:
        below: the lower code, as float; the upper one is `below + 1`.
        value: the real value of `below`.
        gap: by how much the upper value is larger; 0 outside the grid, where there is no choice.
        fraction: position of the element between the two values, 0 at the lower, 1 at the upper.
    """

    below: Float[Tensor, "..."]
    value: Float[Tensor, "..."]
    gap: Float[Tensor, "..."]
    fraction: Float[Tensor, "..."]


class Grid(ABC):
    """Integer codes in a range, and the real value of each under a `Scaling`.

    Attributes:
        low, high: the smallest and the largest code.
        symmetric: whether the zero point is fixed.
        is_uniform: whether values are multiples of a scale, which can then be learned and which integer hardware adds.
    """

    low: int
    high: int
    symmetric: bool
    is_uniform: ClassVar[bool]

    @property
    def dtype(self) -> torch.dtype:
        """Return the smallest integer type that holds every code."""
        for dtype in (torch.uint8, torch.int8, torch.int16):
            bounds = torch.iinfo(dtype)
            if bounds.min <= self.low and self.high <= bounds.max:
                return dtype
        return torch.int32

    @abstractmethod
    def quantize(self, x: Tensor, scaling: Scaling) -> Tensor:
        """Return the codes of `x`, as floats."""

    @abstractmethod
    def dequantize(self, codes: Tensor, scaling: Scaling) -> Tensor:
        """Return the real values of `codes`."""

    @abstractmethod
    def neighbors(self, x: Tensor, scaling: Scaling) -> RoundingNeighbors:
        """Return the two codes that each element of `x` may be rounded to."""

    @abstractmethod
    def calibrate(self, values: Tensor, search: "RangeSearch") -> Scaling:
        """Return the scaling of each row of `values` (shape `c n`): by `search`, unless the grid leaves no choice."""

    @abstractmethod
    def freeze_weight(self, codes: Tensor, scaling: Scaling) -> nn.Module:
        """Return a module without inputs that gives the real values of `codes`."""

    @abstractmethod
    def freeze_activation(self, scaling: Scaling) -> nn.Module:
        """Return a module that quantizes and dequantizes its input."""


RangeSearch = Callable[[Tensor, "UniformGrid"], Scaling]
"""Values of shape `c n` and a grid to a scaling of shape `c`."""


@final
@dataclass(frozen=True)
class UniformGrid(Grid):
    """Codes whose values are equally spaced: `(code − zero_point) · scale`."""

    low: int
    high: int
    symmetric: bool
    is_uniform: ClassVar[bool] = True

    def quantize(self, x: Float[Tensor, "..."], scaling: Scaling) -> Float[Tensor, "..."]:
        """Return `clip(⌊x / s⌉ + z, low, high)`, rounding half to even like ONNX."""
        return torch.clamp(torch.round(x / scaling.scale) + scaling.zero_point, self.low, self.high)

    def dequantize(self, codes: Float[Tensor, "..."], scaling: Scaling) -> Float[Tensor, "..."]:
        return (codes - scaling.zero_point) * scaling.scale

    def neighbors(self, x: Float[Tensor, "..."], scaling: Scaling) -> RoundingNeighbors:
        ratio = x / scaling.scale
        floor = torch.floor(ratio)
        lowest, highest = self.low - scaling.zero_point, self.high - scaling.zero_point
        has_choice = (floor >= lowest) & (floor < highest)
        below = floor.clamp(lowest, highest)
        return RoundingNeighbors(
            below + scaling.zero_point,
            below * scaling.scale,
            has_choice * scaling.scale,
            ratio - floor,
        )

    def calibrate(self, values: Float[Tensor, "c n"], search: RangeSearch) -> Scaling:
        return search(values, self)

    def freeze_weight(self, codes: Float[Tensor, "..."], scaling: Scaling) -> nn.Module:
        return FrozenWeight(codes, *scaling, self.low, self.high, self.dtype)

    def freeze_activation(self, scaling: Scaling) -> nn.Module:
        return FrozenActivation(
            float(scaling.scale), int(scaling.zero_point), self.low, self.high, self.dtype
        )

    def limits(self, scaling: Scaling) -> tuple[float, float]:
        """Return the range of `code − zero_point` of a scalar scaling.

        Clipping there saves adding the zero point and subtracting it again. Reading it makes the host wait for a GPU.
        """
        zero_point = float(scaling.zero_point)
        return self.low - zero_point, self.high - zero_point


def scaling_for_range(
    low: Float[Tensor, "..."], high: Float[Tensor, "..."], grid: UniformGrid
) -> Scaling:
    """Return the scaling that maps `[min(low, 0), max(high, 0)]` onto the grid; zero is a grid point.

    On a symmetric grid the scale is max|x| / ((highest code − lowest code) / 2), as in PyTorch's observers: at −2 … 1 an end
    is 1.5 scales from zero, and rounding it costs half a scale, as for any other value. The codes of a range of width zero
    are the zero point.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.symmetric:
        if -1 <= grid.low + grid.high <= 0:
            reach = 2 * torch.maximum(-low, high) / (grid.high - grid.low)
        else:
            # As many codes on either side are not there: each end has its own, and a grid from zero has no lower one.
            reach = torch.maximum(high / grid.high, low / grid.low if grid.low < 0 else low * 0)
        scale = usable_scale(reach)
        return Scaling(scale, torch.zeros_like(scale))
    scale = usable_scale((high - low) / (grid.high - grid.low))
    zero_point = torch.clamp(grid.low - torch.round(low / scale), grid.low, grid.high)
    return Scaling(scale, zero_point)


def usable_scale(scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return a scale that one can divide by: that of a range of width zero is replaced."""
    return torch.where(scale > 0, scale.clamp(min=SMALLEST_SCALE), _SCALE_OF_ZEROS)


def container_shift(low: int, high: int) -> int:
    """Return by how many binary digits the codes of a narrow weight grid can be shifted left in an 8-bit word.

    At most 7 bits are used: products of such weights with 8-bit activations never saturate, on any CPU.
    """
    return max(0, 6 - (high - low).bit_length())


def accumulator_scale(
    activation_scale: Float[Tensor, ""], weight_scale: Float[Tensor, " channels"], grid: Grid
) -> Float[Tensor, " channels"]:
    """Return the real value of 1 in a 32-bit accumulator, the weight's codes shifted left in their 8-bit words."""
    return activation_scale * (weight_scale * 2.0 ** -container_shift(grid.low, grid.high))
