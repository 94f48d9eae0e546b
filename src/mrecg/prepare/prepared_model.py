"""A model taken apart: its graph with quantizers, and the chain of units that share them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError
from mrecg.graph.capture import capture
from mrecg.graph.insert import PlacedQuantizer, Quantizer, freeze, place
from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS, layer_name, layers_of, module_path
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.graph.units import Chain, Unit, cut
from mrecg.prepare.clipping import fuse_clipping
from mrecg.prepare.integer_bias import IntegerBias, make_integer_biases
from mrecg.prepare.quantizers import make_activation, make_weight
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.lsq import ActivationQuantizer
from mrecg.quantizers.weight import WeightQuantizer
from mrecg.records.record import QuantizerRecord

__all__ = ["Assembly", "Held", "assemble"]


IMAGE_BITS = 8
"""Width from which on the step of the network's input stays as calibrated."""


@dataclass(frozen=True)
class Assembly:
    """A model with quantizers, cut into units.

    Attributes:
        graph: the whole model.
        quantizers: its quantizers, in order.
        chain: its units, which share the graph's modules.
        device: where its parameters are.
        left_in_float: convolutions and linear layers whose weight has no quantizer.
        biases: those that integer hardware adds to a sum of codes, by the layer's node.
    """

    graph: fx.GraphModule
    quantizers: tuple[PlacedQuantizer, ...]
    chain: Chain
    device: torch.device
    left_in_float: tuple[str, ...]
    biases: Mapping[str, IntegerBias]

    def weights(self, units: Sequence[Unit]) -> dict[str, tuple[WeightQuantizer, Tensor]]:
        """The weight quantizers of some units, with their float weights."""
        found: dict[str, tuple[WeightQuantizer, Tensor]] = {}
        for unit in units:
            for name, parameter in unit.weights.items():
                module = self.graph.get_submodule(name)
                assert isinstance(module, WeightQuantizer)
                found[name] = (module, attrgetter(parameter)(self.graph))  # may be a fixed filter
        return found

    def learned_weights(
        self, units: Sequence[Unit], exclude: Sequence[str]
    ) -> dict[str, tuple[WeightQuantizer, Tensor]]:
        """Those of `weights` that serve a layer which no pattern in `exclude` matches."""
        return {
            name: found
            for name, found in self.weights(units).items()
            if not self._is_excluded(name, exclude)
        }

    def _is_excluded(self, name: str, patterns: Sequence[str]) -> bool:
        readers = next(placed.readers for placed in self.quantizers if placed.name == name)
        matched = [any(fnmatchcase(layer, one) for one in patterns) for layer in readers]
        return bool(matched) and all(matched)

    def activations(self, units: Sequence[Unit]) -> dict[str, ActivationQuantizer]:
        """The activation quantizers of some units."""
        found = {}
        for name in (name for unit in units for name in unit.activations):
            module = self.graph.get_submodule(name)
            assert isinstance(module, ActivationQuantizer)
            found[name] = module
        return found

    def biases_of(self, units: Sequence[Unit]) -> list[IntegerBias]:
        """The integer biases of some units."""
        nodes = (node.name for unit in units for node in unit.quantized.graph.nodes)
        return [self.biases[name] for name in nodes if name in self.biases]

    def learned_activations(self, units: Sequence[Unit]) -> dict[str, ActivationQuantizer]:
        """Those of `activations` whose step is worth learning.

        The images' at 8 bits or more is not: its error is a thousandth of the others', and learning it needs the
        gradient of the images, which doubles the cost of the first unit.
        """
        images = {
            placed.name
            for placed in self.quantizers
            if placed.tensor == self.chain.input and placed.request.bits >= IMAGE_BITS
        }
        found = self.activations(units)
        return {name: quantizer for name, quantizer in found.items() if name not in images}

    def describe(self) -> tuple[QuantizerRecord, ...]:
        """The quantizers as they are now."""
        described = []
        for placed in self.quantizers:
            scaling = self._quantizer(placed).scaling
            assert scaling is not None, "describe after the reconstruction"
            low, high = torch.aminmax(scaling.scale)
            described.append(
                QuantizerRecord(
                    name=placed.name,
                    kind="weight" if placed.is_weight else "activation",
                    tensor=placed.tensor,
                    readers=placed.readers,
                    low=placed.request.low,
                    high=placed.request.high,
                    scales=(float(low), float(high)),
                )
            )
        return tuple(described)

    def frozen(self) -> fx.GraphModule:
        """The result as one module of codes and fixed steps; the assembly is consumed."""
        results: dict[str, nn.Module] = {}
        for placed in self.quantizers:
            module = self._quantizer(placed)
            results[placed.name] = (
                module.coded() if isinstance(module, WeightQuantizer) else module.fixed()
            )
        finished = freeze(self.graph, self.quantizers, results)
        # The layout that a file restores: with another one, the same numbers may add up to other last bits.
        return laid_out(finished, torch.contiguous_format)

    def _quantizer(self, placed: PlacedQuantizer) -> WeightQuantizer | ActivationQuantizer:
        module = self.graph.get_submodule(placed.name)
        assert isinstance(module, WeightQuantizer | ActivationQuantizer)
        return module


