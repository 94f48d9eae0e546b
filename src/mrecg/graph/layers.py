"""Recognize the layers of a graph: operators with a parameter as weight."""

import torch
from torch import Tensor, fx

from mrecg.graph.operators import MOVES, SOFTMAX, operator_of

__all__ = [
    "CONVOLUTIONS_AND_PRODUCTS",
    "LAYER_OPERATORS",
    "TRANSPOSED_OPERATORS",
    "data_nodes",
    "layer_name",
    "layers_of",
    "module_path",
    "traced_value",
    "weight_operand",
    "weighted_operators",
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
CONVOLUTIONS_AND_PRODUCTS = LAYER_OPERATORS | {
    torch.ops.aten.conv1d.padding,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.conv3d.padding,
    torch.ops.aten.conv_transpose1d.default,
    torch.ops.aten.conv_transpose3d.input,
}
"""Every operator with a weight, including those that are never quantized."""
_PRODUCTS = frozenset(
    {"torchvision::deform_conv2d"}
    | {
        f"aten::{name}"
        for name in (
            *(
                "matmul",
                "mm",
                "bmm",
                "addmm",
                "baddbmm",
                "einsum",
                "tensordot",
                "inner",
                "bilinear",
            ),
            *("lstm", "gru", "rnn_tanh", "rnn_relu"),
            *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
            *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
        )
    }
)
"""Operators that multiply by what may be a parameter, and that never are layers."""
TRANSPOSED_OPERATORS = frozenset({torch.ops.aten.conv_transpose2d.input})
"""Layers whose weight has its output channels on axis 1 instead of 0."""

_REORDERINGS = frozenset({torch.ops.aten.reshape.default, torch.ops.aten.transpose.int})


def data_nodes(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes whose value depends on the graph's input; all others are constants."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(arg in found for arg in node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def layer_name(node: fx.Node) -> str:
    """Return the name of a layer: the path of the module that owns its weight, whichever module calls it."""
    weight = node.args[1]
    while isinstance(weight, fx.Node) and weight.op != "get_attr" and weight.all_input_nodes:
        weight = weight.all_input_nodes[0]
    assert isinstance(weight, fx.Node)
    return str(weight.target).removesuffix(".weight")


def weight_operand(layer: fx.Node) -> fx.Node:
    """Return the parameter of a layer, or the quantizer behind it, which may be reordered before the layer reads it."""
    weight = layer.args[1]
    assert isinstance(weight, fx.Node)
    source = weight
    while source.target in _REORDERINGS and isinstance(source.args[0], fx.Node):
        source = source.args[0]
    return source if source.op == "call_module" else weight


def layers_of(graph: fx.Graph) -> list[fx.Node]:
    """Return the convolutions and linear layers with a parameter as weight, in execution order.

    A weight is a `get_attr` node in a captured graph, and a `call_module` node once a quantizer is inserted behind it.
    Integrals are left out: the mean of a distribution over given bins, as detectors read boxes off a softmax, has no learned
    weight, and what is in front of it is as much a last layer as any.
    """
    computed = data_nodes(graph)
    return [
        node
        for node in graph.nodes
        if node.target in LAYER_OPERATORS
        and node.args[0] in computed
        and node.args[1] not in computed
        and weight_operand(node).op in ("get_attr", "call_module")
        and not _is_integral(node)
    ]


def weighted_operators(graph: fx.Graph) -> dict[fx.Node, str]:
    """Return every operator that multiplies data by constants, with the name of its weight's owner.

    Layers are among them, and what is never quantized: recurrent layers, and products with a parameter or a fixed matrix.
    """
    computed, layers = data_nodes(graph), frozenset(layers_of(graph))
    found: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node in layers:
            found[node] = layer_name(node)
        elif node.target in CONVOLUTIONS_AND_PRODUCTS or (
            node in computed and _schema_name(node) in _PRODUCTS
        ):
            weight = next(filter(None, map(_matrix, _constants(node, computed))), None)
            if weight is not None or node.target in CONVOLUTIONS_AND_PRODUCTS:
                found[node] = module_path(node) or weight or "the model itself"
    return found


def _schema_name(node: fx.Node) -> str:
    return node.target._schema.name if isinstance(node.target, torch._ops.OpOverload) else ""


def _constants(node: fx.Node, computed: frozenset[fx.Node]) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if source not in computed]


def _matrix(constant: fx.Node) -> str | None:
    """Return the name of a constant that is more than a row of numbers."""
    value = traced_value(constant)
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        return None
    return str(constant.target if constant.op == "get_attr" else constant.name)


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost original module that `node` comes from; `""` is the model itself."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def traced_value(node: fx.Node) -> object:
    """Return the fake tensor that tracing gave a node; inserted quantizers have none and take that of their source."""
    while "val" not in node.meta and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node.meta.get("val")


def _is_integral(layer: fx.Node) -> bool:
    """Return whether a layer weighs the results of a softmax with nothing added."""
    if len(layer.args) > 2 and layer.args[2] is not None:
        return False
    source = layer.args[0]
    # A module is a quantizer.
    while isinstance(source, fx.Node) and (
        operator_of(source) in MOVES or source.op == "call_module"
    ):
        (source, *_) = source.all_input_nodes
    return isinstance(source, fx.Node) and operator_of(source) in SOFTMAX
