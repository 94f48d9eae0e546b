"""Which tensors of a graph carry a quantizer.

`place` runs torchao's PT2E preparation (batch norm folding, insertion) under any PT2E `Quantizer` and puts
our own quantizers where the observers were. `PaperPlacement` is the quantizer of the papers' simulation.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx, nn

from mrecg.errors import CaptureError, RecipeError
from mrecg.recipe import FLOAT_BITS, Placement


@contextlib.contextmanager
def _quiet_torchao() -> Iterator[None]:
    """torchao reports CUDA libraries that a CPU build does not have; nothing else is silenced."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


with _quiet_torchao():
    from torchao.quantization.pt2e import MinMaxObserver, ObserverBase, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
    )

__all__ = [
    "LAYER_OPERATORS",
    "PaperPlacement",
    "PlacedQuantizer",
    "Quantizer",
    "QuantizerRequest",
    "data_nodes",
    "freeze",
    "layer_name",
    "layers_of",
    "place",
]

LAYER_OPERATORS = frozenset(
    {
        torch.ops.aten.conv1d.default,
        torch.ops.aten.conv2d.default,
        torch.ops.aten.conv2d.padding,
        torch.ops.aten.conv_transpose2d.input,
        torch.ops.aten.linear.default,
    }
)
_TRANSPOSED = frozenset({torch.ops.aten.conv_transpose2d.input})


@dataclass(frozen=True)
class QuantizerRequest:
    """What a PT2E quantizer asked for at one tensor: a grid of integers and its granularity."""

    low: int
    high: int
    symmetric: bool
    channel_axis: int | None
    fixed: tuple[float, int] | None = None

    @property
    def bits(self) -> int:
        """The width that holds the grid."""
        return (self.high - self.low).bit_length()


@dataclass(frozen=True)
class PlacedQuantizer:
    """A quantizer in the graph.

    Attributes:
        name: of the submodule, which is also the graph node's.
        tensor: a weight's parameter name, or the module whose output it is.
        readers: the layers that read the quantized tensor.
        is_weight: whether the tensor is a constant of the graph.
        request: its grid.
    """

    name: str
    tensor: str
    readers: tuple[str, ...]
    is_weight: bool
    request: QuantizerRequest


def place(
    captured: fx.GraphModule,
    quantizer: Quantizer,
    make_weight: Callable[[QuantizerRequest, Tensor], nn.Module],
    make_activation: Callable[[QuantizerRequest], nn.Module],
) -> tuple[fx.GraphModule, tuple[PlacedQuantizer, ...]]:
    """Fold batch norm and insert quantizers where `quantizer` annotates the graph.

    Args:
        captured: from `capture`; consumed.
        quantizer: any PT2E quantizer with static, integer specifications.
        make_weight: builds the quantizer of a constant tensor.
        make_activation: builds the quantizer of a computed tensor.

    Returns:
        The graph with quantizers as submodules, and their list in graph order.

    Raises:
        CaptureError: an annotation asks for something that cannot be reconstructed.
    """
    with _quiet_torchao():
        prepared = prepare_pt2e(captured, quantizer)
    observers = dict(prepared.named_modules(remove_duplicate=False))
    computed = data_nodes(prepared.graph)
    made: dict[object, tuple[str, PlacedQuantizer]] = {}
    for node in list(prepared.graph.nodes):
        observer = observers.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(observer, nn.Module):
            continue
        source = node.args[0]
        if not isinstance(observer, ObserverBase) or not isinstance(source, fx.Node):
            _erase(prepared.graph, node)  # a derived grid (bias): stays float, as in the papers
            continue
        request = _request(observer, node)
        is_weight = source not in computed
        # One module per weight (a layer may be called twice) and per shared observer.
        key = ("weight", source.target) if is_weight else ("activation", id(observer))
        if key not in made:
            made[key] = _insert(
                prepared, node, source, request, is_weight, make_weight, make_activation
            )
        name, placed = made[key]
        node.target = name
        readers = tuple(layer_name(user) for user in node.users if user.target in LAYER_OPERATORS)
        merged = tuple(dict.fromkeys(placed.readers + readers))
        made[key] = (name, PlacedQuantizer(name, placed.tensor, merged, is_weight, request))
    prepared.delete_all_unused_submodules()
    prepared.recompile()
    return prepared, tuple(placed for _, placed in made.values())


