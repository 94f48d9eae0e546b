"""Recognize the layers of a graph: operators with a parameter as weight."""

import torch
from torch import fx

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
TRANSPOSED_OPERATORS = frozenset({torch.ops.aten.conv_transpose2d.input})
"""Layers whose weight has its output channels on axis 1 instead of 0."""


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
        and node.args[1].op in ("get_attr", "call_module")
        and not _is_integral(node)
    ]


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
