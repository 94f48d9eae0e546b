"""From what a placement asks for to quantizers with a range."""

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.config.settings import ActivationSettings, TensorSettings
from mrecg.errors import RecipeError
from mrecg.graph.insert import QuantizerRequest
from mrecg.quantizers.grid import Grid, Scaling
from mrecg.quantizers.logarithmic import GRID, LogarithmicActivation, LogarithmicWeight
from mrecg.quantizers.lsq import ActivationQuantizer
from mrecg.quantizers.range_search import (
    ACTIVATION_SHRINKAGE,
    WEIGHT_SHRINKAGE,
    Sample,
    find_scaling,
)
from mrecg.quantizers.weight import WeightQuantizer

__all__ = ["calibrate", "make_activation", "make_weight"]


def make_weight(
    request: QuantizerRequest, weight: Tensor, settings: TensorSettings
) -> WeightQuantizer:
    """A weight quantizer with the range of each channel, or of the whole tensor."""
    grid = _grid(request, settings)
    if request.fixed is not None:
        return WeightQuantizer(weight, _fixed(request.fixed, weight), grid, fixed_scale=True)
    axis = request.channel_axis
    rows = weight.flatten().unsqueeze(0) if axis is None else weight.movedim(axis, 0).flatten(1)
    found = find_scaling(rows, grid, settings, WEIGHT_SHRINKAGE)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    scaling = Scaling(found.scale.view(shape), found.zero_point.view(shape))
    if settings.logarithmic:
        return LogarithmicWeight(weight, scaling)
    return WeightQuantizer(weight, scaling, grid, fixed_scale=settings.power_of_two)


def make_activation(request: QuantizerRequest, settings: ActivationSettings) -> ActivationQuantizer:
    """An activation quantizer without a range yet, unless the placement fixes it."""
    grid = _grid(request, settings)
    if settings.logarithmic:
        return LogarithmicActivation()
    fixed = None if request.fixed is None else _fixed(request.fixed, torch.zeros(()))
    return ActivationQuantizer(grid, fixed, settings.power_of_two)


def calibrate(quantizer: ActivationQuantizer, sample: Sample, settings: ActivationSettings) -> None:
    """Give an activation quantizer its range, unless the placement fixes it; several processes find the same."""
    if quantizer.fixed_scaling is None:
        ends = torch.stack(distributed.extremes(sample.low, sample.high))
        values = torch.cat([ends, distributed.gather_rows(sample.rows()).flatten()]).unsqueeze(0)
        found = find_scaling(values, quantizer.grid, settings, ACTIVATION_SHRINKAGE)
        quantizer.scaling = Scaling(found.scale[0], found.zero_point[0])


def _grid(request: QuantizerRequest, settings: TensorSettings) -> Grid:
    grid = Grid(request.low, request.high, request.symmetric)
    if settings.logarithmic and (grid, request.channel_axis, request.fixed) != (GRID, None, None):
        raise RecipeError(
            f"The quantizer asks for the codes {grid.low} to {grid.high}, expected {GRID.low} to {GRID.high}, symmetric, "
            "with one range for the whole tensor and none given: the recipe wants logarithmic codes."
        )
    return grid


def _fixed(values: tuple[float, int], like: Tensor) -> Scaling:
    return Scaling(like.new_tensor(values[0]), like.new_tensor(values[1]))
