"""Autograd functions of the compiled kernels."""

import math
from typing import Any

import torch
from torch import Tensor

from mrecg.quantizers.kernels import compilation
from mrecg.quantizers.kernels.formulas import INSIDE, Slope
from mrecg.quantizers.kernels.strides import match_strides

__all__ = ["FakeQuantize", "SoftRounding"]

_UNBOUNDED = (-math.inf, math.inf)


class FakeQuantize(torch.autograd.Function):
    """Compute `fake_quantize`, one pass over memory in each direction."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factor: Tensor,
        scale: Tensor,
        unit: Tensor,
        limits: tuple[float, float],
        bounds: tuple[float, float] | None,
        keep: Tensor | None,
    ) -> Tensor:
        quantized = torch.empty_like(x)
        x = match_strides(x, quantized)  # which is dense
        keep = None if keep is None else match_strides(keep, x)
        numbers = (*(bounds or _UNBOUNDED), *limits)
        compilation.call("fake_quantize", x.numel(), x, keep, scale, *numbers, quantized)
        ctx.save_for_backward(x, keep, scale, unit)
        ctx.numbers = numbers
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, scale, unit = ctx.saved_tensors
        gradient, passed = match_strides(gradients[0], x), torch.empty_like(x)
        sums = x.new_empty(-(-x.numel() // compilation.PART))
        of_scale = compilation.call(
            "fake_quantize_backward",
            *(x.numel(), x, keep, scale, *ctx.numbers, gradient, passed, sums),
        )
        return passed, of_scale * unit, *[None] * 5


class SoftRounding(torch.autograd.Function):
    """Compute `soft_rounding` where its tensors `lie_in_rows`, one pass over memory in each direction."""

    @staticmethod
    def forward(
        ctx: Any,
        alpha: Tensor,
        base: Tensor,
        span: Tensor,
        scale_delta: Tensor,
        levels: int,
        slope: Slope | None,
    ) -> Tensor:
        rows = len(alpha)
        numbers = (
            rows,
            alpha.numel() // rows,
            0 if scale_delta.numel() == 1 else 1,
            1 / levels,
            *INSIDE,
        )
        soft = torch.empty_like(alpha)
        alpha, base, span = (match_strides(one, soft) for one in (alpha, base, span))
        compilation.call("soft_rounding", *numbers, alpha, base, span, scale_delta, soft)
        ctx.save_for_backward(alpha, base, span, scale_delta)
        ctx.numbers, ctx.slope = numbers, slope or (0.0, 0.0)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        alpha, base, span, scale_delta = ctx.saved_tensors
        gradient, of_alpha = match_strides(gradients[0], alpha), torch.empty_like(alpha)
        of_rows = alpha.new_empty(len(alpha))
        strength, exponent = map(float, ctx.slope)
        compilation.call(
            "soft_rounding_backward",
            *(*ctx.numbers, alpha, base, span, scale_delta),
            *(gradient, strength, exponent, of_alpha, of_rows),
        )
        of_delta = of_rows.sum() if scale_delta.numel() == 1 else of_rows
        return of_alpha, None, None, of_delta.view_as(scale_delta), None, None
