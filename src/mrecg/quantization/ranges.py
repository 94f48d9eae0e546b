"""Search for the range of a quantizer, for all channels and candidates at once."""

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg.quantization.grid import Grid, Scaling, dequantize, quantize, scaling_for_range
from mrecg.recipe import Ranges

__all__ = ["Sample", "error_search", "find_scaling", "minmax", "percentile"]

WEIGHT_SHRINKAGE = (0.21, 80)
"""Smallest factor and number of factors that the authors' code tries on weights."""
ACTIVATION_SHRINKAGE = (0.06, 95)
"""The same for activations."""

_BINS = 4096
_ELEMENTS_AT_ONCE = 1 << 22


class Sample:
    """Values of one tensor over many batches, condensed to extremes and an even subsample.

    Args:
        limit: how many values of each batch are kept at most.
    """

    def __init__(self, limit: int = 1 << 16) -> None:
        self.limit = limit
        self.low = torch.tensor(0.0)
        self.high = torch.tensor(0.0)
        self._parts: list[Tensor] = []

    def add(self, values: Float[Tensor, "..."]) -> None:
        """Take one batch into account."""
        flat = values.detach().flatten()
        low, high = torch.aminmax(flat)
        self.low = torch.minimum(self.low.to(low.device), low)
        self.high = torch.maximum(self.high.to(high.device), high)
        # An odd stride does not stay on one column of the feature map.
        stride = -(-flat.numel() // self.limit) | 1
        self._parts.append(flat[::stride].clone())

    def values(self) -> Float[Tensor, "1 n"]:
        """Extremes and subsample, as one channel."""
        ends = torch.stack([self.low, self.high])
        return torch.cat([ends, *self._parts]).unsqueeze(0)


def find_scaling(
    values: Float[Tensor, "c n"], grid: Grid, settings: Ranges, shrinkage: tuple[float, int]
) -> Scaling:
    """The scaling of each channel by the method that `settings` names.

    Args:
        values: one row per channel.
        grid: the codes.
        settings: the method and its numbers.
        shrinkage: smallest factor and number of factors of the error search.

    Returns:
        Scale and zero point of shape `c`.
    """
    if settings.method == "minmax":
        return minmax(values, grid)
    if settings.method == "percentile":
        return percentile(values, grid, settings.percentile)
    return error_search(values, grid, settings.p, shrinkage)


def minmax(values: Float[Tensor, "c n"], grid: Grid) -> Scaling:
    """The range from the smallest to the largest value."""
    low, high = torch.aminmax(values, dim=1)
    return scaling_for_range(low, high, grid)


def percentile(values: Float[Tensor, "c n"], grid: Grid, kept: float) -> Scaling:
    """The range that leaves 100 − `kept` percent of the values outside at either end."""
    ordered = values.sort(dim=1).values
    outside = int((1 - kept / 100) * (ordered.shape[1] - 1))
    return scaling_for_range(ordered[:, outside], ordered[:, -1 - outside], grid)


def error_search(
    values: Float[Tensor, "c n"], grid: Grid, p: float, shrinkage: tuple[float, int]
) -> Scaling:
    """Shrink both ends of the min-max range by common factors; the least mean |x − x_q|^p wins.

    Source: the observers of BRECQ, QDrop and MQBench (p = 2.4), there one candidate after another. Rows
    longer than a few thousand values are condensed to a histogram with exact bin means.
    """
    points, counts = (values, None) if values.shape[1] <= _BINS else _condense(values)
    low, high = torch.aminmax(values, dim=1)
    factors = torch.linspace(1.0, shrinkage[0], shrinkage[1], device=values.device)
    best = torch.cat(
        [
            _least_error(rows, weights, row_low, row_high, factors, grid, p)
            for rows, weights, row_low, row_high in _chunks(points, counts, low, high, len(factors))
        ]
    )
    return scaling_for_range(low * best, high * best, grid)


def _chunks(
    points: Tensor, counts: Tensor | None, low: Tensor, high: Tensor, candidates: int
) -> list[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    """Rows in portions that keep the table of candidates within bounds."""
    rows = max(1, _ELEMENTS_AT_ONCE // (points.shape[1] * candidates))
    count_rows = [None] * -(-len(points) // rows) if counts is None else list(counts.split(rows))
    return list(zip(points.split(rows), count_rows, low.split(rows), high.split(rows), strict=True))


def _least_error(
    points: Float[Tensor, "c n"],
    counts: Float[Tensor, "c n"] | None,
    low: Float[Tensor, " c"],
    high: Float[Tensor, " c"],
    factors: Float[Tensor, " k"],
    grid: Grid,
    p: float,
) -> Float[Tensor, " c"]:
    scaling = scaling_for_range(low[:, None] * factors, high[:, None] * factors, grid)  # c k
    spread = Scaling(scaling.scale[..., None], scaling.zero_point[..., None])  # c k 1
    candidates = points[:, None, :]
    error = (dequantize(quantize(candidates, spread, grid), spread) - candidates).abs_().pow_(p)
    total = error.sum(dim=2) if counts is None else (error * counts[:, None, :]).sum(dim=2)
    return factors[total.argmin(dim=1)]


def _condense(values: Float[Tensor, "c n"]) -> tuple[Float[Tensor, "c b"], Float[Tensor, "c b"]]:
    """Histogram of each row: the mean of every bin and how many values it holds."""
    low, high = torch.aminmax(values, dim=1, keepdim=True)
    width = ((high - low) / _BINS).clamp(min=torch.finfo(values.dtype).tiny)
    index = ((values - low) / width).long().clamp_(max=_BINS - 1)
    zeros = torch.zeros(len(values), _BINS, device=values.device)
    counts = zeros.scatter_add(1, index, torch.ones_like(values))
    sums = zeros.scatter_add(1, index, values)
    return sums / counts.clamp(min=1), counts
