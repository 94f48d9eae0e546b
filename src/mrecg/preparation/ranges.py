"""From what a placement asks for to quantizers, and their ranges."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor, fx

from mrecg import distributed
from mrecg.config.recipe import Recipe
from mrecg.config.settings import ActivationSettings, TensorSettings
from mrecg.errors import RecipeError
from mrecg.graph.insert import PlacedQuantizer, QuantizerRequest
from mrecg.preparation.roots import feeds_root
from mrecg.quantizers.activation import ActivationQuantizer
from mrecg.quantizers.activation_sample import ActivationSample
from mrecg.quantizers.grid import Grid, RangeSearch, Scaling, UniformGrid
from mrecg.quantizers.logarithmic import LogarithmicGrid, LogarithmicQuantizer
from mrecg.quantizers.lsq import UniformQuantizer
from mrecg.quantizers.range_search import (
    ACTIVATION_SHRINKAGE,
    WEIGHT_SHRINKAGE,
    SampledBatch,
    find_running_scaling,
    find_scaling,
)
from mrecg.quantizers.weight import WeightQuantizer

__all__ = ["calibrate_activation", "make_quantizers"]


def make_quantizers(
    graph: fx.GraphModule,
    placed: Sequence[PlacedQuantizer],
    recipe: Recipe,
    device: torch.device,
) -> tuple[dict[str, WeightQuantizer], dict[str, ActivationQuantizer]]:
    """Return what is placed in a graph as quantizers by name: of its weights, and of its activations.

    Args:
        graph: holds the weights and a marker at every quantizer.
        placed: those quantizers.
        recipe: how ranges are found.
        device: of the graph's tensors.
    """
    markers = {str(node.target): node for node in graph.graph.nodes if node.op == "call_module"}
    weights = {
        one.name: _weight_quantizer(one.request, attrgetter(one.tensor)(graph), recipe.weight)
        for one in placed
        if one.is_weight
    }
    activations = {
        one.name: _activation_quantizer(
            one.request, recipe.activation, device, feeds_root(markers[one.name])
        )
        for one in placed
        if not one.is_weight
    }
    return weights, activations


def _weight_quantizer(
    request: QuantizerRequest, weight: Tensor, settings: TensorSettings
) -> WeightQuantizer:
    """Return the quantizer of a weight, with the range of each channel or of the whole tensor."""
    grid = _grid(request, settings)
    if request.fixed is not None:
        return WeightQuantizer(grid, _prescribed(request.fixed, weight), fixed_scale=True)
    axis = request.channel_axis
    rows = weight.flatten().unsqueeze(0) if axis is None else weight.movedim(axis, 0).flatten(1)
    found = grid.calibrate(
        rows, partial(find_scaling, settings=settings, shrinkage=WEIGHT_SHRINKAGE)
    )
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    scaling = Scaling(found.scale.view(shape), found.zero_point.view(shape))
    return WeightQuantizer(grid, scaling, settings.power_of_two or not grid.is_uniform)


def _activation_quantizer(
    request: QuantizerRequest,
    settings: ActivationSettings,
    device: torch.device,
    feeds_root: bool,
) -> ActivationQuantizer:
    """Return the quantizer of an activation on a device; `feeds_root` as in `UniformQuantizer`."""
    grid = _grid(request, settings)
    if not isinstance(grid, UniformGrid):
        return LogarithmicQuantizer()
    prescribed = None
    if request.fixed is not None:
        prescribed = _prescribed(request.fixed, torch.zeros((), device=device))
    return UniformQuantizer(grid, prescribed, settings.power_of_two, feeds_root)


def calibrate_activation(
    quantizer: ActivationQuantizer,
    sample: ActivationSample,
    settings: ActivationSettings,
    batch_size: int,
) -> Scaling:
    """Return the scaling of a sampled tensor, unless a backend prescribes it; several processes find the same.

    Args:
        quantizer: knows its grid.
        sample: what it reads, of this process's images.
        settings: how the range is found.
        batch_size: images of all processes in a batch; it matters to a running mean only.
    """
    if quantizer.prescribed is not None:
        return quantizer.prescribed
    rows, ends = distributed.gather_rows(sample.rows()), distributed.gather_rows(sample.ends())
    kept = settings.ranges.running_mean
    search: RangeSearch
    if kept is None:
        search = partial(find_scaling, settings=settings, shrinkage=ACTIVATION_SHRINKAGE)
    else:
        batches = [
            SampledBatch(some.flatten()[None], (both[:, 0].amin()[None], both[:, 1].amax()[None]))
            for some, both in zip(rows.split(batch_size), ends.split(batch_size), strict=True)
        ]

        def search(values: Tensor, grid: UniformGrid) -> Scaling:
            return find_running_scaling(batches, grid, settings, ACTIVATION_SHRINKAGE, kept)

    found = quantizer.grid.calibrate(_with_ends(rows, ends), search)
    return Scaling(found.scale[0], found.zero_point[0])


def _with_ends(rows: Float[Tensor, "images k"], ends: Float[Tensor, "images 2"]) -> Tensor:
    """Return the smallest and the largest value of some images and their subsample, in one row."""
    pair = torch.stack([ends[:, 0].amin().clamp(max=0), ends[:, 1].amax().clamp(min=0)])
    return torch.cat([pair, rows.flatten()]).unsqueeze(0)


def _grid(request: QuantizerRequest, settings: TensorSettings) -> Grid:
    asked = UniformGrid(request.low, request.high, request.symmetric)
    if not settings.logarithmic:
        return asked
    grid = LogarithmicGrid()
    wanted = (grid.low, grid.high, grid.symmetric, None, None)
    if (*_fields(asked), request.channel_axis, request.fixed) != wanted:
        raise RecipeError(
            f"The quantizer asks for the codes {asked.low} to {asked.high}, expected {grid.low} to {grid.high}, symmetric, "
            "with one range for the whole tensor and none given: the recipe wants logarithmic codes."
        )
    return grid


def _fields(grid: Grid) -> tuple[int, int, bool]:
    return grid.low, grid.high, grid.symmetric


def _prescribed(values: tuple[float, int], like: Tensor) -> Scaling:
    return Scaling(like.new_tensor(values[0]), like.new_tensor(values[1]))