def _insert(
    prepared: fx.GraphModule,
    node: fx.Node,
    source: fx.Node,
    request: QuantizerRequest,
    is_weight: bool,
    make_weight: Callable[[QuantizerRequest, Tensor], nn.Module],
    make_activation: Callable[[QuantizerRequest], nn.Module],
) -> tuple[str, PlacedQuantizer]:
    name = f"quantize_{source.name}"
    if is_weight:
        module = make_weight(request, _constant(prepared, source))
        tensor = str(source.target)
    else:
        module = make_activation(request)
        tensor = _tensor_label(source)
    prepared.add_submodule(name, module)
    return name, PlacedQuantizer(name, tensor, (), is_weight, request)


def _tensor_label(source: fx.Node) -> str:
    stack = source.meta.get("nn_module_stack")
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return f"{path}:{source.name}" if path else source.name


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    graph.erase_node(node)


def _constant(module: fx.GraphModule, node: fx.Node) -> Tensor:
    if node.op != "get_attr":
        raise CaptureError(
            f"The weight '{node.name}' is computed by {node.target}, expected a parameter; "
            "fold the computation into the parameter or leave the layer in float."
        )
    owner, _, attribute = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), attribute)
    assert isinstance(value, Tensor)
    return value


def _request(observer: ObserverBase, node: fx.Node) -> QuantizerRequest:
    if getattr(observer, "is_dynamic", False):
        raise CaptureError(
            f"The quantizer asks for dynamic quantization at '{node.args[0]}'; use static."
        )
    fixed = None
    if type(observer).__name__ == "FixedQParamsObserver":
        fixed = (float(observer.scale), int(observer.zero_point))
    scheme = observer.qscheme
    per_channel = scheme in (torch.per_channel_affine, torch.per_channel_symmetric)
    return QuantizerRequest(
        low=int(observer.quant_min),
        high=int(observer.quant_max),
        symmetric=scheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric),
        channel_axis=int(observer.ch_axis) if per_channel else None,
        fixed=fixed,
    )


def data_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """The nodes whose value depends on the graph's input; all others are constants."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(arg in found for arg in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def layer_name(node: fx.Node) -> str:
    """The name of a layer: that of the module that owns its weight, whoever calls it."""
    weight = node.args[1]
    while isinstance(weight, fx.Node) and weight.op != "get_attr" and weight.all_input_nodes:
        weight = weight.all_input_nodes[0]
    assert isinstance(weight, fx.Node)
    return str(weight.target).removesuffix(".weight")


def layers_of(graph: fx.Graph) -> list[fx.Node]:
    """The convolutions and linear layers with a parameter as weight, in execution order."""
    computed = data_nodes(graph)
    return [
        node
        for node in graph.nodes
        if node.target in LAYER_OPERATORS
        and node.args[0] in computed
        and node.args[1] not in computed
        and node.args[1].op in ("get_attr", "call_module")
    ]


def freeze(
    placed: fx.GraphModule,
    quantizers: Sequence[PlacedQuantizer],
    results: Mapping[str, nn.Module],
) -> fx.GraphModule:
    """Put results in the place of quantizers: a weight's takes no input, and the float weight goes.

    Args:
        placed: from `place`; consumed.
        quantizers: its list.
        results: for each quantizer's name, a module that gives the quantized tensor.
    """
    weights = {quantizer.name: quantizer for quantizer in quantizers if quantizer.is_weight}
    for node in placed.graph.nodes:
        if node.op != "call_module" or node.target not in results:
            continue
        name = str(node.target)
        if name in weights:
            owner, _, attribute = weights[name].tensor.rpartition(".")
            node.target = f"{owner}.quantized_{attribute}" if owner else f"quantized_{attribute}"
            node.args = ()
        placed.add_submodule(node.target, results[name])
    placed.graph.eliminate_dead_code()
    placed.recompile()
    # A fresh module takes along only what the graph refers to: no float weight stays behind.
    return fx.GraphModule(placed, placed.graph)


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
            ch_axis=int(layer.target in _TRANSPOSED) if per_channel else None,
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
