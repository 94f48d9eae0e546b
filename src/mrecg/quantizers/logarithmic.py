"""The logarithmic grid of NNIE, ±2^((q + z) / 16): sixteen codes per octave.

Source: `NNIEFakeQuantize` of MQBench. The integer z puts the largest value of the grid at the largest element of a tensor,
in logarithms: `z = ⌊16 log2(max |x|)⌉ − 127`. A positive element has the logarithm q from 0 to 127, a negative one from 1 to
127; the eighth bit is the sign, and the remaining pattern, a negative 0, means zero.

A code is q for positive values and −1 − q, its complement, for the others. So codes ascend with their values, zero is
−1, and the two roundings of a number are neighboring codes, as on any other grid. In a `Scaling` the scale is the smallest
positive value, 2^(z / 16), and the zero point −1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from mrecg.quantizers.activation import ActivationQuantizer, Bounds, FakeQuantizer
from mrecg.quantizers.grid import (
    SMALLEST_SCALE,
    Grid,
    RangeSearch,
    RoundingNeighbors,
    Scaling,
)
from mrecg.quantizers.qdrop import RandomMask

__all__ = [
    "FrozenLogarithmicActivation",
    "FrozenLogarithmicWeight",
    "LogarithmicGrid",
    "LogarithmicQuantizer",
    "Logarithms",
    "logarithmic_scaling",
]

_LOW, _HIGH = -128, 127
ZERO = -1
"""The code of zero."""
_TO_AN_OCTAVE = 16


@final
@dataclass(frozen=True)
class LogarithmicGrid(Grid):
    """Codes whose values are powers of two to the sixteenth; each tensor has one z, that its largest element decides."""

    low: int = _LOW
    high: int = _HIGH
    symmetric: bool = True
    is_uniform: ClassVar[bool] = False

    def quantize(self, x: Float[Tensor, "*shape"], scaling: Scaling) -> Float[Tensor, "*shape"]:
        return Logarithms.of(scaling).quantize(x)

    def dequantize(
        self, codes: Float[Tensor, "*shape"], scaling: Scaling
    ) -> Float[Tensor, "*shape"]:
        return Logarithms.of(scaling).dequantize(codes)

    def neighbors(self, x: Float[Tensor, "*shape"], scaling: Scaling) -> RoundingNeighbors:
        return Logarithms.of(scaling).neighbors(x)

    def calibrate(self, values: Float[Tensor, "c n"], search: RangeSearch) -> Scaling:
        return logarithmic_scaling(values.abs().amax(dim=1))

    def freeze_weight(self, codes: Float[Tensor, "..."], scaling: Scaling) -> nn.Module:
        return FrozenLogarithmicWeight(codes, Logarithms.of(scaling))

    def freeze_activation(self, scaling: Scaling) -> nn.Module:
        return FrozenLogarithmicActivation(Logarithms.of(scaling))


def logarithmic_scaling(largest: Float[Tensor, "*tensors"]) -> Scaling:
    """Return the scaling for tensors of that largest magnitude; no scale is below the smallest that other grids have."""
    exponent = torch.round(_TO_AN_OCTAVE * torch.log2(largest.double())) - _HIGH
    smallest = torch.tensor(SMALLEST_SCALE, dtype=torch.float64, device=largest.device)
    exponent = exponent.maximum(torch.ceil(_TO_AN_OCTAVE * torch.log2(smallest)))
    scale = torch.exp2(exponent / _TO_AN_OCTAVE).to(largest.dtype)
    return Scaling(scale, torch.full_like(scale, ZERO))


@dataclass(frozen=True)
class Logarithms:
    """The values of one tensor's codes. Everything is computed in double precision, so that results are exact to the last digit.

    Attributes:
        exponent: z.
    """

    exponent: float

    @classmethod
    def of(cls, scaling: Scaling) -> "Logarithms":
        """Return the values whose smallest positive one is the scale, a single one."""
        return cls(float(torch.round(_TO_AN_OCTAVE * torch.log2(scaling.scale.double()))))

    def quantize(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the codes of `x`, as floats: nearest in logarithms, zero below half of the smallest value."""
        logarithm = self._logarithm(x)
        codes = torch.where(x < 0, ZERO - logarithm, logarithm)
        return torch.where(self._is_small(x), ZERO, codes).to(x.dtype)

    def dequantize(self, codes: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the real values of `codes`."""
        logarithm = torch.where(codes < 0, ZERO - codes, codes)
        return torch.where(codes == ZERO, 0, self._power(logarithm, sign=codes)).to(codes.dtype)

    def round(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the real values of the codes of `x`, in fewer passes over memory."""
        nearest = self._power(self._logarithm(x), sign=x)
        return torch.where(self._is_small(x), 0, nearest).to(x.dtype)

    def neighbors(self, x: Float[Tensor, "*shape"]) -> RoundingNeighbors:
        """Return the codes that `x` may be rounded to."""
        nearest = self.quantize(x)
        below = (nearest - (self.dequantize(nearest) > x).to(x.dtype)).clamp(min=_LOW)
        value = self.dequantize(below)
        above = self.dequantize((below + 1).clamp(max=_HIGH))
        gap = torch.where((value <= x) & (x < above), above - value, 0)
        return RoundingNeighbors(below, value, gap, (x - value) / torch.where(gap > 0, gap, 1))

    def _logarithm(self, x: Tensor) -> Tensor:
        """Return the nearest q; of a negative number at least 1."""
        nearest: Tensor = torch.round(_TO_AN_OCTAVE * torch.log2(x.abs().double()) - self.exponent)
        return nearest.maximum((x < 0).double()).clamp(max=_HIGH)

    def _power(self, logarithm: Tensor, sign: Tensor) -> Tensor:
        magnitude = torch.exp2((logarithm.double() + self.exponent) / _TO_AN_OCTAVE)
        return torch.copysign(magnitude, sign)

    def _is_small(self, x: Tensor) -> Tensor:
        """Return whether x is no further from zero than half of the smallest value of its sign.

        MQBench returns the positive bound itself as it is, although it is no value of the grid.
        """
        positive = math.exp2(self.exponent / _TO_AN_OCTAVE - 1)
        negative = -math.exp2((self.exponent + 1) / _TO_AN_OCTAVE - 1)
        return (negative <= x.double()) & (x.double() <= positive)


class FrozenLogarithmicWeight(nn.Module):
    """A weight as codes and a table of values; part of a finished model.

    Attributes:
        codes: in the shape of the weight.
        values: the real value of every code, from the lowest.
    """

    codes: Integer[Tensor, "..."]
    values: Float[Tensor, " codes"]

    def __init__(self, codes: Float[Tensor, "..."], levels: Logarithms) -> None:
        super().__init__()
        self.register_buffer("codes", codes.to(torch.int8))
        every = torch.arange(_LOW, _HIGH + 1, device=codes.device, dtype=codes.dtype)
        self.register_buffer("values", levels.dequantize(every))

    def forward(self) -> Float[Tensor, "..."]:
        return self.values[self.codes.int() - _LOW]


class _StraightThrough(torch.autograd.Function):
    """Rounds to the grid where `keep` is 1, true or absent; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Logarithms, keep: Tensor | None) -> Tensor:
        rounded = levels.round(x)
        return rounded if keep is None else torch.where(keep.bool(), rounded, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class FrozenLogarithmicActivation(nn.Module):
    """An activation quantizer of a finished model.

    Attributes:
        levels: its grid.
    """

    def __init__(self, levels: Logarithms) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.levels.round(x)


@final
@dataclass(frozen=True)
class LogarithmicQuantizer(ActivationQuantizer):
    """Quantizes one tensor to logarithms. Nothing is learned: z is an integer that the largest element decides."""

    grid: LogarithmicGrid = LogarithmicGrid()
    prescribed: None = None

    def fix(self, scaling: Scaling) -> FakeQuantizer:
        return _AtLevels(scaling, Logarithms.of(scaling), None)

    def learn(
        self, scaling: Scaling, mask: RandomMask | None, relative: bool = True
    ) -> FakeQuantizer:
        return _AtLevels(scaling, Logarithms.of(scaling), mask)


@final
@dataclass(frozen=True)
class _AtLevels(FakeQuantizer):
    """Rounds to the levels of one scaling; where a mask is 0 the tensor stays float."""

    scaling: Scaling
    levels: Logarithms
    mask: RandomMask | None

    def __call__(self, x: Float[Tensor, "*shape"], bounds: Bounds) -> Float[Tensor, "*shape"]:
        assert bounds is None, "only uniform quantizers clip"
        x = x.to(self.scaling.scale.dtype)
        keep = None if self.mask is None else self.mask.like(x)
        quantized: Tensor = _StraightThrough.apply(x, self.levels, keep)  # type: ignore[no-untyped-call]
        return quantized

    def current(self) -> Scaling:
        return self.scaling
