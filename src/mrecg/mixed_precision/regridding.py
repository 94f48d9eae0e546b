"""The same network at other widths: grids are exchanged, and nothing is captured again."""

from dataclasses import replace
from types import MappingProxyType

from mrecg.config.recipe import Recipe
from mrecg.graph.insert import QuantizerRequest
from mrecg.graph.recipe_placement import code_range
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.preparation.ranges import make_quantizers

__all__ = ["at_width"]


def at_width(prepared: PreparedGraph, recipe: Recipe, bits: int) -> PreparedGraph:
    """Return the same network with every quantizer at another width, without capturing it again."""
    placed = tuple(
        replace(one, request=_at(one.request, one.is_weight, recipe, bits))
        for one in prepared.placed
    )
    weights, activations = make_quantizers(prepared.graph, placed, recipe, prepared.device)
    return replace(
        prepared,
        placed=placed,
        weights=MappingProxyType(weights),
        activations=MappingProxyType(activations),
    )


def _at(request: QuantizerRequest, is_weight: bool, recipe: Recipe, bits: int) -> QuantizerRequest:
    settings = recipe.weight if is_weight else recipe.activation
    low, high = code_range(bits, settings)
    if request.low == 0 and settings.symmetric:  # of a tensor that cannot be negative
        low, high = 0, 2**bits - 1
    return replace(request, low=low, high=high)
