"""Search for the range of a quantizer, for all channels and candidates at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from mrecg.config.settings import Ranges, TensorSettings
from mrecg.quantizers.grid import (
    Scaling,
    UniformGrid,
    scaling_for_range,
    usable_scale,
)
from mrecg.quantizers.kernels import formulas, grid_errors

__all__ = [
    "SampledBatch",
    "error_search",
    "extremes",
    "find_running_scaling",
    "find_scaling",
    "mean_and_std",
    "mean_magnitude",
    "percentile",
    "percentile_of_magnitudes",
    "power_of_two",
]

WEIGHT_SHRINKAGE = (0.21, 80)
"""Smallest factor and number of factors that the authors' code tries on weights."""
ACTIVATION_SHRINKAGE = (0.06, 95)
"""The same for activations."""

Range = tuple[Float[Tensor, " c"], Float[Tensor, " c"]]
"""The lower and the upper end of the range of each channel."""

_BINS = 4096
_ELEMENTS_AT_ONCE = 1 << 22
_SAME_ERROR = 1e-5
"""Errors that differ by this fraction are compared again; float32 computes one of 256 codes to about a quarter of it."""


class SampledBatch(NamedTuple):
    """Values of one batch, and its range.

    Attributes:
        values: a sample of them, in one row.
        ends: the smallest and the largest of all; they bound the range and count for no error, where a sample would give them
            the weight of many others.
    """

    values: Float[Tensor, "1 n"]
    ends: Range


def find_scaling(
    values: Float[Tensor, "c n"],
    grid: UniformGrid,
    settings: TensorSettings,
    shrinkage: tuple[float, int],
) -> Scaling:
    """Return the scaling of each channel by the method that `settings` names.

    Args:
        values: one row per channel.
        grid: the codes.
        settings: the method and its numbers, and whether scales are powers of two.
        shrinkage: smallest factor and number of factors of the error search.

    Returns:
        Scale and zero point of shape `c`.
    """
    if settings.ranges.method == "lsq":
        found = mean_magnitude(values, grid)
    else:
        found = scaling_for_range(*_find_range(values, grid, settings.ranges, shrinkage), grid)
    return _on_grid(found, values, grid, settings)


def find_running_scaling(
    batches: Sequence[SampledBatch],
    grid: UniformGrid,
    settings: TensorSettings,
    shrinkage: tuple[float, int],
    kept: float,
) -> Scaling:
    """Return the scaling of a range that is a running mean over batches (MQBench's observers named EMA).

    Args:
        batches: the values of each.
        grid, settings, shrinkage: as in `find_scaling`.
        kept: the weight of the mean so far when a batch is added to it; the first batch is the first mean.
    """
    found = [
        torch.stack(_find_range(one.values, grid, settings.ranges, shrinkage, one.ends))
        for one in batches
    ]
    mean = found[0]
    for ends in found[1:]:
        mean = kept * mean + (1 - kept) * ends
    scaling = scaling_for_range(mean[0], mean[1], grid)
    return _on_grid(scaling, torch.cat([one.values for one in batches], dim=1), grid, settings)


def _on_grid(
    found: Scaling, values: Tensor, grid: UniformGrid, settings: TensorSettings
) -> Scaling:
    if settings.power_of_two:
        return power_of_two(found, values, grid, settings.ranges.p)
    return found


def _find_range(
    values: Float[Tensor, "c n"],
    grid: UniformGrid,
    ranges: Ranges,
    shrinkage: tuple[float, int],
    ends: Range | None = None,
) -> Range:
    """Return the range of each row, of which `ends` are the extremes where it is a sample."""
    ends = ends or extremes(values)
    if ranges.method == "minmax":
        return ends
    if ranges.method == "percentile":
        return percentile(values, ranges.percentile)
    if ranges.method == "magnitude":
        return percentile_of_magnitudes(values, ranges.percentile, ends)
    if ranges.method == "std":
        return mean_and_std(values, ranges.std_multiple, ends)
    return error_search(values, grid, ranges.p, shrinkage, ends)


def extremes(values: Float[Tensor, "c n"]) -> Range:
    """Return the range from the smallest to the largest value."""
    return values.amin(dim=1), values.amax(dim=1)


def percentile(values: Float[Tensor, "c n"], kept: float) -> Range:
    """Return the range that leaves 100 − `kept` percent of the values outside at either end."""
    ordered = values.sort(dim=1).values
    outside = int((1 - kept / 100) * (ordered.shape[1] - 1))
    return ordered[:, outside], ordered[:, -1 - outside]


def percentile_of_magnitudes(values: Float[Tensor, "c n"], kept: float, ends: Range) -> Range:
    """Return `ends` cut at ± the magnitude that `kept` percent of the values stay below (MQBench's `EMAQuantileObserver`)."""
    low, high = ends
    _, reach = percentile(values.abs(), kept)
    return torch.maximum(low, -reach), torch.minimum(high, reach)


def mean_and_std(values: Float[Tensor, "c n"], multiple: float, ends: Range) -> Range:
    """Return the range of the mean ± `multiple` standard deviations, at least `ends`.

    That is MQBench's `ClipStdObserver`: despite its name it widens a range and never cuts a value off.
    """
    low, high = ends
    spread, mean = torch.std_mean(values, dim=1, correction=min(1, values.shape[1] - 1))
    reach = multiple * spread
    return torch.minimum(low, mean - reach), torch.maximum(high, mean + reach)


