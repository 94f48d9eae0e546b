"""Call the convolutions of a unit that a CPU computes slowly, or wrongly, as they are.

Grouped ones stay in float32 where the others multiply in bfloat16: depthwise ones take up to twice as long in it.

oneDNN writes behind its memory where it computes the gradient of a weight of 1 × 1 with a stride and fewer input channels than a
vector has numbers, on maps that are channels last: processors without AVX-512 crash, hang or learn from wrong gradients
(oneDNN issue 6035, torch 2.13). Those convolve, without a stride, the part of the map that they read.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS
from mrecg.graph.operators import arguments_of

__all__ = ["convolve_in_float32", "convolve_part", "plain_convolutions", "replace_convolutions"]

_VECTOR = 16
"""Numbers in the longest vector of an x86 processor."""
_WITH_STRIDES = frozenset({torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding})


def replace_convolutions(graph: fx.Graph) -> None:
    """Let every grouped convolution of a graph be called by `convolve_in_float32`, and every other with a stride by `convolve_part`."""
    for node in graph.nodes:
        if node.target not in CONVOLUTIONS_AND_PRODUCTS:
            continue
        arguments = arguments_of(node)
        if arguments.get("groups", 1) > 1:
            _replace(node, convolve_in_float32)
        elif node.target in _WITH_STRIDES and max(arguments["stride"]) > 1:
            _replace(node, convolve_part)


def plain_convolutions(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a graph whose convolutions are all called as they are: what looks for layers finds them."""
    plain = fx.Graph()
    plain.output(plain.graph_copy(graph.graph, {}))
    for node in plain.nodes:
        if node.target in (convolve_in_float32, convolve_part):
            node.target, node.args = node.args[0], node.args[1:]
    return fx.GraphModule(graph, plain)


def convolve_in_float32(
    convolution: torch._ops.OpOverload, x: Tensor, *arguments: Any, **options: Any
) -> Tensor:
    """Call a convolution outside of autocast on a CPU, and as it is elsewhere."""
    device = x.device.type
    if device == "cpu" and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            # What is behind another convolution may be bfloat16; weights and biases are what is learned, in float32.
            return convolve_in_float32(convolution, x.float(), *arguments, **options)
    result: Tensor = convolution(x, *arguments, **options)
    return result


def convolve_part(
    convolution: torch._ops.OpOverload,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    *others: Any,
    **options: Any,
) -> Tensor:
    """Call a convolution of maps without its stride where its kernel is 1 × 1 and a CPU has few channels, else as it is."""
    padding = others[0] if others else options.get("padding", "valid")
    is_narrow = x.device.type == "cpu" and weight.shape[1] < _VECTOR
    if is_narrow and weight.shape[2:] == (1, 1) and padding in ("valid", [0], [0, 0]):
        x, stride = x[..., :: stride[0], :: stride[-1]], (1, 1)
    result: Tensor = convolution(x, weight, bias, stride, *others, **options)
    return result


def _replace(node: fx.Node, called: Callable[..., Tensor]) -> None:
    assert isinstance(node.target, torch._ops.OpOverload)
    node.args, node.target = (node.target, *node.args), called
