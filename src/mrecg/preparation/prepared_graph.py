"""A captured model with quantizers, cut into units."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn

from mrecg.config.recipe import Recipe
from mrecg.errors import CaptureError, ModelError, MrecgError, RecipeError, first_line
from mrecg.graph.capture import capture_graph
from mrecg.graph.extract import Insertions
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.insert import PlacedQuantizer, Quantizer, freeze, insert_quantizers
from mrecg.graph.layers import layer_name, layers_of, weight_operand, weighted_operators
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.graph.returned import return_floats
from mrecg.graph.transposed import put_output_channels_first
from mrecg.graph.units import Chain, Unit, cut_units
from mrecg.preparation.integer_bias import IntegerBias, insert_integer_biases
from mrecg.preparation.ranges import make_quantizers
from mrecg.preparation.value_records import describe_activation, describe_weight
from mrecg.quantizers.activation import ActivationQuantizer, FakeQuantizer
from mrecg.quantizers.activation_sample import Distribution
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightQuantizer
from mrecg.records.record import QuantizerRecord, ValuesRecord
from mrecg.torch_state import device_of

__all__ = ["Binding", "PreparedGraph", "prepare_graph", "set_memory_format"]

IMAGE_BITS = 8
"""Width from which on the scale of the network's input is not learned."""

Binding = Tensor | FakeQuantizer
"""An argument that a unit's graph takes by name: a quantized weight, a rounded bias, or an activation quantizer."""


@dataclass(frozen=True)
class PreparedGraph:
    """A model with quantizers, cut into units; nothing of it changes after it was made.

    Attributes:
        graph: the whole model, with a marker at every quantizer.
        placed: its quantizers, in order.
        weights, activations: the same by name: what each can do.
        biases: those that integer hardware adds to a sum of codes, by the path that the graph reads.
        chain: its units, which share the graph's parameters.
        device: where these are.
        left_in_float: layers and other products with a parameter whose weight has no quantizer.
    """

    graph: fx.GraphModule
    placed: tuple[PlacedQuantizer, ...]
    weights: Mapping[str, WeightQuantizer]
    activations: Mapping[str, ActivationQuantizer]
    biases: Mapping[str, IntegerBias]
    chain: Chain
    device: torch.device
    left_in_float: tuple[str, ...]

    def float_weights(self, units: Sequence[Unit]) -> dict[str, Tensor]:
        """Return the float weights of some units by the names of their quantizers."""
        return {
            name: attrgetter(path)(self.graph)  # a buffer, perhaps: a fixed filter
            for unit in units
            for name, path in unit.weights.items()
        }

    def learned_weights(self, units: Sequence[Unit], exclude: Sequence[str]) -> dict[str, Tensor]:
        """Return those of `float_weights` that serve a layer which no pattern in `exclude` matches."""
        readers = {quantizer.name: quantizer.readers for quantizer in self.placed}

        def is_excluded(name: str) -> bool:
            matched = [any(fnmatchcase(one, like) for like in exclude) for one in readers[name]]
            return bool(matched) and all(matched)

        found = self.float_weights(units)
        return {name: weight for name, weight in found.items() if not is_excluded(name)}

    def learned_activations(self, units: Sequence[Unit]) -> dict[str, ActivationQuantizer]:
        """Return the activation quantizers of some units whose scales may be learned.

        Those that the cut leaves to no unit may not, nor that of the images at 8 bits or more: its error is a thousandth of the others', and learning its scale needs the gradient of the images, which doubles
        the cost of the first unit.
        """
        images = {
            quantizer.name
            for quantizer in self.placed
            if quantizer.tensor in self.chain.inputs and quantizer.request.bits >= IMAGE_BITS
        }
        fixed = images | self.chain.fixed
        names = (name for unit in units for name in unit.activations if name not in fixed)
        return {name: self.activations[name] for name in names}

    def bind(
        self, units: Sequence[Unit], state: QuantizerState, without: Container[str] = ()
    ) -> dict[str, Binding]:
        """Return what the graphs of some units take under a state, but for the names in `without`."""
        bindings: dict[str, Binding] = {}
        for key in dict.fromkeys(key for unit in units for key in unit.bindings):
            if key in without:
                continue
            if key in self.weights:
                bindings[key] = self.weights[key].dequantize(state.weights[key])
            elif key in self.activations:
                bindings[key] = self.activations[key].fix(state.activations[key])
            else:
                bindings[key] = self._round_bias(self.biases[key], state)
        return bindings

    def describe(
        self, state: QuantizerState, distributions: Mapping[str, Distribution]
    ) -> tuple[QuantizerRecord, ...]:
        """Return the record of every quantizer under a state.

        Args:
            state: of the network.
            distributions: what activation quantizers read, where that is known.
        """
        described = []
        for placed in self.placed:
            scaling = (
                state.weights[placed.name].scaling
                if placed.is_weight
                else state.activations[placed.name]
            )
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
                    values=self._describe_values(placed, state, distributions.get(placed.name)),
                )
            )
        return tuple(described)

    def _describe_values(
        self, placed: PlacedQuantizer, state: QuantizerState, read: Distribution | None
    ) -> ValuesRecord | None:
        name = placed.name
        if placed.is_weight:
            axis = placed.request.channel_axis
            return describe_weight(self.weights[name].grid, state.weights[name], axis)
        if read is None:
            return None
        return describe_activation(self.activations[name].grid, state.activations[name], read)

    def freeze(self, state: QuantizerState) -> fx.GraphModule:
        """Return the model under a state as a module of its own: codes, fixed scales and rounded biases."""
        results: dict[str, nn.Module] = {
            name: quantizer.freeze(state.weights[name]) for name, quantizer in self.weights.items()
        }
        results |= {
            name: quantizer.freeze(state.activations[name])
            for name, quantizer in self.activations.items()
        }
        biases = {path: self._round_bias(bias, state) for path, bias in self.biases.items()}
        finished = freeze(self.graph, self.placed, results, biases)
        # The layout that a file restores: with another one, the same numbers may add up to other last bits.
        for tensor in (*finished.parameters(), *finished.buffers()):
            tensor.data = tensor.data.contiguous()
        return finished

    def _round_bias(self, bias: IntegerBias, state: QuantizerState) -> Tensor:
        return bias.round(state.activations[bias.activation], state.weights[bias.weight].scaling)