def mean_magnitude(values: Float[Tensor, "c n"], grid: UniformGrid) -> Scaling:
    """Return the scale `2 mean |x| / √(largest code)`, zero where the smallest value asks for it (Esser et al., ICLR 2020)."""
    scale = usable_scale(2 * values.abs().mean(dim=1) / grid.high**0.5)
    return Scaling(scale, _zero_point(values.amin(dim=1), scale, grid))


def power_of_two(
    scaling: Scaling, values: Float[Tensor, "c n"], grid: UniformGrid, p: float
) -> Scaling:
    """Return, of the powers of two below and above each scale, the one with the least mean |x − x_q|^p."""
    exponent = torch.log2(scaling.scale).floor()
    lowest = (grid.low - scaling.zero_point) * scaling.scale
    scales = torch.stack([torch.exp2(exponent), torch.exp2(exponent + 1)], dim=1)  # c 2
    candidates = Scaling(scales, _zero_point(lowest[:, None], scales, grid))
    best = torch.empty_like(scales[:, :1], dtype=torch.int64)
    size = max(1, _ELEMENTS_AT_ONCE // (2 * values.shape[1]))
    for first in range(0, len(values), size):
        rows = slice(first, first + size)
        points, counts = _points(values[rows])
        two = Scaling(*(each[rows] for each in candidates))
        best[rows] = _least_error(points, counts, two, grid, p)[:, None]
    return Scaling(*(each.gather(1, best).squeeze(1) for each in candidates))


def _zero_point(lowest: Tensor, scale: Tensor, grid: UniformGrid) -> Tensor:
    if grid.symmetric:
        return torch.zeros_like(scale)
    return torch.clamp(grid.low - torch.round(lowest.clamp(max=0) / scale), grid.low, grid.high)


def error_search(
    values: Float[Tensor, "c n"],
    grid: UniformGrid,
    p: float,
    shrinkage: tuple[float, int],
    ends: Range,
) -> Range:
    """Shrink both `ends` by common factors; the least mean |x − x_q|^p wins.

    Source: the observers of BRECQ, QDrop and MQBench (p = 2.4), there one candidate after another. Rows
    longer than a few thousand values are condensed to a histogram with exact bin means.
    """
    low, high = ends
    factors = torch.linspace(1.0, shrinkage[0], shrinkage[1], device=values.device)
    # Before the loop: small tensors that outlive a pass keep the memory of its large ones apart, which then grows.
    best = torch.empty_like(low)
    size = max(1, _ELEMENTS_AT_ONCE // (min(values.shape[1], _BINS) * len(factors)))
    for first in range(0, len(values), size):
        rows = slice(first, first + size)
        points, counts = _points(values[rows])
        scaling = scaling_for_range(low[rows, None] * factors, high[rows, None] * factors, grid)
        best[rows] = factors[_least_error(points, counts, scaling, grid, p)]
    return low * best, high * best


def _points(values: Float[Tensor, "c n"]) -> tuple[Tensor, Tensor | None]:
    """Return the values of rows, or, where there are many, histograms with how many values each bin holds."""
    return (values, None) if values.shape[1] <= _BINS else _condense(values)


def _least_error(
    points: Float[Tensor, "c n"],
    counts: Float[Tensor, "c n"] | None,
    candidates: Scaling,
    grid: UniformGrid,
    p: float,
) -> Integer[Tensor, " c"]:
    """Return which candidate (of scalings of shape `c k`) has the least Σ |x − x_q|^p, for each row."""
    codes = (grid.low, grid.high)
    errors = grid_errors(points, counts, *candidates, codes, p)
    best = errors.argmin(dim=1)
    # Errors this close are in another order by other arithmetic; torch's decides, so that results do not depend on a compiler.
    within = errors <= errors.amin(dim=1, keepdim=True) * (1 + _SAME_ERROR)
    (tied,) = torch.where((within & (errors > 0)).sum(dim=1) > 1)
    if len(tied):
        some, many = points[tied], None if counts is None else counts[tied]
        scaling = Scaling(*(one[tied] for one in candidates))
        best[tied] = formulas.grid_errors(some, many, *scaling, *codes, p).argmin(dim=1)
    return best


def _condense(values: Float[Tensor, "c n"]) -> tuple[Float[Tensor, "c b"], Float[Tensor, "c b"]]:
    """Return histogram of each row: the mean of every bin and how many values it holds."""
    low, high = torch.aminmax(values, dim=1, keepdim=True)
    width = ((high - low) / _BINS).clamp(min=torch.finfo(values.dtype).tiny)
    index = ((values - low) / width).long().clamp_(max=_BINS - 1)
    # In double precision: a value that a million others repeat would drift out of its bin otherwise.
    zeros = torch.zeros(len(values), _BINS, device=values.device, dtype=torch.float64)
    counts = zeros.scatter_add(1, index, torch.ones_like(values, dtype=torch.float64))
    sums = zeros.scatter_add(1, index, values.double())
    return (sums / counts.clamp(min=1)).to(values.dtype), counts.to(values.dtype)
