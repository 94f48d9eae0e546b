"""The placement that the papers simulate."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import fx

from mrecg.errors import RecipeError
from mrecg.graph.layers import TRANSPOSED_OPERATORS, layer_name, layers_of
from mrecg.graph.placement import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)
from mrecg.recipe import FLOAT_BITS, Placement

__all__ = ["PaperPlacement"]


class PaperPlacement(Quantizer):
    """The placement that BRECQ, QDrop and MRECG simulate (METHOD of the "Academic" backend).

    Weights and inputs of every convolution and linear layer are quantized. First and last layers, found by
    role, use their own width. `settings` names the first/last convention and what the shortcut sees.
    """

    def __init__(
        self, settings: Placement, bits: Mapping[str, int], symmetric: Mapping[str, bool]
    ) -> None:
        super().__init__()
        self.settings = settings
        self.bits = bits
        self.symmetric = symmetric

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        layers = layers_of(model.graph)
        ancestors = _layer_ancestors(model.graph, layers)
        weight_bits, input_bits = self._default_bits(layers, ancestors)
        self._apply_overrides(layers, weight_bits, input_bits)
        readers: dict[fx.Node, list[fx.Node]] = {}
        for layer in layers:
            readers.setdefault(layer.args[0], []).append(layer)  # type: ignore[arg-type]
        # One tensor has one grid, so the most precise of its readers decides.
        tensor_bits = {
            tensor: max(input_bits[layer] for layer in using) for tensor, using in readers.items()
        }
        quantized_shortcut = self.settings.shortcut == "quantized"
        for layer in layers:
            source = layer.args[0]
            specs: dict[fx.Node, QuantizationSpec | None] = {
                layer.args[1]: self._weight_spec(layer, weight_bits[layer])  # type: ignore[dict-item]
            }
            if not quantized_shortcut:
                specs[source] = self._activation_spec(tensor_bits[source])  # type: ignore[index]
            layer.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=specs, _annotated=True
            )
        if quantized_shortcut:
            for tensor, width in tensor_bits.items():
                annotation = tensor.meta.setdefault(
                    "quantization_annotation", QuantizationAnnotation(_annotated=True)
                )
                annotation.output_qspec = self._activation_spec(width)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: every annotation is our own."""

    def _default_bits(
        self, layers: list[fx.Node], ancestors: Mapping[fx.Node, frozenset[fx.Node]]
    ) -> tuple[dict[fx.Node, int], dict[fx.Node, int]]:
        weight = dict.fromkeys(layers, self.bits["weight"])
        inputs = dict.fromkeys(layers, self.bits["activation"])
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
            matching = [node for node in layers if fnmatchcase(layer_name(node), override.layers)]
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
        low, high = _code_range(bits, self.symmetric["weight"])
        per_channel = self.settings.per_channel_weights
        scheme = {
            (True, True): torch.per_channel_symmetric,
            (True, False): torch.per_channel_affine,
            (False, True): torch.per_tensor_symmetric,
            (False, False): torch.per_tensor_affine,
        }[per_channel, self.symmetric["weight"]]
        return QuantizationSpec(
            dtype=torch.int8 if low < 0 else torch.uint8,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver if per_channel else MinMaxObserver,
            quant_min=low,
            quant_max=high,
            qscheme=scheme,
            ch_axis=int(layer.target in TRANSPOSED_OPERATORS) if per_channel else None,
        )

    def _activation_spec(self, bits: int) -> QuantizationSpec | None:
        if bits == FLOAT_BITS:
            return None
        symmetric = self.symmetric["activation"]
        low, high = _code_range(bits, symmetric)
        return QuantizationSpec(
            dtype=torch.int8 if low < 0 else torch.uint8,
            observer_or_fake_quant_ctr=MinMaxObserver,
            quant_min=low,
            quant_max=high,
            qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        )


def _code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def _layer_ancestors(graph: fx.Graph, layers: list[fx.Node]) -> dict[fx.Node, frozenset[fx.Node]]:
    """For each layer, the layers that its input depends on directly, with no other layer between."""
    is_layer = frozenset(layers)
    nearest: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        found: set[fx.Node] = set()
        for source in node.all_input_nodes:
            found |= {source} if source in is_layer else nearest[source]
        nearest[node] = frozenset(found)
    return {layer: nearest[layer] for layer in layers}
