"""Annotate a graph with the quantizers that a recipe asks for, as a PT2E `Quantizer`."""

from collections.abc import Mapping
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
from mrecg.graph.layers import TRANSPOSED_OPERATORS, layer_name, layers_of
from mrecg.graph.operands import cannot_be_negative, find_operands, find_results

__all__ = ["RecipePlacement"]


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
        ancestors = _layer_ancestors(model.graph, layers)
        weight_bits, input_bits = self._default_bits(layers, ancestors)
        self._apply_overrides(layers, weight_bits, input_bits)
        # A tensor has one grid: the reader with the most bits decides, for weights and for inputs of layers.
        shared: dict[str, int] = {}
        for layer, width in weight_bits.items():
            shared[layer_name(layer)] = max(width, shared.get(layer_name(layer), 0))
        readers: dict[fx.Node, list[fx.Node]] = {}
        for layer in layers:
            readers.setdefault(layer.args[0], []).append(layer)  # type: ignore[arg-type]
        tensor_bits = {
            tensor: max(input_bits[layer] for layer in using) for tensor, using in readers.items()
        }
        for layer in layers:
            self._annotate_layer(layer, shared[layer_name(layer)], tensor_bits)
        if self.settings.shortcut == "quantized":
            for tensor, width in (self._other_bits(model.graph) | tensor_bits).items():
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

    def _other_bits(self, graph: fx.Graph) -> dict[fx.Node, int]:
        """Return the widths of the tensors that are quantized although no layer reads them."""
        if self.settings.tensors == "layers":
            return {}
        found = find_operands(graph, fuse_additions=self.settings.tensors == "fused-operands")
        if self.settings.tensors == "all":
            found += find_results(graph)
        returned = graph.output_node().all_input_nodes
        last = self.activation.bits
        if self.settings.first_last != "same":
            last = self.settings.first_last_bits
        return {tensor: last if tensor in returned else self.activation.bits for tensor in found}

    def _default_bits(
        self, layers: list[fx.Node], ancestors: Mapping[fx.Node, frozenset[fx.Node]]
    ) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
        weight = dict.fromkeys(layers, self.weight.bits)
        inputs = dict.fromkeys(layers, self.activation.bits)
        if self.settings.first_last == "same":
            return weight, inputs
        first = {layer for layer in layers if not ancestors[layer]}
        followed = frozenset().union(*ancestors.values()) if layers else frozenset()
        for layer in layers:
            if layer in first or layer not in followed:
                weight[layer] = self.settings.first_last_bits
                inputs[layer] = self.settings.first_last_bits
            elif self.settings.first_last == "brecq" and ancestors[layer] <= first:
                inputs[layer] = self.settings.first_last_bits
        return weight, inputs

    def _apply_overrides(
        self, layers: list[fx.Node], weight: dict[fx.Node, int], inputs: dict[fx.Node, int]
    ) -> None:
        for override in self.settings.overrides:
            matching = [node for node in layers if _is_named(layer_name(node), override.layers)]
            if not matching:
                names = ", ".join(dict.fromkeys(layer_name(node) for node in layers))
                raise RecipeError(
                    f"The override '{override.layers}' matches no layer of the model; layers: {names}."
                )
            for layer in matching:
                if override.weight_bits is not None:
                    weight[layer] = override.weight_bits
                if override.activation_bits is not None:
                    inputs[layer] = override.activation_bits

    def _weight_spec(self, layer: fx.Node, bits: int) -> QuantizationSpec | None:
        if bits == FLOAT_BITS:
            return None
        low, high = _code_range(bits, self.weight)
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
            ch_axis=int(layer.target in TRANSPOSED_OPERATORS) if per_channel else None,
        )

    def _activation_spec(self, tensor: fx.Node, bits: int) -> QuantizationSpec | None:
        if bits == FLOAT_BITS:
            return None
        settings = self.activation
        low, high = _code_range(bits, settings)
        if settings.symmetric and settings.unsigned and cannot_be_negative(tensor):
            low, high = 0, 2**bits - 1
        return QuantizationSpec(
            dtype=_container(low, high),
            observer_or_fake_quant_ctr=MinMaxObserver,
            quant_min=low,
            quant_max=high,
            qscheme=torch.per_tensor_symmetric if settings.symmetric else torch.per_tensor_affine,
        )


def _is_named(layer: str, pattern: str) -> bool:
    """Return whether a pattern is a layer's, or the name of a module that the layer is in."""
    return fnmatchcase(layer, pattern) or layer.startswith(f"{pattern}.")


def _code_range(bits: int, settings: TensorSettings) -> tuple[int, int]:
    """Return the lowest and the highest code; `settings.narrow` drops the lowest of a symmetric grid."""
    if not settings.symmetric:
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)) + settings.narrow, 2 ** (bits - 1) - 1


def _container(low: int, high: int) -> torch.dtype:
    """Return the dtype that a PT2E spec must name; it only has to hold the codes, `quant_min` and `quant_max` are the grid."""
    if high - low > 255:
        return torch.int32
    return torch.int8 if low < 0 else torch.uint8


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
