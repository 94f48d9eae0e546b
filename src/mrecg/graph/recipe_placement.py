"""Annotate a graph with the quantizers that a recipe asks for, as a PT2E `Quantizer`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import fx

from mrecg.config.settings import FLOAT_BITS, ActivationSettings, Placement, TensorSettings
from mrecg.errors import RecipeError
from mrecg.graph.insert import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)
from mrecg.graph.layers import (
    LAYER_OPERATORS,
    TRANSPOSED_OPERATORS,
    data_nodes,
    layer_name,
    layers_of,
    module_path,
)
from mrecg.graph.operands import (
    cannot_be_negative,
    find_convolution_results,
    find_operands,
    find_results,
    integer_operators,
    nodes_before_layers,
)
from mrecg.graph.operators import operator_of

__all__ = ["RESULT_BITS", "RecipePlacement", "code_range", "find_last_layers"]

RESULT_BITS = 8
"""Least width of a result that is rounded only so that its layer runs in integers: no product gets cheaper by fewer."""


class RecipePlacement(Quantizer):
    """Annotate what a recipe quantizes; by default what BRECQ, QDrop and MRECG simulate.

    Weights and inputs of every convolution and linear layer are quantized; other tensors where `settings.tensors`
    asks for them. First and last layers, found by role, use their own width.
    """

    def __init__(
        self, settings: Placement, weight: TensorSettings, activation: ActivationSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        self.weight = weight
        self.activation = activation

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Write `quantization_annotation` into the nodes of `model` and return it.

        PT2E annotates edges (an operator's input) or outputs. In the papers the shortcut sees the quantized tensor, so
        every reader must: the producer's output is annotated. With `shortcut=float` only the layers' edges are.
        """
        layers = layers_of(model.graph)
        widths = self._default_widths(model.graph, layers)
        self._apply_overrides(model.graph, widths)
        self._leave_in_float(widths)
        # A weight has one grid: the layer with the most bits decides.
        shared: dict[str, int] = {}
        for layer, width in widths.weights.items():
            shared[layer_name(layer)] = max(width, shared.get(layer_name(layer), 0))
        tensor_bits = _widest(widths.inputs, _inputs_of(layers))
        for layer in layers:
            self._annotate_layer(layer, shared[layer_name(layer)], tensor_bits)
        if self.settings.shortcut == "quantized":
            for tensor, width in (self._other_bits(model.graph, widths) | tensor_bits).items():
                annotation = tensor.meta.setdefault(
                    "quantization_annotation", QuantizationAnnotation(_annotated=True)
                )
                annotation.output_qspec = self._activation_spec(tensor, width)
        return model

    def _annotate_layer(
        self, layer: fx.Node, weight_bits: int, tensor_bits: Mapping[fx.Node, int]
    ) -> None:
        source = layer.args[0]
        assert isinstance(source, fx.Node)
        specs: dict[fx.Node, QuantizationSpec | None] = {
            layer.args[1]: self._weight_spec(layer, weight_bits)  # type: ignore[dict-item]
        }
        if self.settings.shortcut == "float":
            specs[source] = self._activation_spec(source, tensor_bits[source])
        layer.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map=specs, _annotated=True
        )

    def validate(self, model: fx.GraphModule) -> None:
        """Do nothing, as `Quantizer` asks for the method: every annotation is our own."""

    def _other_bits(self, graph: fx.Graph, widths: "_Widths") -> dict[fx.Node, int]:
        """Return the widths of the tensors that are quantized although no layer reads them."""
        tensors = self.settings.tensors
        if tensors == "layers":
            return {}
        operands = find_operands(graph, fuse_additions=tensors == "fused-operands")
        found = _widest(widths.inputs, operands)
        if tensors == "all":
            return _widest(widths.results, find_results(graph)) | found
        if tensors == "operands":
            quantized = frozenset([*found, *_inputs_of(layers_of(graph))])
            rounded = find_convolution_results(graph, quantized)
            wide = {layer: max(bits, RESULT_BITS) for layer, bits in widths.results.items()}
            return _widest(wide, rounded) | found
        return found

    def _default_widths(self, graph: fx.Graph, layers: list[fx.Node]) -> "_Widths":
        others = integer_operators(graph)
        found = _Widths(
            weights=dict.fromkeys(layers, self.weight.bits),
            inputs=dict.fromkeys([*layers, *others], self.activation.bits),
            results=dict.fromkeys([*layers, *others], self.activation.bits),
        )
        if self.settings.first_last == "same":
            return found
        wide = self.settings.first_last_bits
        ancestors = _layer_ancestors(graph, layers)
        first = {layer for layer in layers if not ancestors[layer]}
        last = find_last_layers(graph)
        for layer in layers:
            if layer in first or layer in last:
                found.weights[layer] = found.inputs[layer] = wide
            elif self.settings.first_last == "brecq" and ancestors[layer] <= first:
                found.inputs[layer] = wide
        returned = graph.output_node().all_input_nodes
        for tensor, makers in find_results(graph).items():
            if tensor in returned:
                found.results.update(dict.fromkeys(makers, wide))
        return found

    def _apply_overrides(self, graph: fx.Graph, widths: "_Widths") -> None:
        operators = [node for node in data_nodes(graph) if node.op == "call_function"]
        for override in self.settings.overrides:
            matching = [node for node in operators if override_matches(node, override.layers)]
            layers = [node for node in matching if node in widths.weights]
            if not matching:
                names = ", ".join(dict.fromkeys(layer_name(node) for node in widths.weights))
                raise RecipeError(
                    f"The override '{override.layers}' matches no layer, module or operator of the model; layers: {names}."
                )
            if override.weight_bits is not None:
                if not layers:
                    raise RecipeError(
                        f"The override '{override.layers}' sets weight_bits, but names nothing with a weight to quantize; "
                        "set activation_bits."
                    )
                widths.weights.update(dict.fromkeys(layers, override.weight_bits))
            if override.activation_bits is not None:
                read = [node for node in matching if node in widths.inputs]
                widths.inputs.update(dict.fromkeys(read, override.activation_bits))
                others = [node for node in read if node not in widths.weights]
                widths.results.update(dict.fromkeys(others, override.activation_bits))

    def _leave_in_float(self, widths: "_Widths") -> None:
        """Leave weights in float that cannot have a scale for each output channel of all their layers, and results of float layers."""
        if self.settings.per_channel_weights:
            widths.weights.update(dict.fromkeys(_read_along_two_axes(widths.weights), FLOAT_BITS))
        for layer in widths.weights:
            # What is computed in float needs no grid behind it.
            if FLOAT_BITS in (widths.weights[layer], widths.inputs[layer]):
                widths.results[layer] = FLOAT_BITS

    def _weight_spec(self, layer: fx.Node, bits: int) -> QuantizationSpec | None:
        if bits == FLOAT_BITS:
            return None
        low, high = code_range(bits, self.weight)
        per_channel = self.settings.per_channel_weights
        scheme = {
            (True, True): torch.per_channel_symmetric,
            (True, False): torch.per_channel_affine,
            (False, True): torch.per_tensor_symmetric,
            (False, False): torch.per_tensor_affine,
        }[per_channel, self.weight.symmetric]
        return QuantizationSpec(
            dtype=_container(low, high),
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver if per_channel else MinMaxObserver,
            quant_min=low,
            quant_max=high,
            qscheme=scheme,
            ch_axis=_output_channels_axis(layer) if per_channel else None,
        )

    def _activation_spec(self, tensor: fx.Node, bits: int) -> QuantizationSpec | None:
        if bits == FLOAT_BITS:
            return None
        settings = self.activation
        low, high = code_range(bits, settings)
        if settings.symmetric and settings.unsigned and cannot_be_negative(tensor):
            low, high = 0, 2**bits - 1
        return QuantizationSpec(
            dtype=_container(low, high),
            observer_or_fake_quant_ctr=MinMaxObserver,
            quant_min=low,
            quant_max=high,
            qscheme=torch.per_tensor_symmetric if settings.symmetric else torch.per_tensor_affine,
        )


