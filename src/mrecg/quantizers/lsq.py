"""Activations on a grid with a learned step (LSQ), part of them left in float while tuning (QDrop)."""

import math
import random
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mrecg.quantizers import kernels
from mrecg.quantizers.grid import SMALLEST_SCALE, Grid, Scaling

__all__ = ["ActivationQuantizer", "RandomMask", "StepQuantizer"]


_UNBOUNDED = (-math.inf, math.inf)


class RandomMask:
    """Random masks at the price of a view: a pool is drawn once and read at random offsets.

    Drawing fresh numbers takes longer than the quantization that they mask.

    Args:
        keep_probability: how often an element of the mask is 1; else it is 0.
        seed: of the pool and of the offsets.
    """

    def __init__(self, keep_probability: float, seed: int) -> None:
        self.keep_probability = keep_probability
        self._generator = torch.Generator().manual_seed(seed)
        self._offsets = random.Random(seed)
        self._pool = torch.empty(0)
        self._held: list[Tensor] | None = None
        self._position = 0

    def like(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A mask of the shape and memory layout of `x`."""
        if self._held is None:
            return self._drawn(x)
        if self._position == len(self._held):
            self._held.append(torch.empty_like(x).copy_(self._drawn(x)))
        self._position += 1
        return self._held[self._position - 1]

    def hold(self) -> None:
        """From here on every mask has memory of its own, until `redraw` the same in every round."""
        self._held = []

    def redraw(self) -> None:
        """Begin another round: new masks in the memory of those before, in the order in which they were asked for."""
        assert self._held is not None, "redraw needs hold first"
        for mask in self._held:
            mask.copy_(self._drawn(mask))
        self._position = 0

    @staticmethod
    def pool_of(elements: int) -> int:
        """How many random numbers are drawn for tensors of up to so many elements."""
        return max(1 << 20, 4 * elements)

    def _drawn(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        fits = self._pool.device == x.device and self._pool.dtype == x.dtype
        if len(self._pool) < 2 * x.numel() or not fits:
            drawn = torch.rand(self.pool_of(x.numel()), generator=self._generator)
            self._pool = (drawn < self.keep_probability).to(x.device, x.dtype)
        offset = self._offsets.randrange(len(self._pool) - x.numel())
        # A slice has strides beyond its own elements; the layout of a fresh tensor never has.
        return self._pool.as_strided(x.shape, torch.empty_like(x).stride(), offset)


class _FakeQuantize(torch.autograd.Function):
    """Quantize and dequantize; straight-through for x, LSQ's gradient for the step.

    With t = x/s and c = clip(⌊t⌉, low − z, high − z): ∂/∂x is 1 inside the range, ∂/∂s is c − t inside and c
    outside (Esser et al., ICLR 2020, eq. 3); s is `unit · factor`, of which the factor is learned. Where `keep` is 0
    the element passes as float: setting t = 0 there, which is a point of the grid, makes that of the same formulas,
    since then c = 0 and x + s (c − t) = x. Every line is one vectorised pass over memory; the native kernel of the same
    name needs one for all of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factor: Tensor,
        scale: Tensor,
        unit: Tensor,
        lowest: float,
        highest: float,
        keep: Tensor | None,
    ) -> Tensor:
        ctx.range = (lowest - 0.5, highest + 0.5)
        ratio = x / scale
        if keep is None:
            quantized = torch.round(ratio).clamp_(lowest, highest).mul_(scale)
            ctx.save_for_backward(ratio, quantized, unit, scale)
            return quantized
        ratio.mul_(keep)
        codes = torch.round(ratio).clamp_(lowest, highest)
        ctx.save_for_backward(ratio, codes, unit, None)
        change = codes - ratio
        return torch.addcmul(x, change, scale, out=change)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ratio, codes, unit, scale = ctx.saved_tensors  # codes in units of `scale`, if that is there
        passed = torch.ops.aten.hardtanh_backward(gradient, ratio, *ctx.range)
        sum_of_codes = _dot(gradient, codes) if scale is None else _dot(gradient, codes) / scale
        return passed, (sum_of_codes - _dot(passed, ratio)) * unit, *[None] * 5


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two tensors, without a copy where their memory layouts agree."""
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class StepQuantizer(nn.Module):
    """An activation quantizer as a quantized model ships it: PT2E's two operators with fixed numbers.

    Attributes:
        scale: the step.
        zero_point: the code of 0.
        grid: the integers that a code may take.
    """

    def __init__(self, scaling: Scaling, grid: Grid) -> None:
        super().__init__()
        self.scale, self.zero_point, self.grid = float(scaling.scale), int(scaling.zero_point), grid

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        numbers = (self.scale, self.zero_point, self.grid.low, self.grid.high, self.grid.dtype)
        codes = torch.ops.quantized_decomposed.quantize_per_tensor.default(x, *numbers)
        result: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.default(
            codes, *numbers
        )
        return result


class ActivationQuantizer(nn.Module):
    """Quantizes one tensor; its step can be learned, its zero point stays as calibrated.

    Attributes:
        uniform: whether values are multiples of a step, which can be learned.
        grid: the integers that a code may take.
        fixed_scaling: what a backend prescribes, or `None`.
        power_of_two: whether the scale is a power of two, also while it is learned.
        scaling: `None` until calibrated.
        bounds: what the tensor is clipped to first, where the quantizer does the work of a ReLU before it.
        factor: the scale in some unit, while it is learned. In units of the scale itself the rate is relative:
            a scale may start at 0.01 (8 bits) or at 1 (2 bits).
    """

    uniform: ClassVar[bool] = True

    def __init__(
        self, grid: Grid, fixed_scaling: Scaling | None = None, power_of_two: bool = False
    ) -> None:
        super().__init__()
        self.grid = grid
        self.fixed_scaling = fixed_scaling
        self.power_of_two = power_of_two
        self.scaling = fixed_scaling
        self.bounds: tuple[float, float] | None = None
        self.factor: nn.Parameter | None = None
        self._unit = torch.ones(())
        self._mask: RandomMask | None = None

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        assert self.scaling is not None, "calibrate before the first forward pass"
        # A convolution may have been computed in another precision; quantizers and their kernels take one.
        x = x.to(self.scaling.scale.dtype)
        if self.factor is None and not (x.requires_grad and torch.is_grad_enabled()):
            # By the reciprocal, as PT2E's operators do: the finished model rounds every tie the same way. In one
            # tensor of the strides of x: they tell a convolution the layout of grey images.
            clipped = x.detach().clamp(*self.bounds) if self.bounds else x.detach()
            codes = torch.mul(clipped, 1 / self.scaling.scale, out=torch.empty_like(x)).round_()
            return codes.clamp_(*self._limits).mul_(self.scaling.scale)
        keep = None if self._mask is None else self._mask.like(x)
        if self.factor is None:  # nothing is learned here, but before it
            numbers = (self.scaling.scale, self.scaling.scale, self._unit, *self._limits, keep)
        else:
            numbers = (self.factor, self._scale(), self._unit, *self._limits, keep)
        quantized: Tensor
        if kernels.fits(x):
            quantized = kernels.FakeQuantize.apply(x, self.bounds or _UNBOUNDED, *numbers)  # type: ignore[no-untyped-call]
        else:
            clipped = functional.hardtanh(x, *self.bounds) if self.bounds else x
            quantized = _FakeQuantize.apply(clipped, *numbers)  # type: ignore[no-untyped-call]
        return quantized

    @property
    def learns(self) -> bool:
        """Whether there is a step that may be learned."""
        return self.uniform and self.fixed_scaling is None

    @property
    def scaling(self) -> Scaling | None:
        return self._scaling

    @scaling.setter
    def scaling(self, scaling: Scaling | None) -> None:
        self._scaling = scaling
        if scaling is not None:
            self._read(scaling)

    def _read(self, scaling: Scaling) -> None:
        """Numbers, read once: every read of a tensor makes the host wait for an accelerator."""
        self._limits = limits(scaling, self.grid)

    def start_learning(self, mask: RandomMask | None, relative: bool = True) -> nn.Parameter | None:
        """Make the step learnable, in units of itself or absolutely; where `mask` is 0, the tensor stays float.

        Returns:
            What is learned, if anything is: a scale that a backend prescribes is not.
        """
        assert self.scaling is not None, "calibrate before learning"
        self._unit = self.scaling.scale if relative else torch.ones_like(self.scaling.scale)
        self.factor = nn.Parameter(self.scaling.scale / self._unit)
        self._mask = mask
        return self.factor if self.learns else None

    def stop_learning(self) -> None:
        """Fix the learned step; from here on everything is quantized."""
        assert self.scaling is not None, "not calibrated"
        self.scaling = Scaling(self._scale(), self.scaling.zero_point)
        self.factor = self._mask = None

    @torch.no_grad()
    def _scale(self) -> Tensor:
        """The scale by the factor as it is; what holds it in its bounds passes gradients straight through."""
        assert self.factor is not None, "not learning"
        if self.fixed_scaling is not None:
            return self.fixed_scaling.scale
        scale = (self._unit * self.factor).clamp_(min=SMALLEST_SCALE)
        return torch.exp2(torch.log2(scale).round()) if self.power_of_two else scale

    def fixed(self) -> nn.Module:
        """The result."""
        assert self.scaling is not None, "calibrate before fixing"
        return StepQuantizer(self.scaling, self.grid)


def limits(scaling: Scaling, grid: Grid) -> tuple[float, float]:
    """The range of `code − zero_point`; clipping there saves adding the zero point and taking it off again."""
    zero_point = float(scaling.zero_point)
    return grid.low - zero_point, grid.high - zero_point
