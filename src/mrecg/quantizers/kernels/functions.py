"""Differentiable fake quantization (LSQ) and soft rounding (AdaRound), and the errors of a range search, on `operators.py`."""

import math
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mrecg.quantizers.kernels import formulas, fused, operators

__all__ = ["Slope", "fake_quantize", "grid_errors", "soft_rounding", "squared_error"]

Slope = tuple[float | Tensor, float | Tensor]
"""Strength c and exponent e of the rounding penalty's slope −c · d · (d²)^e with respect to σ, where d = σ − ½.

Both numbers, or both tensors without axes, which a recorded step reads again at every replay."""

_UNBOUNDED = (-math.inf, math.inf)
_operators: Any = getattr(torch.ops, operators.NAMESPACE)
_quantize, _quantize_backward = (
    _operators.fake_quantize.default,
    _operators.fake_quantize_backward.default,
)
_round, _round_backward = (
    _operators.soft_rounding.default,
    _operators.soft_rounding_backward.default,
)
_round_backward_of_tensors = _operators.soft_rounding_backward.tensor
_grid_errors = _operators.grid_errors.default


def fake_quantize(
    x: Float[Tensor, "*shape"],
    factor: Float[Tensor, ""],
    scale: Float[Tensor, ""],
    unit: Float[Tensor, ""],
    limits: tuple[float, float],
    bounds: tuple[float, float] | None,
    keep: Shaped[Tensor, "*shape"] | None,
) -> Float[Tensor, "*shape"]:
    """Quantize and dequantize `x`; straight-through gradient for x, LSQ's for the factor of the scale.

    Args:
        x: values.
        factor: receives the gradient of the scale times `unit`; its value is not read.
        scale: what x is divided by, positive.
        unit: the derivative of the scale with respect to the factor.
        limits: the lowest and the highest code, less the zero point.
        bounds: what x is clipped to first, with the gradient of a clip; `None` for no clip.
        keep: 1 or true where an element is quantized, 0 or false where it passes as float; `None` quantizes all.
    """
    numbers = (*limits, *(bounds or _UNBOUNDED))
    return cast(Tensor, _FakeQuantize.apply(x, factor, keep, scale, unit, numbers))  # type: ignore[no-untyped-call]


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factor: Tensor,
        keep: Tensor | None,
        scale: Tensor,
        unit: Tensor,
        numbers: tuple[float, ...],
    ) -> Tensor:
        quantized: Tensor
        quantized, ratio, codes, clipped = _quantize(x, keep, scale, *numbers)
        values = x if ratio is None else quantized
        ctx.save_for_backward(values, ratio, codes, clipped, unit, keep, scale)
        ctx.numbers = numbers
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_factor = _quantize_backward(gradients[0], *ctx.saved_tensors, *ctx.numbers)
        return of_x, of_factor, None, None, None, None


def soft_rounding(
    alpha: Float[Tensor, "*shape"],
    base: Float[Tensor, "*shape"],
    span: Float[Tensor, "*shape"],
    scale_delta: Float[Tensor, "..."],
    levels: int,
    slope: Slope | None,
) -> Float[Tensor, "*shape"]:
    """Return `(base + span · clip(σ(alpha), INSIDE)) · (1 + scale_delta / levels)`.

    Nothing reads the rounding penalty's value, so only its slope is computed, once per step, in the backward pass.

    Args:
        alpha: of AdaRound, one per weight; dense.
        base, span: constants; best in the memory order of `alpha`, see `match_strides`.
        scale_delta: of the range, in codes, one per scale; broadcasts against `alpha`.
        levels: the highest code of the grid less the lowest.
        slope: what the backward pass adds to the gradient of σ; `None` for no penalty.
    """
    return cast(Tensor, _SoftRounding.apply(alpha, scale_delta, base, span, levels, slope))  # type: ignore[no-untyped-call]


class _SoftRounding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        alpha: Tensor,
        scale_delta: Tensor,
        base: Tensor,
        span: Tensor,
        levels: int,
        slope: Slope | None,
    ) -> Tensor:
        soft: Tensor
        soft, sigmoid, rounded = _round(alpha, base, span, scale_delta, levels)
        ctx.save_for_backward(sigmoid, rounded, alpha, base, span, scale_delta)
        ctx.levels, ctx.slope = levels, slope or (0.0, 0.0)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        strength, exponent = ctx.slope
        operator = _round_backward_of_tensors if isinstance(strength, Tensor) else _round_backward
        numbers = (ctx.levels, strength, exponent, ctx.needs_input_grad[1])
        of_alpha, of_delta = operator(gradients[0], *ctx.saved_tensors, *numbers)
        return of_alpha, of_delta, None, None, None, None


def grid_errors(
    points: Float[Tensor, "c n"],
    counts: Float[Tensor, "c n"] | None,
    scale: Float[Tensor, "c k"],
    zero_point: Float[Tensor, "c k"],
    codes: tuple[int, int],
    exponent: float,
) -> Float[Tensor, "c k"]:
    """Return Σ |x − x_q|^exponent of each row of points under each of its candidates.

    Args:
        points: values.
        counts: how many values each stands for; one where it is `None`.
        scale, zero_point: the candidates.
        codes: the lowest and the highest one.
        exponent: of the error, positive.
    """
    return cast(Tensor, _grid_errors(points, counts, scale, zero_point, *codes, exponent))


def squared_error(
    output: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    weight: float | Float[Tensor, ""],
    inside: Float[Tensor, "b 1 h w"] | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "*shape"]]:
    """Return `weight · Σ (output − target)²` and its gradient with respect to the output.

    Args:
        output: as a network made it.
        target: float32, may be overwritten.
        weight: of the sum.
        inside: 1 where a position counts and 0 where not; `None` counts all.
    """
    if isinstance(weight, float) and inside is None and fused.fits(output):
        return fused.squared_error(output, target, weight)
    return formulas.squared_error(output, target, weight, inside)
