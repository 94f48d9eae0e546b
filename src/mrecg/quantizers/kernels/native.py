"""Fake quantization and soft rounding by the compiled kernels, one pass over memory in each direction.

Nothing is kept for the backward passes but the arguments: computing again takes less time than another pass over memory.
On small tensors a call takes longer than its kernel, so that a microsecond counts.
"""

import torch
from torch import Tensor, get_num_threads

from mrecg.quantizers.kernels.compilation import PART, loaded
from mrecg.quantizers.kernels.strides import match_strides

__all__ = [
    "fake_quantize",
    "fake_quantize_backward",
    "grid_errors",
    "soft_rounding",
    "soft_rounding_backward",
]


def fake_quantize(
    x: Tensor,
    keep: Tensor | None,
    scale: Tensor,
    lowest: float,
    highest: float,
    floor: float,
    ceiling: float,
) -> Tensor:
    """Return the quantized and dequantized `x`, clipped to [floor, ceiling] first."""
    assert scale.dtype == torch.float32
    assert keep is None or keep.dtype == torch.float32
    quantized = torch.empty_like(x)
    x = match_strides(x, quantized)  # which is dense
    keep = None if keep is None else match_strides(keep, quantized)
    loaded().fake_quantize(
        *(get_num_threads(), x.numel(), x.data_ptr(), None if keep is None else keep.data_ptr()),
        *(scale.data_ptr(), lowest, highest, floor, ceiling, quantized.data_ptr()),
    )
    return quantized


def fake_quantize_backward(
    gradient: Tensor,
    x: Tensor,
    unit: Tensor,
    keep: Tensor | None,
    scale: Tensor,
    lowest: float,
    highest: float,
    floor: float,
    ceiling: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the scale's factor."""
    of_x, of_factor = torch.empty_like(x), torch.empty_like(unit)
    gradient, x = match_strides(gradient, of_x), match_strides(x, of_x)
    keep = None if keep is None else match_strides(keep, of_x)
    size = x.numel()
    sums = of_factor if size <= PART else x.new_empty(-(-size // PART))
    loaded().fake_quantize_backward(
        *(get_num_threads(), size, x.data_ptr(), None if keep is None else keep.data_ptr()),
        *(scale.data_ptr(), lowest, highest, floor, ceiling, gradient.data_ptr(), unit.data_ptr()),
        *(of_x.data_ptr(), sums.data_ptr(), of_factor.data_ptr()),
    )
    return of_x, of_factor


def soft_rounding(
    alpha: Tensor, base: Tensor, span: Tensor, scale_delta: Tensor, levels: int
) -> Tensor:
    """Return the softly rounded weight. Its tensors `lie_in_rows`."""
    assert base.dtype == span.dtype == scale_delta.dtype == torch.float32
    soft = torch.empty_like(alpha)
    alpha = match_strides(alpha, soft)
    base, span = match_strides(base, soft), match_strides(span, soft)
    rows = len(alpha)
    loaded().soft_rounding(
        *(get_num_threads(), rows, alpha.numel() // rows, int(scale_delta.numel() > 1)),
        *(1 / levels, alpha.data_ptr(), base.data_ptr(), span.data_ptr()),
        *(scale_delta.data_ptr(), soft.data_ptr()),
    )
    return soft


def soft_rounding_backward(
    gradient: Tensor,
    alpha: Tensor,
    base: Tensor,
    span: Tensor,
    scale_delta: Tensor,
    levels: int,
    strength: float | Tensor,
    exponent: float | Tensor,
    learns_scale: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of α, with the slope of the rounding penalty, and of the scale deltas, learned or not."""
    of_alpha = torch.empty_like(alpha)
    gradient, alpha = match_strides(gradient, of_alpha), match_strides(alpha, of_alpha)
    base, span = match_strides(base, of_alpha), match_strides(span, of_alpha)
    rows = len(alpha)
    each_row = scale_delta.numel() == rows
    of_rows = torch.empty_like(scale_delta) if each_row else alpha.new_empty(rows)
    loaded().soft_rounding_backward(
        *(get_num_threads(), rows, alpha.numel() // rows, int(scale_delta.numel() > 1)),
        *(1 / levels, alpha.data_ptr(), base.data_ptr(), span.data_ptr()),
        *(scale_delta.data_ptr(), gradient.data_ptr(), float(strength), float(exponent)),
        *(of_alpha.data_ptr(), of_rows.data_ptr()),
    )
    return of_alpha, of_rows if each_row else of_rows.sum().view_as(scale_delta)


def grid_errors(
    points: Tensor,
    counts: Tensor | None,
    scale: Tensor,
    zero_point: Tensor,
    lowest: float,
    highest: float,
    exponent: float,
) -> Tensor:
    """Return the error of each row of points under each of its candidates."""
    points, scale, zero_point = points.contiguous(), scale.contiguous(), zero_point.contiguous()
    counts = None if counts is None else counts.contiguous()
    errors = torch.empty_like(scale)
    loaded().grid_errors(
        *(get_num_threads(), *points.shape, scale.shape[1], points.data_ptr()),
        *(None if counts is None else counts.data_ptr(), scale.data_ptr(), zero_point.data_ptr()),
        *(lowest, highest, exponent, errors.data_ptr()),
    )
    return errors
