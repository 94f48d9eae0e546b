"""Find the tensors beyond the inputs of layers that integer execution needs quantized.

A runtime computes additions, products, concatenations, pooling and resizing in integers where all that they read is codes
and what they make is rounded to codes again. So arithmetic counts only where its result reaches a layer through nothing but
such operators. Quantized elsewhere it gains nothing and may lose everything: the variance of a normalization that is
written out, or boxes and scores on one grid.
"""

import torch
from torch import fx

from mrecg.graph.layers import data_nodes, layers_of
from mrecg.graph.operators import (
    CLIPS,
    COMBINES,
    FUSED,
    MOVES,
    POOLS,
    SELECTS,
    is_pointwise,
    operator_of,
)

__all__ = [
    "cannot_be_negative",
    "find_convolution_results",
    "find_operands",
    "find_results",
    "integer_operators",
    "nodes_before_layers",
]

_aten = torch.ops.aten
_ADDITION = _aten.add
_CONVOLUTIONS = frozenset({_aten.conv1d, _aten.conv2d})
_NON_NEGATIVE = frozenset(
    {_aten.relu, _aten.relu6, _aten.sigmoid, _aten.softmax, _aten.hardsigmoid}
)


def find_operands(graph: fx.Graph, fuse_additions: bool) -> dict[fx.Node, list[fx.Node]]:
    """Return the inputs of the additions, products, concatenations, pooling and resizing that run in integers.

    Args:
        graph: of a captured model.
        fuse_additions: leave out the addend that a layer computes for this addition alone: runtimes fuse the two,
            so it stays in the layer's 32-bit accumulator.

    Returns:
        For each tensor the operators that read it.
    """
    computed = data_nodes(graph)
    layers = frozenset(layers_of(graph))
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in integer_operators(graph):
        inputs = [source for source in node.all_input_nodes if source in computed]
        if fuse_additions and operator_of(node) is _ADDITION:
            alone = [s for s in inputs if s in layers and len(s.users) == 1]
            inputs = [source for source in inputs if source not in alone[-1:]]
        for source in inputs:
            found.setdefault(source, []).append(node)
    return found


def find_results(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Return the results of layers and of the operators that run in integers, after their activation; with what makes them."""
    makers = frozenset([*layers_of(graph), *integer_operators(graph)])
    return {_after(node, FUSED): [node] for node in graph.nodes if node in makers}


def find_convolution_results(
    graph: fx.Graph, quantized: frozenset[fx.Node]
) -> dict[fx.Node, list[fx.Node]]:
    """Return the results of convolutions that nothing behind them would round, with the convolutions.

    ONNX Runtime computes a convolution in integers only where a quantizer follows, and an activation such as SiLU in
    float: so the result in front of it needs a grid, too. Other layers may return floats. What the last layers make leaves
    the network in float.

    Args:
        graph: of a captured model.
        quantized: tensors that are quantized for what reads them.
    """
    before = nodes_before_layers(graph)
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in layers_of(graph):
        if operator_of(node) not in _CONVOLUTIONS or node not in before:
            continue
        if quantized.isdisjoint(_chain(node, FUSED)):
            found[_after(node, FUSED - MOVES)] = [node]
    return found


def integer_operators(graph: fx.Graph) -> list[fx.Node]:
    """Return the additions, products, concatenations, pooling and resizing whose result reaches a layer in integers."""
    layers = frozenset(layers_of(graph))
    arithmetic = _arithmetic(graph)
    reaching: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for user in node.users:
            carries = user in arithmetic or operator_of(user) in FUSED | SELECTS
            if (user in layers and user.args[0] is node) or (carries and user in reaching):
                reaching.add(node)
    return [node for node in graph.nodes if node in arithmetic and node in reaching]


def nodes_before_layers(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes that some layer depends on."""
    layers = frozenset(layers_of(graph))
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if any(user in layers or user in found for user in node.users):
            found.add(node)
    return frozenset(found)


def cannot_be_negative(node: fx.Node) -> bool:
    """Return whether the operators that made a tensor rule out negative values."""
    called = operator_of(node)
    if called in CLIPS - {_aten.relu6}:
        lowest = node.args[1] if len(node.args) > 1 else -1.0
        return isinstance(lowest, int | float) and lowest >= 0
    if called in (_ADDITION, _aten.mul):
        factors = [
            one for one in (*node.args, *node.kwargs.values()) if isinstance(one, int | float)
        ]
        if min(factors, default=0) < 0:  # a negative constant, or the factor `alpha` of `torch.add`
            return False
    if called in POOLS | COMBINES | MOVES:
        return bool(node.all_input_nodes) and all(map(cannot_be_negative, node.all_input_nodes))
    return called in _NON_NEGATIVE


def _arithmetic(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return what could run in integers: it reads no constants, which have no codes, and several tensors or one pool.

    A sum or product of functions of one tensor, such as `x * sigmoid(x)`, is an activation that is written out.
    """
    computed = data_nodes(graph)
    source: dict[fx.Node, fx.Node] = {}
    found: set[fx.Node] = set()
    for node in graph.nodes:
        read = {source[one] for one in node.all_input_nodes if one in computed}
        alone = is_pointwise(node) and len(read) == 1
        source[node] = read.pop() if alone else node
        reads_constants = any(one not in computed for one in node.all_input_nodes)
        if operator_of(node) in POOLS | COMBINES and not alone and not reads_constants:
            found.add(node)
    return frozenset(found & computed)


def _chain(node: fx.Node, operators: frozenset[object]) -> list[fx.Node]:
    """Return a node and the given operators that follow it, as long as each is the only one to read the one before."""
    chain = [node]
    while len(chain[-1].users) == 1 and operator_of(next(iter(chain[-1].users))) in operators:
        chain.append(next(iter(chain[-1].users)))
    return chain


def _after(node: fx.Node, operators: frozenset[object]) -> fx.Node:
    """Return the tensor that other operators read."""
    return _chain(node, operators)[-1]
