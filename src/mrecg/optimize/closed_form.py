"""Round the weights of a group in closed form, layer after layer in execution order, each on what it reads behind those before it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, fx

from mrecg import distributed
from mrecg.cache.activation_cache import ActivationCache, run_quantized_units
from mrecg.graph.convolutions import plain_convolutions
from mrecg.graph.layer_matrix import LayerMatrix, weight_source
from mrecg.graph.layers import LAYER_OPERATORS
from mrecg.graph.units import Unit
from mrecg.planning.cost import images_per_pass
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.error_feedback import round_with_feedback
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState
from mrecg.shortage import Parts
from mrecg.torch_state import compute_precision

__all__ = ["round_in_closed_form"]

_LARGEST_PATCHES = 1 << 25
"""Bytes of the patches that are multiplied at once."""


@torch.no_grad()
def round_in_closed_form(
    prepared: PreparedGraph,
    cache: ActivationCache,
    members: Sequence[Unit],
    nearest: QuantizerState,
    exclude: Sequence[str] = (),
) -> QuantizerState:
    """Return a state in which each weight of a group is rounded with error feedback; scales stay.

    Args:
        prepared: the network.
        cache: what the group reads.
        members: neighboring units.
        nearest: of the network up to them, they themselves rounded to nearest.
        exclude: shell patterns of the layers that stay so.
    """
    state = nearest
    for position, unit in enumerate(members, start=1):
        for name, weight in prepared.learned_weights([unit], exclude).items():
            calls = _calls(unit, name, weight)
            if calls:
                statistics = _statistics(prepared, cache, members[:position], calls, weight, state)
                found = _rounded(prepared, name, calls[0].matrix, statistics, weight, state)
                state = state | QuantizerState({name: found})
    return state


@dataclass(frozen=True)
class _Call:
    """One call of a layer, and what leads to its input.

    Attributes:
        matrix: the layer.
        quantized, of_float: graphs that take what those of its unit take, and return what the layer reads.
    """

    matrix: LayerMatrix
    quantized: fx.GraphModule
    of_float: fx.GraphModule


def _calls(unit: Unit, name: str, weight: Tensor) -> list[_Call]:
    """Return the calls of a unit that multiply by a weight as the first of them does; none where no layer reads it."""
    whole = plain_convolutions(unit.quantized)
    bindings = dict(zip(unit.bindings, _arguments(whole)[len(unit.inputs) :], strict=True))
    pairs = zip(_layers(whole), _layers(unit.float_graph), strict=True)
    found = [
        _Call(
            LayerMatrix.of(quantized, weight),
            _up_to(whole, quantized),
            _up_to(unit.float_graph, of_float),
        )
        for quantized, of_float in pairs
        if weight_source(quantized) is bindings[name]
    ]
    places = [one.matrix.places(weight) for one in found]
    return [one for one, of in zip(found, places, strict=True) if torch.equal(of, places[0])]


def _arguments(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def _layers(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target in LAYER_OPERATORS]


def _up_to(whole: fx.GraphModule, layer: fx.Node) -> fx.GraphModule:
    """Return a graph that takes what a whole one takes, and returns what a layer in it reads."""
    graph = fx.Graph()
    made = {node: graph.node_copy(node) for node in _arguments(whole)}
    for node in whole.graph.nodes:
        if node is layer:
            break
        if node not in made:
            made[node] = graph.node_copy(node, made.__getitem__)
    graph.output(made[layer.args[0]])  # type: ignore[index]
    graph.eliminate_dead_code()
    return fx.GraphModule(whole, graph)


class _Statistics(NamedTuple):
    """Sums over all that a layer reads: X̃ᵀX̃, and X̃ᵀ(X − X̃)Wᵀ."""

    moments: Float[Tensor, "g k k"]
    shift: Float[Tensor, "g k r"]


def _statistics(
    prepared: PreparedGraph,
    cache: ActivationCache,
    members: Sequence[Unit],
    calls: Sequence[_Call],
    weight: Tensor,
    state: QuantizerState,
) -> _Statistics:
    """Return the statistics of a layer of the last member, over the images of all processes."""
    *before, unit = members
    bindings = prepared.bind(members, state)
    bound = [bindings[name] for name in unit.bindings]
    _, given = cache.inputs(members)

    def of_images(first: int, last: int) -> _Statistics:
        values = {name: one.portion(first, last) for name, one in given.items()}
        ideal_values = [cache.of_float[name].portion(first, last) for name in unit.inputs]
        with compute_precision("float32", prepared.device):
            values = run_quantized_units(before, values, bindings)
            found = [
                _of_call(
                    one.matrix,
                    one.quantized(*(values[name] for name in unit.inputs), *bound),
                    one.of_float(*ideal_values),
                    weight,
                )
                for one in calls
            ]
        return _summed(found)

    images = len(next(iter(given.values())))
    parts = Parts(cache.shortages, "passes of closed-form rounding")
    found = parts.over(images, min(map(images_per_pass, members)), of_images)
    sums = _summed(one for _, _, one in found)
    distributed.add_up(sums)
    return sums


def _of_call(matrix: LayerMatrix, read: Tensor, ideal: Tensor, weight: Tensor) -> _Statistics:
    """Return the statistics of some images, from what a call reads in the quantized and in the float network."""
    size = max(1, _LARGEST_PATCHES // (4 * matrix.patches(read[:1]).numel()))

    def of_rows(rows: Tensor, ideal_rows: Tensor) -> _Statistics:
        patches = matrix.patches(rows)
        moved = matrix.products(ideal_rows - rows, weight)
        return _Statistics((patches.mT @ patches).double(), (patches.mT @ moved).double())

    return _summed(map(of_rows, read.split(size), ideal.split(size)))


def _summed(parts: Iterable[_Statistics]) -> _Statistics:
    first, *others = parts
    for one in others:
        first.moments.add_(one.moments)
        first.shift.add_(one.shift)
    return first


def _rounded(
    prepared: PreparedGraph,
    name: str,
    matrix: LayerMatrix,
    statistics: _Statistics,
    weight: Tensor,
    state: QuantizerState,
) -> WeightState:
    """Return the state of a weight with its codes chosen by the statistics."""
    before, places = state.weights[name], matrix.places(weight)
    scaling = Scaling(*(one.double() for one in before.scaling))
    if scaling.scale.numel() > 1:
        scaling = Scaling(*(one.expand(weight.shape).reshape(-1)[places] for one in scaling))
    of_rows = weight.double().reshape(-1)[places]
    found = round_with_feedback(of_rows, *statistics, prepared.weights[name].grid, scaling)
    codes = torch.empty_like(before.codes, memory_format=torch.contiguous_format).view(-1)
    codes[places] = found.to(codes)
    return WeightState(
        torch.empty_like(before.codes).copy_(codes.view(weight.shape)), before.scaling
    )
