"""Find the tensors beyond the inputs of layers that integer execution needs quantized."""

import torch
from torch import fx

from mrecg.graph.layers import data_nodes, layers_of

__all__ = ["cannot_be_negative", "find_operands", "find_results"]

_aten = torch.ops.aten
_ADDITION = _aten.add
_NON_NEGATIVE = frozenset({_aten.relu, _aten.sigmoid, _aten.softmax, _aten.hardsigmoid})
_CLIPS = frozenset({_aten.hardtanh, _aten.clamp})
_MOVES = frozenset(
    {_aten.flatten, _aten.view, _aten.reshape, _aten.squeeze, _aten.permute, _aten.transpose}
)
_POOLS = frozenset(
    {_aten.adaptive_avg_pool2d, _aten.avg_pool2d, _aten.max_pool2d, _aten.mean}
    | {_aten.upsample_nearest2d, _aten.upsample_bilinear2d}
)
_COMBINES = frozenset({_ADDITION, _aten.mul, _aten.cat})
_PASSES = frozenset({_aten.relu, *_CLIPS, *_MOVES})
"""Operators that runtimes fuse into the operator before them, or execute as a view of its result."""


def find_operands(graph: fx.Graph, fuse_additions: bool) -> list[fx.Node]:
    """Return the inputs of additions, products, concatenations, pooling and resizing.

    Args:
        graph: of a captured model.
        fuse_additions: leave out the addend that a layer computes for this addition alone: runtimes fuse the two,
            so it stays in the layer's 32-bit accumulator.
    """
    computed = data_nodes(graph)
    layers = frozenset(layers_of(graph))
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if _operator(node) not in _POOLS | _COMBINES:
            continue
        inputs = [source for source in node.all_input_nodes if source in computed]
        if fuse_additions and _operator(node) is _ADDITION:
            alone = [s for s in inputs if s in layers and len(s.users) == 1]
            inputs = [source for source in inputs if source not in alone[-1:]]
        found |= dict.fromkeys(inputs)
    return list(found)


def find_results(graph: fx.Graph) -> list[fx.Node]:
    """Return the outputs of layers, additions, products, concatenations, pooling and resizing, after their activation."""
    layers = frozenset(layers_of(graph))
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node in layers or _operator(node) in _POOLS | _COMBINES:
            found[_after_fused(node)] = None
    return list(found)


def cannot_be_negative(node: fx.Node) -> bool:
    """Return whether the operators that made a tensor rule out negative values."""
    operator = _operator(node)
    if operator in _CLIPS:
        lowest = node.args[1] if len(node.args) > 1 else -1.0
        return isinstance(lowest, int | float) and lowest >= 0
    if operator in (_ADDITION, _aten.mul):
        factors = [
            one for one in (*node.args, *node.kwargs.values()) if isinstance(one, int | float)
        ]
        if min(factors, default=0) < 0:  # a negative constant, or the factor `alpha` of `torch.add`
            return False
    if operator in _POOLS | _COMBINES | _MOVES:
        return bool(node.all_input_nodes) and all(map(cannot_be_negative, node.all_input_nodes))
    return operator in _NON_NEGATIVE


def _after_fused(node: fx.Node) -> fx.Node:
    """Return the tensor that other operators read: after the activations and views that only `node` feeds."""
    while len(node.users) == 1 and _operator(next(iter(node.users))) in _PASSES:
        node = next(iter(node.users))
    return node


def _operator(node: fx.Node) -> object:
    target = node.target
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target