@dataclass(frozen=True)
class _Widths:
    """Bits by the layer or operator that asks for them.

    Attributes:
        weights: of layers.
        inputs: of what layers and operators read.
        results: of what they make, where nothing that reads it asks for bits.
    """

    weights: dict[fx.Node, int]
    inputs: dict[fx.Node, int]
    results: dict[fx.Node, int]


def _inputs_of(layers: Iterable[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Return the tensors that layers read, with these layers."""
    readers: dict[fx.Node, list[fx.Node]] = {}
    for layer in layers:
        readers.setdefault(layer.args[0], []).append(layer)  # type: ignore[arg-type]
    return readers


def _read_along_two_axes(layers: Iterable[fx.Node]) -> list[fx.Node]:
    """Return the layers that share a weight of which a convolution and a transposed one have their output channels on different axes."""
    layers = list(layers)
    axes: dict[str, set[int]] = {}
    for layer in layers:
        axes.setdefault(layer_name(layer), set()).add(_output_channels_axis(layer))
    return [layer for layer in layers if len(axes[layer_name(layer)]) > 1]


def _output_channels_axis(layer: fx.Node) -> int:
    return int(layer.target in TRANSPOSED_OPERATORS)


def _widest(
    bits: Mapping[fx.Node, int], asking: Mapping[fx.Node, Sequence[fx.Node]]
) -> dict[fx.Node, int]:
    """Return the bits of some tensors: a tensor has one grid, and who asks for the most bits decides."""
    return {tensor: max(bits[node] for node in nodes) for tensor, nodes in asking.items()}


def override_matches(node: fx.Node, pattern: str) -> bool:
    """Return whether a pattern names an operator, its layer, its kind, or a module that it is in."""
    path, packet = module_path(node), operator_of(node)
    names = [path, f"{path}:{node.name}" if path else node.name]
    if isinstance(packet, torch._ops.OpOverloadPacket):
        names.append(str(packet))
    if node.target in LAYER_OPERATORS:
        names.append(layer_name(node))
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for name in names)


def code_range(bits: int, settings: TensorSettings) -> tuple[int, int]:
    """Return the lowest and the highest code; `settings.narrow` drops the lowest of a symmetric grid."""
    if not settings.symmetric:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)) + settings.narrow, 2 ** (bits - 1) - 1


def _container(low: int, high: int) -> torch.dtype:
    """Return the dtype that a PT2E spec must name; it only has to hold the codes, `quant_min` and `quant_max` are the grid."""
    if high - low > 255:
        return torch.int32
    return torch.int8 if low < 0 else torch.uint8


def find_last_layers(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the layers whose results leave the network: no layer reads them, or they are returned, too.

    What is returned may have gone through operators of one tensor; an addition of two makes another tensor.
    """
    computed, layers = data_nodes(graph), frozenset(layers_of(graph))
    before = nodes_before_layers(graph)
    leaving: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for user in node.users:
            alone = len(computed.intersection(user.all_input_nodes)) == 1
            if user.op == "output" or (user in leaving and user not in layers and alone):
                leaving.add(node)
    return frozenset(node for node in layers if node in leaving or node not in before)


def _layer_ancestors(graph: fx.Graph, layers: list[fx.Node]) -> dict[fx.Node, frozenset[fx.Node]]:
    """Return for each layer the layers that its input depends on directly, with no other layer in between."""
    is_layer = frozenset(layers)
    nearest: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        found: set[fx.Node] = set()
        for source in node.all_input_nodes:
            found |= {source} if source in is_layer else nearest[source]
        nearest[node] = frozenset(found)
    return {layer: nearest[layer] for layer in layers}
