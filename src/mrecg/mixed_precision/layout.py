"""Layout of a quantized network: what each layer costs, and which widths a recipe leaves open."""

import copy
import glob
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from torch import Tensor, fx, nn

from mrecg.config.recipe import Recipe
from mrecg.config.settings import FLOAT_BITS, LayerOverride
from mrecg.config.targets import ACADEMIC, find_backend
from mrecg.errors import RecipeError
from mrecg.graph.capture import capture_graph
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.insert import PlacedQuantizer, insert_quantizers
from mrecg.graph.layers import (
    TRANSPOSED_OPERATORS,
    layer_name,
    layers_of,
    traced_value,
    weight_operand,
)
from mrecg.graph.recipe_placement import RecipePlacement
from mrecg.records.sensitivity import LayerCost, QuantizedKind
from mrecg.torch_state import device_of

__all__ = ["WIDEST", "NetworkLayout", "PlacedLayer", "allowed_widths", "only_these", "read_layout"]

WIDEST = 8
"""Width up to which there is a choice; 16 bits are for activations that a target wants so."""


@dataclass(frozen=True)
class PlacedLayer:
    """One layer under a recipe.

    Attributes:
        name: of the layer.
        parameters, channels: elements and output channels of its weight.
        products: multiplications for one image, over all its calls.
        bits: of its weight and of what it reads; 32 is float.
        free: whether the recipe's own width decides these, and so another one may.
    """

    name: str
    parameters: int
    channels: int
    products: int
    bits: Mapping[QuantizedKind, int]
    free: Mapping[QuantizedKind, bool]


@dataclass(frozen=True)
class NetworkLayout:
    """The layers of a network under a recipe.

    Attributes:
        layers: in execution order.
        other_bytes: of what is in no layer's weight.
    """

    layers: tuple[PlacedLayer, ...]
    other_bytes: int

    def free(self, kind: QuantizedKind) -> tuple[str, ...]:
        """Return the layers whose width may be chosen."""
        return tuple(layer.name for layer in self.layers if layer.free[kind])

    def costs(self, units: Mapping[tuple[QuantizedKind, str], str]) -> tuple[LayerCost, ...]:
        """Return what each layer costs.

        Args:
            units: names of the units that decide the widths of layers, by kind and layer.
        """
        return tuple(
            LayerCost(
                name=layer.name,
                parameters=layer.parameters,
                bytes_besides=0 if layer.bits["weight"] == FLOAT_BITS else 4 * layer.channels,
                zero_points=0 if layer.bits["weight"] == FLOAT_BITS else layer.channels,
                products=layer.products,
                weight_bits=layer.bits["weight"],
                activation_bits=layer.bits["activation"],
                weight_unit=units.get(("weight", layer.name)),
                activation_unit=units.get(("activation", layer.name)),
            )
            for layer in self.layers
        )


def allowed_widths(recipe: Recipe, kind: QuantizedKind) -> tuple[int, ...]:
    """Return the widths up to 8 bits that the recipe's target can hold, in ascending order."""
    name = recipe.placement.backend
    if name == ACADEMIC:
        return tuple(range(2, WIDEST + 1))
    backend = find_backend(name)
    widest = backend.weight_bits if kind == "weight" else backend.activation_bits
    return tuple(range(backend.narrowest_bits, min(widest, WIDEST) + 1))


def only_these(recipe: Recipe, kind: QuantizedKind, layers: Iterable[str], bits: int) -> Recipe:
    """Return a recipe that quantizes the weights of some layers, or what they read, and nothing else."""
    chosen = [
        LayerOverride(layers=glob.escape(name), **{f"{kind}_bits": bits})
        for name in sorted(layers, key=len)
    ]
    everything = LayerOverride(layers="*", weight_bits=FLOAT_BITS, activation_bits=FLOAT_BITS)
    return recipe.override(
        {
            "placement.overrides": [one.model_dump() for one in (everything, *chosen)],
            "reconstruct.exclude": [],
        }
    )


def read_layout(
    model: nn.Module,
    images: ModelInputs,
    recipe: Recipe,
    kinds: Sequence[QuantizedKind],
) -> NetworkLayout:
    """Return the layers of a network, and which widths of some kinds may be chosen.

    A width may be chosen where it follows the recipe's own: the network is annotated at two widths, and what has the same bits in
    both is prescribed by something else, such as `placement.first_last` or an override.

    Raises:
        RecipeError: the target has a single width; or the recipe leaves all in float.
    """
    captured = capture_graph(model, images[:2].to(device_of(model)))
    pairs = {kind: allowed_widths(recipe, kind)[:2] for kind in kinds}
    for kind, pair in pairs.items():
        if len(pair) < 2:
            raise RecipeError(
                f"The backend '{recipe.placement.backend}' holds {kind}s of {pair[0]} bits only, so there is no width to choose."
            )
    annotated = [_Annotated.of(captured, recipe)]
    for place in (0, 1):
        widths = {f"{kind}.bits": pair[place] for kind, pair in pairs.items()}
        annotated.append(_Annotated.of(captured, recipe.override(widths)))
    return NetworkLayout(tuple(_layers(*annotated)), annotated[0].other_bytes())