def prepare_graph(
    model: nn.Module,
    images: ModelInputs,
    recipe: Recipe,
    quantizer: Quantizer | None,
) -> PreparedGraph:
    """Capture a model, insert quantizers and cut it into units.

    Args:
        model: is not changed.
        images: inputs for at least two, to trace with.
        recipe: widths, placement, granularity and cut.
        quantizer: replaces the recipe's placement.

    Raises:
        CaptureError: the model cannot be captured.
        RecipeError: an override or an excluded pattern matches no layer.
        ModelError: the range of a weight is not finite.
    """
    device = device_of(model)
    placement = quantizer or RecipePlacement(recipe.placement, recipe.weight, recipe.activation)
    # Convolutions are fastest channels last, above all depthwise ones.
    captured = set_memory_format(capture_graph(model, images[:2].to(device)), torch.channels_last)
    if quantizer is None:
        graph, placed = insert_quantizers(captured, placement)
    else:
        graph, placed = _insert_anybodys(captured, quantizer)
    placed = put_output_channels_first(graph, placed)
    if quantizer is None:  # a vendor's own knows what its hardware returns
        return_floats(graph, {one.name for one in placed if not one.is_weight})
    _check_patterns(recipe.reconstruct.exclude, placed)
    weights, activations = make_quantizers(graph, placed, recipe, device)
    _require_finite_ranges(weights, placed)
    biases = insert_integer_biases(graph, weights, activations)
    inserted = Insertions(
        quantizers={one.name: one for one in placed},
        clipping={name for name, one in activations.items() if one.grid.is_uniform},
        biases={path: bias.float_path for path, bias in biases.items()},
    )
    chain = cut_units(graph, inserted, model, recipe.plan.granularity, recipe.plan.cut)
    left_in_float = _left_in_float(graph, placed)
    return PreparedGraph(
        graph=graph,
        placed=placed,
        weights=MappingProxyType(weights),
        activations=MappingProxyType(activations),
        biases=MappingProxyType(biases),
        chain=chain,
        device=device,
        left_in_float=left_in_float,
    )


def _require_finite_ranges(
    weights: Mapping[str, WeightQuantizer], placed: Sequence[PlacedQuantizer]
) -> None:
    for one in placed:
        if one.is_weight and not bool(weights[one.name].calibrated.scale.isfinite().all()):
            raise ModelError(
                f"The range of the weight '{one.tensor}' is not finite: its values, or their double, exceed float32; "
                "check the weights and the batch norms that are folded into them."
            )


def set_memory_format(module: fx.GraphModule, memory_format: torch.memory_format) -> fx.GraphModule:
    """Convert the weights of convolutions on images in place; return the module.

    Other parameters with four axes keep their layout: a model may view them as something else.
    """
    for path in {weight_operand(layer).target for layer in layers_of(module.graph)}:
        tensor = attrgetter(str(path))(module)
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return module


def _left_in_float(graph: fx.GraphModule, placed: Sequence[PlacedQuantizer]) -> tuple[str, ...]:
    quantized = {reader for one in placed if one.is_weight for reader in one.readers}
    owners = dict.fromkeys(weighted_operators(graph.graph).values())
    return tuple(name for name in owners if name not in quantized)


def _insert_anybodys(
    captured: fx.GraphModule, quantizer: Quantizer
) -> tuple[fx.GraphModule, tuple[PlacedQuantizer, ...]]:
    """Insert quantizers; what a vendor's quantizer raises, or that it finds nothing, is explained in one sentence."""
    calls = Counter(layer_name(layer) for layer in layers_of(captured.graph))
    try:
        graph, placed = insert_quantizers(captured, quantizer)
    except MrecgError:
        raise
    except Exception as error:  # quantizers are anybody's code
        shared = [name for name, count in calls.items() if count > 1]
        advice = "use the recipe's placement"
        if shared:
            advice = f"{advice}, or give each call of {', '.join(shared)} a layer of its own"
        raise CaptureError(
            f"The quantizer {type(quantizer).__name__} cannot annotate the model: {type(error).__name__}: {first_line(error)}; {advice}."
        ) from error
    if not any(one.is_weight for one in placed):
        raise CaptureError(
            f"The quantizer {type(quantizer).__name__} annotates none of the model's {len(calls)} layers, which would all stay in "
            f"float; set what it quantizes, or use a torchao made for torch {torch.__version__}."
        )
    return graph, placed


def _check_patterns(patterns: Sequence[str], placed: Sequence[PlacedQuantizer]) -> None:
    layers = [reader for one in placed if one.is_weight for reader in one.readers]
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise RecipeError(
                f"The pattern '{pattern}' in reconstruct.exclude matches no quantized layer; "
                f"layers: {', '.join(dict.fromkeys(layers))}."
            )
