"""Differentiable fake quantization and soft rounding, computed by whichever implementation takes the tensors."""

from typing import Any, cast

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrecg.quantizers.kernels import compilation, formulas, native
from mrecg.quantizers.kernels.strides import lie_in_rows

__all__ = ["fake_quantize", "soft_rounding"]


def fake_quantize(
    x: Float[Tensor, "*shape"],
    factor: Float[Tensor, ""],
    scale: Float[Tensor, ""],
    unit: Float[Tensor, ""],
    limits: tuple[float, float],
    bounds: tuple[float, float] | None,
    keep: Float[Tensor, "*shape"] | None,
) -> Float[Tensor, "*shape"]:
    """Quantize and dequantize `x`; straight-through gradient for x, LSQ's for the factor of the scale.

    Args:
        x: values.
        factor: receives the gradient of the scale times `unit`; its value is not read.
        scale: what x is divided by, positive.
        unit: the derivative of the scale with respect to the factor.
        limits: the lowest and the highest code, less the zero point.
        bounds: what x is clipped to first, with the gradient of a clip; `None` for no clip.
        keep: 1 where an element is quantized, 0 where it passes as float; `None` quantizes all.
    """
    quantized: Any
    if compilation.fits(x):
        quantized = native.FakeQuantize.apply(x, factor, scale, unit, limits, bounds, keep)  # type: ignore[no-untyped-call]
    else:
        clipped = functional.hardtanh(x, *bounds) if bounds else x
        quantized = formulas.FakeQuantize.apply(clipped, factor, scale, unit, limits, keep)  # type: ignore[no-untyped-call]
    return cast(Tensor, quantized)


def soft_rounding(
    alpha: Float[Tensor, "*shape"],
    base: Float[Tensor, "*shape"],
    span: Float[Tensor, "*shape"],
    scale_delta: Float[Tensor, "..."],
    levels: int,
    slope: formulas.Slope | None,
) -> Float[Tensor, "*shape"]:
    """Return `(base + span · clip(σ(alpha), INSIDE)) · (1 + scale_delta / levels)`.

    Args:
        alpha: of AdaRound, one per weight.
        base, span: constants; best in the memory order of `alpha`.
        scale_delta: of the range, in codes, one per scale; broadcasts against `alpha`.
        levels: codes of the whole range.
        slope: strength and exponent of the rounding penalty, whose slope the backward pass adds to the gradient of
            σ; `None` for no penalty.
    """
    soft: Any
    if compilation.fits(alpha) and lie_in_rows(alpha, scale_delta):
        soft = native.SoftRounding.apply(alpha, base, span, scale_delta, levels, slope)  # type: ignore[no-untyped-call]
        return cast(Tensor, soft)
    soft = formulas.SoftRounding.apply(alpha, base, span, slope)  # type: ignore[no-untyped-call]
    return cast(Tensor, soft * (1 + scale_delta / levels))
