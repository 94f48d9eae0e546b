"""Keep grouped convolutions in float32 where the others multiply in bfloat16: on a CPU, depthwise ones take up to twice as long in it."""

from typing import Any

import torch
from torch import Tensor, fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS
from mrecg.graph.operators import arguments_of

__all__ = ["convolve_in_float32", "keep_groups_in_float32", "plain_convolutions"]


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


def keep_groups_in_float32(graph: fx.Graph) -> None:
    """Let every grouped convolution of a graph be called by `convolve_in_float32`."""
    for node in graph.nodes:
        if node.target in CONVOLUTIONS_AND_PRODUCTS and arguments_of(node).get("groups", 1) > 1:
            node.args, node.target = (node.target, *node.args), convolve_in_float32


def plain_convolutions(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a graph whose convolutions are all called as they are: what looks for layers finds them."""
    plain = fx.Graph()
    plain.output(plain.graph_copy(graph.graph, {}))
    for node in plain.nodes:
        if node.target is convolve_in_float32:
            node.target, node.args = node.args[0], node.args[1:]
    return fx.GraphModule(graph, plain)
