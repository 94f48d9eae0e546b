"""Records of what quantizers do to their values; they decide nothing."""

import torch
from jaxtyping import Integer
from torch import Tensor

from mrecg.quantizers.activation_sample import Distribution
from mrecg.quantizers.grid import Grid, Scaling
from mrecg.quantizers.weight import WeightState
from mrecg.records.record import ValuesRecord

__all__ = ["describe_activation", "describe_weight"]

_MOST_PARTS = 64
_INSIDE, _BESIDE = 32, 8
"""Parts of the range of an activation, and on either side of it."""


def describe_weight(grid: Grid, state: WeightState, axis: int | None) -> ValuesRecord:
    """Return how often each code is used, and which channels are 0.

    Args:
        grid: of the weight.
        state: its codes.
        axis: of the scales, where every channel has one; else axis 0 holds the channels.
    """
    codes, levels = state.codes, grid.high - grid.low + 1
    parts = min(levels, _MOST_PARTS)
    places = ((codes - grid.low) * parts / levels).long()
    zero = grid.quantize(torch.zeros_like(state.scaling.scale), state.scaling)
    others = (codes == zero).movedim(axis or 0, 0).flatten(1)
    return ValuesRecord(
        low=grid.low,
        high=grid.high,
        counts=_count(places, parts),
        channels=len(others),
        dead=int(others.all(1).sum()),
    )


def describe_activation(grid: Grid, scaling: Scaling, read: Distribution) -> ValuesRecord:
    """Return where the values of an activation are in the range of its quantizer, and which channels it loses."""
    ends = grid.dequantize(scaling.scale.new_tensor([grid.low, grid.high]), scaling)
    low, high = map(float, ends)
    width = max(high - low, torch.finfo(torch.float32).tiny)
    # Counted from the lower end, so that the many zeros behind a ReLU are inside.
    places = torch.floor((read.values - low) / width * _INSIDE)
    places = torch.where(read.values == high, _INSIDE - 1, places)
    places = places.clamp(-_BESIDE, _INSIDE + _BESIDE - 1) + _BESIDE
    smallest, largest = (
        grid.quantize(ends, scaling) for ends in (read.channel_low, read.channel_high)
    )
    zero = grid.quantize(torch.zeros_like(scaling.scale), scaling)
    dead, mean = (smallest == zero) & (largest == zero), read.channel_mean
    return ValuesRecord(
        low=low,
        high=high,
        counts=_count(places.long(), _INSIDE + 2 * _BESIDE),
        channels=len(mean),
        dead=int(dead.sum()),
        saturated=int((((mean < low) | (mean > high)) & ~dead).sum()),
    )


def _count(places: Integer[Tensor, "..."], parts: int) -> tuple[int, ...]:
    """Return how many values are in each part."""
    return tuple(torch.bincount(places.flatten(), minlength=parts).tolist())
