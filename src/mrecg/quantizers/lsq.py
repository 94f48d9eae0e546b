"""Activations on a uniform grid, with a learned scale (LSQ: Esser et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers import kernels
from mrecg.quantizers.activation import ActivationQuantizer, Bounds, FakeQuantizer
from mrecg.quantizers.grid import SMALLEST_SCALE, Scaling, UniformGrid
from mrecg.quantizers.qdrop import RandomMask

__all__ = ["FixedScale", "LearnedActivationScale", "UniformQuantizer"]


@final
@dataclass(frozen=True)
class UniformQuantizer(ActivationQuantizer):
    """Quantizes one tensor to multiples of a scale; the zero point stays as calibrated.

    Attributes:
        grid, prescribed: see `ActivationQuantizer`.
        power_of_two: whether the scale is a power of two, also while it is learned.
        feeds_root: what reads the result is undefined below zero; then no value from zero on becomes less by the last bit, which
            costs a pass over memory while the scale is learned.
    """

    grid: UniformGrid
    prescribed: Scaling | None = None
    power_of_two: bool = False
    feeds_root: bool = False

    def fix(self, scaling: Scaling) -> FakeQuantizer:
        return FixedScale(scaling, self.grid.limits(scaling))

    def learn(
        self, scaling: Scaling, mask: RandomMask | None, relative: bool = True
    ) -> FakeQuantizer:
        unit = scaling.scale if relative else torch.ones_like(scaling.scale)
        factor = nn.Parameter(scaling.scale / unit)
        return LearnedActivationScale(self, scaling, self.grid.limits(scaling), factor, unit, mask)


@final
@dataclass(frozen=True)
class FixedScale(FakeQuantizer):
    """A uniform quantizer whose scale is not learned.

    Attributes:
        scaling: its scale and zero point.
        limits: the range of `code − zero_point`.
    """

    scaling: Scaling
    limits: tuple[float, float]

    def __call__(self, x: Float[Tensor, "*shape"], bounds: Bounds) -> Float[Tensor, "*shape"]:
        # A convolution may have been computed in another precision; quantizers and their kernels take one.
        scale = self.scaling.scale
        x = x.to(scale.dtype)
        if x.requires_grad and torch.is_grad_enabled():
            unit = torch.ones_like(scale)
            return kernels.fake_quantize(x, scale, scale, unit, self.limits, bounds, None)
        # By the reciprocal, as PT2E's operators do: the finished model rounds every tie the same way. In one
        # tensor of the strides of x: they tell a convolution the layout of gray images.
        clipped = x.detach().clamp(*bounds) if bounds else x.detach()
        codes = torch.mul(clipped, 1 / scale, out=torch.empty_like(x)).round_()
        return codes.clamp_(*self.limits).mul_(scale)

    def current(self) -> Scaling:
        return self.scaling


@final
@dataclass(frozen=True)
class LearnedActivationScale(FakeQuantizer):
    """A uniform quantizer while its scale is learned.

    Attributes:
        quantizer: knows what the scale may be.
        scaling: where learning starts.
        limits: the range of `code − zero_point`.
        factor: the variable, the scale in units of `unit`.
        unit: see `ActivationQuantizer.learn`.
        mask: which elements are quantized; `None` for all.
    """

    quantizer: UniformQuantizer
    scaling: Scaling
    limits: tuple[float, float]
    factor: nn.Parameter
    unit: Float[Tensor, ""]
    mask: RandomMask | None

    @property
    def variables(self) -> tuple[nn.Parameter, ...]:
        return (self.factor,) if self.quantizer.learns else ()

    def __call__(self, x: Float[Tensor, "*shape"], bounds: Bounds) -> Float[Tensor, "*shape"]:
        if not kernels.fit(x):
            x = x.to(self.scaling.scale.dtype)
        keep = None if self.mask is None else self.mask.like(x)
        found = kernels.fake_quantize(
            x, self.factor, self.current().scale, self.unit, self.limits, bounds, keep
        )
        if keep is None or not self.quantizer.feeds_root:
            return found
        # x + s (c − t) may miss the code 0 by the last bit of x; the gradient stays straight-through.
        given = x.detach().clamp(*bounds) if bounds else x.detach()
        return found + torch.where(given >= 0, -found.detach().clamp(max=0), 0)

    @torch.no_grad()
    def current(self) -> Scaling:
        """Return the scaling by the factor as it is; the gradient passes straight through clamping and rounding."""
        if self.quantizer.prescribed is not None:
            return self.quantizer.prescribed
        scale = (self.unit * self.factor).clamp_(min=SMALLEST_SCALE)
        if self.quantizer.power_of_two:
            scale = torch.exp2(torch.log2(scale).round())
        return Scaling(scale, self.scaling.zero_point)