@dataclass(frozen=True)
class Held:
    """What the quantizers of some units hold, to return to."""

    weights: Sequence[tuple[WeightQuantizer, Tensor, Scaling]]
    activations: Sequence[tuple[ActivationQuantizer, Scaling | None]]

    @classmethod
    def of(cls, assembly: Assembly, members: Sequence[Unit]) -> "Held":
        weights = [(one, one.codes, one.scaling) for one, _ in assembly.weights(members).values()]
        activations = [(one, one.scaling) for one in assembly.activations(members).values()]
        return cls(weights, activations)

    def put_back(self) -> None:
        for weight, codes, scaling in self.weights:
            weight.set_codes(codes, scaling)
        for activation, activation_scaling in self.activations:
            activation.scaling = activation_scaling


def assemble(
    model: nn.Module,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    quantizer: Quantizer | None,
) -> Assembly:
    """Capture a model, place quantizers and cut it into units.

    Args:
        model: is not changed.
        images: at least two, to trace with.
        recipe: widths, placement and granularity.
        quantizer: replaces the recipe's placement.

    Raises:
        CaptureError: the model cannot be captured.
        RecipeError: an override or an excluded pattern matches no layer.
    """
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    placement = quantizer or RecipePlacement(recipe.placement, recipe.weight, recipe.activation)
    graph, quantizers = place(
        # Convolutions are fastest channels last, above all depthwise ones.
        laid_out(capture(model, images[:2].to(device)), torch.channels_last),
        placement,
        make_weight=lambda request, weight: make_weight(request, weight, recipe.weight),
        make_activation=lambda request: make_activation(request, recipe.activation),
    )
    _check_patterns(recipe.reconstruct.exclude, quantizers)
    chain = cut(graph, quantizers, model, recipe.plan.granularity)
    quantizable = frozenset(layers_of(graph.graph))
    quantized = {reader for q in quantizers if q.is_weight for reader in q.readers}
    layers = dict.fromkeys(
        layer_name(node) if node in quantizable else module_path(node) or "the model itself"
        for node in graph.graph.nodes
        if node.target in CONVOLUTIONS_AND_PRODUCTS
    )
    left_in_float = tuple(name for name in layers if name not in quantized)
    biases = make_integer_biases(graph, chain.units)
    fuse_clipping(graph, chain.units)
    return Assembly(graph, quantizers, chain, device, left_in_float, biases)


def laid_out(module: fx.GraphModule, layout: torch.memory_format) -> fx.GraphModule:
    """The module itself, its four-dimensional tensors in another memory layout."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)
    return module


def _check_patterns(patterns: Sequence[str], quantizers: Sequence[PlacedQuantizer]) -> None:
    layers = [reader for placed in quantizers if placed.is_weight for reader in placed.readers]
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise RecipeError(
                f"The pattern '{pattern}' in reconstruct.exclude matches no quantized layer; "
                f"layers: {', '.join(dict.fromkeys(layers))}."
            )
