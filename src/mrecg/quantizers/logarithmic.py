"""Codes that are logarithms, sixteen to an octave: the grid ±2^((q + z) / 16) of NNIE.

Source: `NNIEFakeQuantize` of MQBench. The integer z places the largest value of the grid at the largest element of a tensor,
in logarithms: `z = ⌊16 log2(max |x|)⌉ − 127`. A positive element has the logarithm q from 0 to 127, a negative one from 1 to
127; the eighth bit is the sign, and the pattern that is left over, a negative 0, means zero.

A code is q for positive values and −1 − q, its complement, for the others. So codes ascend with their values, zero is
−1, and the two roundings of a number are neighbouring codes, as on any other grid. In a `Scaling` the scale is the smallest
positive value, 2^(z / 16), and the zero point −1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from mrecg.quantizers.grid import SMALLEST_SCALE, Grid, Neighbours, Scaling
from mrecg.quantizers.lsq import ActivationQuantizer, RandomMask
from mrecg.quantizers.weight import WeightQuantizer

__all__ = [
    "GRID",
    "CodedLogarithms",
    "LogarithmicActivation",
    "LogarithmicQuantizer",
    "LogarithmicWeight",
    "Logarithms",
    "logarithmic_scaling",
]

GRID = Grid(-128, 127, True)
"""The codes; a placement asks for them as it does for symmetric ones of 8 bits."""
ZERO = -1
"""The code of zero."""
_TO_AN_OCTAVE = 16


def logarithmic_scaling(largest: Float[Tensor, "*tensors"]) -> Scaling:
    """The scaling for tensors of that largest magnitude; no scale is below the smallest that other grids have."""
    exponent = torch.round(_TO_AN_OCTAVE * torch.log2(largest.double())) - GRID.high
    smallest = torch.tensor(SMALLEST_SCALE, dtype=torch.float64, device=largest.device)
    exponent = exponent.maximum(torch.ceil(_TO_AN_OCTAVE * torch.log2(smallest)))
    scale = torch.exp2(exponent / _TO_AN_OCTAVE).to(largest.dtype)
    return Scaling(scale, torch.full_like(scale, ZERO))


@dataclass(frozen=True)
class Logarithms:
    """The grid of one tensor. Everything is computed in double precision, so that results are exact to the last digit.

    Attributes:
        exponent: z.
    """

    exponent: float

    @classmethod
    def of(cls, scaling: Scaling) -> "Logarithms":
        """The grid whose smallest positive value is the scale, a single one."""
        return cls(float(torch.round(_TO_AN_OCTAVE * torch.log2(scaling.scale.double()))))

    def quantize(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The codes of `x`, as floats: nearest in logarithms, zero below half of the smallest value."""
        logarithm = self._logarithm(x)
        codes = torch.where(x < 0, ZERO - logarithm, logarithm)
        return torch.where(self._is_small(x), ZERO, codes).to(x.dtype)

    def dequantize(self, codes: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The real values of `codes`."""
        logarithm = torch.where(codes < 0, ZERO - codes, codes)
        return torch.where(codes == ZERO, 0, self._power(logarithm, sign=codes)).to(codes.dtype)

    def round(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The real values of the codes of `x`, in fewer passes over memory."""
        nearest = self._power(self._logarithm(x), sign=x)
        return torch.where(self._is_small(x), 0, nearest).to(x.dtype)

    def neighbours(self, x: Float[Tensor, "*shape"]) -> Neighbours:
        """The codes that `x` may be rounded to."""
        nearest = self.quantize(x)
        below = (nearest - (self.dequantize(nearest) > x).to(x.dtype)).clamp(min=GRID.low)
        value = self.dequantize(below)
        above = self.dequantize((below + 1).clamp(max=GRID.high))
        step = torch.where((value <= x) & (x < above), above - value, 0)
        return Neighbours(below, value, step, (x - value) / torch.where(step > 0, step, 1))

    def _logarithm(self, x: Tensor) -> Tensor:
        """The nearest q; of a negative number at least 1."""
        nearest: Tensor = torch.round(_TO_AN_OCTAVE * torch.log2(x.abs().double()) - self.exponent)
        return nearest.maximum((x < 0).double()).clamp(max=GRID.high)

    def _power(self, logarithm: Tensor, sign: Tensor) -> Tensor:
        magnitude = torch.exp2((logarithm.double() + self.exponent) / _TO_AN_OCTAVE)
        return torch.copysign(magnitude, sign)

    def _is_small(self, x: Tensor) -> Tensor:
        """Whether x is no further from zero than half of the smallest value of its sign.

        MQBench returns the positive bound itself as it is, although it is no value of the grid.
        """
        positive = math.exp2(self.exponent / _TO_AN_OCTAVE - 1)
        negative = -math.exp2((self.exponent + 1) / _TO_AN_OCTAVE - 1)
        return (negative <= x.double()) & (x.double() <= positive)


class CodedLogarithms(nn.Module):
    """A weight as codes: what a quantized model ships.

    Attributes:
        codes: in the shape of the weight.
        values: the real value of every code, from the lowest.
    """

    codes: Integer[Tensor, "..."]
    values: Float[Tensor, " codes"]

    def __init__(self, codes: Float[Tensor, "..."], levels: Logarithms) -> None:
        super().__init__()
        self.register_buffer("codes", codes.to(GRID.dtype))
        every = torch.arange(GRID.low, GRID.high + 1, device=codes.device, dtype=codes.dtype)
        self.register_buffer("values", levels.dequantize(every))

    def forward(self) -> Float[Tensor, "..."]:
        return self.values[self.codes.int() - GRID.low]


class LogarithmicWeight(WeightQuantizer):
    """Quantizes one weight to logarithms; its rounding is learned, its range is not."""

    uniform: ClassVar[bool] = False

    def __init__(self, weight: Float[Tensor, "..."], scaling: Scaling) -> None:
        super().__init__(weight, scaling, GRID, fixed_scale=True)

    def coded(self) -> nn.Module:
        return CodedLogarithms(self.codes, self._levels)

    def _nearest(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self._levels.quantize(weight)

    def _neighbours(self, weight: Float[Tensor, "..."]) -> Neighbours:
        return self._levels.neighbours(weight)

    def _values(self, codes: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self._levels.dequantize(codes)

    @property
    def _levels(self) -> Logarithms:
        return Logarithms.of(self.calibrated)


class _StraightThrough(torch.autograd.Function):
    """Rounds to the grid where `keep` is 1 or absent; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Logarithms, keep: Tensor | None) -> Tensor:
        rounded = levels.round(x)
        return rounded if keep is None else torch.lerp(x, rounded, keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class LogarithmicQuantizer(nn.Module):
    """An activation quantizer as a quantized model ships it.

    Attributes:
        levels: its grid.
    """

    def __init__(self, levels: Logarithms) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.levels.round(x)


class LogarithmicActivation(ActivationQuantizer):
    """Quantizes one tensor to logarithms. Nothing of it is learned: z is an integer that the largest element decides."""

    uniform: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(GRID)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        assert self.scaling is not None, "calibrate before the first forward pass"
        x = x.to(self.scaling.scale.dtype)
        keep = None if self._mask is None else self._mask.like(x)
        quantized: Tensor = _StraightThrough.apply(x, self._levels, keep)  # type: ignore[no-untyped-call]
        return quantized

    def _read(self, scaling: Scaling) -> None:
        self._levels = Logarithms.of(scaling)

    def start_learning(self, mask: RandomMask | None, relative: bool = True) -> None:
        """Where `mask` is 0, the tensor stays float from here on."""
        self._mask = mask

    def stop_learning(self) -> None:
        """From here on everything is quantized."""
        self._mask = None

    def fixed(self) -> nn.Module:
        """The result."""
        return LogarithmicQuantizer(self._levels)
