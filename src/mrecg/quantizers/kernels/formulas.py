"""Fake quantization and soft rounding as torch operators: for every device, number format and memory layout."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["GAMMA", "INSIDE", "ZETA", "FakeQuantize", "Slope", "SoftRounding"]

ZETA = 1.1
GAMMA = -0.1
"""Stretch of the sigmoid: h(α) = clip(σ(α)(ζ − γ) + γ, 0, 1) reaches 0 and 1 (AdaRound: Nagel et al., ICML 2020, eq. 23)."""

INSIDE = (-GAMMA / (ZETA - GAMMA), (1 - GAMMA) / (ZETA - GAMMA))
"""Values of σ(α) between which h(α) is neither 0 nor 1."""

_SMALLEST_SQUARE = 1e-12
"""Added to (σ − ½)², so that its logarithm is finite; the slope of the penalty is 0 there either way."""

Slope = tuple[float | Tensor, float | Tensor]
"""Strength c and exponent e of the rounding penalty's slope −c · d · (d²)^e with respect to σ, where d = σ − ½."""


class FakeQuantize(torch.autograd.Function):
    """Quantize and dequantize; straight-through for x, LSQ's gradient for the scale.

    With t = x/s and c = clip(⌊t⌉, low − z, high − z): ∂/∂x is 1 inside the range, ∂/∂s is c − t inside and c
    outside (LSQ: Esser et al., ICLR 2020, eq. 3); s is `unit · factor`, of which the factor is learned. Where `keep`
    is 0 the element passes as float: setting t = 0 there, which is a point of the grid, makes that of the same
    formulas, since then c = 0 and x + s (c − t) = x. Every line is one vectorized pass over memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factor: Tensor,
        scale: Tensor,
        unit: Tensor,
        limits: tuple[float, float],
        keep: Tensor | None,
    ) -> Tensor:
        lowest, highest = limits
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
        return passed, (sum_of_codes - _dot(passed, ratio)) * unit, *[None] * 4


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of two tensors, without a copy where their memory layouts agree."""
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class SoftRounding(torch.autograd.Function):
    """`base + span · σ(α)` with σ held where h(α) is between 0 and 1, and the gradient of the rounding penalty.

    Both directions are a few passes over memory, which decide how long a step takes where weights outnumber
    activations. Nothing reads the penalty's value, so only its slope is computed, once per step.
    """

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, base: Tensor, span: Tensor, slope: Slope | None) -> Tensor:
        sigmoid = torch.sigmoid(alpha)
        ctx.save_for_backward(sigmoid, span)
        ctx.slope = slope
        return torch.addcmul(base, sigmoid.clamp(*INSIDE), span)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        sigmoid, span = ctx.saved_tensors
        of_sigmoid = gradients[0] * span
        if ctx.slope is not None:
            _add_penalty_slope(of_sigmoid, sigmoid, *ctx.slope)
        of_sigmoid = torch.ops.aten.hardtanh_backward(of_sigmoid, sigmoid, *INSIDE)
        return torch.ops.aten.sigmoid_backward(of_sigmoid, sigmoid), None, None, None


def _add_penalty_slope(
    slope: Tensor, sigmoid: Tensor, strength: float | Tensor, exponent: float | Tensor
) -> None:
    """Add −strength · d · (d²)^exponent. `exp2` and `log2` take half the time of `pow`."""
    distance = sigmoid - 0.5
    smallest = torch.full((), _SMALLEST_SQUARE, dtype=sigmoid.dtype, device=sigmoid.device)
    square = torch.addcmul(smallest, distance, distance)
    slope.addcmul_(square.log2_().mul_(exponent).exp2_(), distance.mul_(strength), value=-1)