@dataclass(frozen=True)
class _Annotated:
    """A graph with the quantizers of one recipe."""

    graph: fx.GraphModule
    placed: Mapping[str, PlacedQuantizer]

    @classmethod
    def of(cls, captured: fx.GraphModule, recipe: Recipe) -> "_Annotated":
        placement = RecipePlacement(recipe.placement, recipe.weight, recipe.activation)
        with warnings.catch_warnings():
            # torch's own trees, on being copied; nothing that we call is deprecated.
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            copied = copy.deepcopy(captured)
        graph, placed = insert_quantizers(copied, placement)
        return cls(graph, {one.name: one for one in placed})

    def bits(self) -> dict[str, dict[QuantizedKind, int]]:
        """Return the widths of each layer: of its weight, and the widest of what its calls read."""
        found: dict[str, dict[QuantizedKind, int]] = {}
        for node in layers_of(self.graph.graph):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            read = self._bits_of(source)
            before = found.get(layer_name(node), {}).get("activation", 0)
            found[layer_name(node)] = {
                "weight": self._bits_of(weight_operand(node)),
                "activation": max(read, before),
            }
        return found

    def _bits_of(self, node: fx.Node) -> int:
        placed = self.placed.get(str(node.target)) if node.op == "call_module" else None
        return FLOAT_BITS if placed is None else placed.request.bits

    def other_bytes(self) -> int:
        """Return the bytes of the constants that no quantizer reads."""
        quantized = {one.tensor for one in self.placed.values() if one.is_weight}
        paths = {str(node.target) for node in self.graph.graph.nodes if node.op == "get_attr"}
        tensors = [attrgetter(path)(self.graph) for path in paths - quantized]
        layers = {str(_parameter(node)) for node in layers_of(self.graph.graph)}
        in_float: int = sum(attrgetter(path)(self.graph).numel() for path in layers - quantized)
        return 4 * (sum(one.numel() for one in tensors if isinstance(one, Tensor)) - in_float)


def _parameter(layer: fx.Node) -> object:
    operand = weight_operand(layer)
    return operand.all_input_nodes[0].target if operand.op == "call_module" else operand.target


def _layers(given: _Annotated, narrow: _Annotated, wide: _Annotated) -> Iterable[PlacedLayer]:
    bits, low, high = given.bits(), narrow.bits(), wide.bits()
    products: dict[str, int] = {}
    for node in layers_of(given.graph.graph):
        products[layer_name(node)] = products.get(layer_name(node), 0) + _products(node)
    nodes = {layer_name(node): node for node in layers_of(given.graph.graph)}
    kinds: tuple[QuantizedKind, ...] = ("weight", "activation")
    for name, node in nodes.items():
        weight = traced_value(node.args[1])  # type: ignore[arg-type]
        assert isinstance(weight, Tensor)
        free = {kind: low[name][kind] != high[name][kind] for kind in kinds}
        yield PlacedLayer(
            name=name,
            parameters=weight.numel(),
            channels=int(weight.shape[_channel_axis(node)]),
            products=products[name],
            bits=bits[name],
            free={kind: free[kind] and bits[name][kind] != FLOAT_BITS for kind in kinds},
        )


def _channel_axis(layer: fx.Node) -> int:
    return int(layer.target in TRANSPOSED_OPERATORS)


def _products(layer: fx.Node) -> int:
    """Return the multiplications of one call for one image: each element of the weight serves every position once.

    The positions of a convolution are those of its output, of a transposed one those of its input, and of a linear layer all axes
    but the last.
    """
    weight, made = traced_value(layer.args[1]), traced_value(layer)  # type: ignore[arg-type]
    assert isinstance(weight, Tensor)
    assert isinstance(made, Tensor)
    if layer.target in TRANSPOSED_OPERATORS:
        made = traced_value(layer.args[0])  # type: ignore[arg-type]
        assert isinstance(made, Tensor)
    convolves = weight.ndim > 2
    positions = made.shape[2:] if convolves else made.shape[1:-1]
    return weight.numel() * math.prod(map(int, positions))
