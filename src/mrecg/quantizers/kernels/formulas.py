"""Fake quantization, soft rounding and the error of rounding as torch operators: for every device, number format and memory layout.

Every line is one vectorized pass over memory. Backward passes read what the forward passes return behind the result, so
that nothing is computed twice.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "GAMMA",
    "INSIDE",
    "SMALLEST_SQUARE",
    "ZETA",
    "Quantized",
    "Rounded",
    "fake_quantize",
    "fake_quantize_backward",
    "grid_errors",
    "soft_rounding",
    "soft_rounding_backward",
    "squared_error",
]

ZETA = 1.1
GAMMA = -0.1
"""Stretch of the sigmoid: h(α) = clip(σ(α)(ζ − γ) + γ, 0, 1) reaches 0 and 1 (AdaRound: Nagel et al., ICML 2020, eq. 23)."""

INSIDE = (-GAMMA / (ZETA - GAMMA), (1 - GAMMA) / (ZETA - GAMMA))
"""Values of σ(α) between which h(α) is neither 0 nor 1."""

SMALLEST_SQUARE = 1e-12
"""Added to (σ − ½)², so that its logarithm is finite; the slope of the penalty is 0 there either way."""

Quantized = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""A result; then t = x/s, codes and clipped values, where the backward pass reads them."""

Rounded = tuple[Tensor, Tensor | None, Tensor | None]
"""A result; then σ(α) and the weight before it is scaled, where the backward pass reads them."""

_hardtanh_backward = torch.ops.aten.hardtanh_backward.default
_sigmoid_backward = torch.ops.aten.sigmoid_backward.default


def fake_quantize(
    x: Tensor,
    keep: Tensor | None,
    scale: Tensor,
    lowest: float,
    highest: float,
    floor: float,
    ceiling: float,
) -> Quantized:
    """Return the quantized and dequantized `x`, clipped to [floor, ceiling] first.

    Where `keep` is 0 the element passes as float: setting t = 0 there, which is a point of the grid, makes that of the
    formula x + s (c − t), since then c = 0.
    """
    clipped = functional.hardtanh(x, floor, ceiling) if _is_bounded(floor, ceiling) else None
    given = x if clipped is None else clipped
    ratio = given / scale
    if keep is None:
        quantized = torch.round(ratio).clamp_(lowest, highest).mul_(scale)
        return quantized, ratio, None, clipped
    ratio.mul_(keep)
    codes = torch.round(ratio).clamp_(lowest, highest)
    change = codes - ratio
    return torch.addcmul(given, change, scale, out=change), ratio, codes, clipped


def fake_quantize_backward(
    gradient: Tensor,
    quantized: Tensor,
    ratio: Tensor,
    codes: Tensor | None,
    clipped: Tensor | None,
    unit: Tensor,
    keep: Tensor | None,
    scale: Tensor,
    lowest: float,
    highest: float,
    floor: float,
    ceiling: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x (straight-through) and of the factor f of the scale s = `unit` · f.

    With t = x/s and c = clip(⌊t⌉, low − z, high − z): ∂/∂x is 1 inside the range, ∂/∂s is c − t inside and c outside
    (LSQ: Esser et al., ICLR 2020, eq. 3).
    """
    of_x = _hardtanh_backward(gradient, ratio, lowest - 0.5, highest + 0.5)
    sum_of_codes = _dot(gradient, quantized) / scale if codes is None else _dot(gradient, codes)
    of_factor = (sum_of_codes - _dot(of_x, ratio)) * unit
    if clipped is not None:
        # A value is clipped if and only if it is a bound afterwards, which spares keeping x.
        of_x = _hardtanh_backward(of_x, clipped, floor, ceiling)
    return of_x, of_factor


def _is_bounded(floor: float, ceiling: float) -> bool:
    return floor > -math.inf or ceiling < math.inf


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of two tensors, without a copy where their memory layouts agree."""
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def soft_rounding(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> Rounded:
    """Return `(base + span · clip(σ(alpha), INSIDE)) · (1 + scale_delta / levels)`."""
    sigmoid = torch.sigmoid(alpha)
    rounded = torch.addcmul(base, sigmoid.clamp(*INSIDE), span)
    return rounded * (1 + scale_delta / levels), sigmoid, rounded


def soft_rounding_backward(
    gradient: Tensor,
    sigmoid: Tensor,
    rounded: Tensor,
    span: Tensor,
    scale_delta: Tensor,
    levels: int,
    strength: float | Tensor,
    exponent: float | Tensor,
    learns_scale: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of α, with the slope of the rounding penalty, and of the scale deltas, if they are learned."""
    of_delta = torch.zeros_like(scale_delta)
    if learns_scale:
        of_delta = (gradient * rounded).sum_to_size(scale_delta.shape) / levels
    of_sigmoid = (gradient * (1 + scale_delta / levels)).mul_(span)
    if isinstance(strength, Tensor) or strength != 0:
        _add_penalty_slope(of_sigmoid, sigmoid, strength, exponent)
    of_sigmoid = _hardtanh_backward(of_sigmoid, sigmoid, *INSIDE)
    return _sigmoid_backward(of_sigmoid, sigmoid), of_delta


def _add_penalty_slope(
    slope: Tensor, sigmoid: Tensor, strength: float | Tensor, exponent: float | Tensor
) -> None:
    """Add −strength · d · (d²)^exponent with d = σ − ½. `exp2` and `log2` take half the time of `pow`."""
    distance = sigmoid - 0.5
    smallest = torch.full((), SMALLEST_SQUARE, dtype=sigmoid.dtype, device=sigmoid.device)
    square = torch.addcmul(smallest, distance, distance)
    slope.addcmul_(square.log2_().mul_(exponent).exp2_(), distance.mul_(strength), value=-1)


def grid_errors(
    points: Tensor,
    counts: Tensor | None,
    scale: Tensor,
    zero_point: Tensor,
    lowest: float,
    highest: float,
    exponent: float,
) -> Tensor:
    """Return Σ |x − x_q|^exponent of each row of points (`c n`) under each of its candidates (scale and zero point, `c k`)."""
    rows, scale, zero_point = points[:, None, :], scale[..., None], zero_point[..., None]
    codes = torch.clamp(torch.round(rows / scale) + zero_point, lowest, highest)
    error = ((codes - zero_point) * scale - rows).abs_().pow_(exponent)
    return error.sum(dim=2) if counts is None else (error * counts[:, None, :]).sum(dim=2)


def squared_error(
    output: Tensor, target: Tensor, weight: float | Tensor, inside: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return `weight · Σ (output − target)²` where `inside` is 1 or absent, and its gradient in the memory of `target`."""
    torch.sub(output, target, out=target)
    if inside is not None:
        target.mul_(inside)
    rows = target.permute(0, 2, 3, 1).reshape(-1) if target.ndim == 4 else target.view(-1)
    error = weight * torch.dot(rows, rows)
    return error, target.mul_(2 * weight)
