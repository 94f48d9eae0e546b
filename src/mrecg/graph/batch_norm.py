"""Batch norms that must not be folded into the layer before them.

torchao folds every batch norm that reads a convolution or linear layer. Where somebody else reads the layer's output or
its parameters, that changes what they compute; and it cannot fold into grouped transposed convolutions. An identity between
the two keeps it from doing so.
"""

from collections import Counter

import torch
from torch import fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS, TRANSPOSED_OPERATORS

__all__ = ["remove_shields", "shield_batch_norms"]

_SHIELD = torch.ops.aten.alias.default
_BATCH_NORMS = frozenset(
    {
        torch.ops.aten.batch_norm.default,
        torch.ops.aten._native_batch_norm_legit_no_training.default,
    }
)
_GROUPS = 6
"""The position of that argument in a transposed convolution."""


def shield_batch_norms(captured: fx.GraphModule) -> None:
    """Put an identity in front of every batch norm that has to stay."""
    graph = captured.graph
    readers = Counter(
        node.target for node in graph.nodes if node.op == "get_attr" for _ in node.users
    )
    for norm in [node for node in graph.nodes if node.target in _BATCH_NORMS]:
        layer = norm.args[0]
        if layer.target in CONVOLUTIONS_AND_PRODUCTS and not _may_fold(layer, readers):
            with graph.inserting_before(norm):
                shield = graph.call_function(_SHIELD, (layer,))
            shield.meta = dict(layer.meta)
            norm.replace_input_with(layer, shield)
    captured.recompile()


def remove_shields(prepared: fx.GraphModule) -> None:
    """Take the identities out again."""
    for node in [node for node in prepared.graph.nodes if node.target is _SHIELD]:
        node.replace_all_uses_with(node.args[0])
        prepared.graph.erase_node(node)
    prepared.recompile()


def _may_fold(layer: fx.Node, readers: Counter[object]) -> bool:
    """Whether torchao can fold, and only the batch norm sees a change of the layer's parameters and output."""
    groups = layer.args[_GROUPS] if len(layer.args) > _GROUPS else 1
    if layer.target in TRANSPOSED_OPERATORS and groups != 1:
        return False
    parameters = [operand.target for operand in layer.args[1:3] if isinstance(operand, fx.Node)]
    return len(layer.users) == 1 and all(readers[parameter] == 1 for parameter in parameters)
