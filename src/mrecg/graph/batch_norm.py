"""Keep torchao from folding batch norms whose folding would change the network.

torchao folds every batch norm that reads a convolution or linear layer. That changes what others compute where the layer's
output or its parameters have a second reader, and it fails on grouped transposed convolutions. torchao has no option to
leave one out, but it matches the pair only where the batch norm reads the layer directly: an identity in between is enough.
"""

from collections import Counter

import torch
from torch import fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS, TRANSPOSED_OPERATORS

__all__ = ["insert_folding_barriers", "remove_folding_barriers"]

_BARRIER = torch.ops.aten.alias.default
_BATCH_NORMS = frozenset(
    {
        torch.ops.aten.batch_norm.default,
        torch.ops.aten._native_batch_norm_legit_no_training.default,
    }
)
_GROUPS_POSITION = 6
"""The position of `groups` among the arguments of a transposed convolution; other convolutions have it elsewhere."""


def insert_folding_barriers(captured: fx.GraphModule) -> None:
    """Insert an identity before every batch norm that must not be folded; `captured` is changed in place."""
    graph = captured.graph
    # Counted by name: torch.export makes a `get_attr` node for each call of a module that is called twice.
    readers = Counter(
        node.target for node in graph.nodes if node.op == "get_attr" for _ in node.users
    )
    for norm in [node for node in graph.nodes if node.target in _BATCH_NORMS]:
        layer = norm.args[0]
        if layer.target in CONVOLUTIONS_AND_PRODUCTS and not _is_foldable(layer, readers):
            with graph.inserting_before(norm):
                barrier = graph.call_function(_BARRIER, (layer,))
            barrier.meta = dict(layer.meta)
            norm.replace_input_with(layer, barrier)
    captured.recompile()


def remove_folding_barriers(prepared: fx.GraphModule) -> None:
    """Remove the identities again; `prepared` is changed in place."""
    for node in [node for node in prepared.graph.nodes if node.target is _BARRIER]:
        node.replace_all_uses_with(node.args[0])
        prepared.graph.erase_node(node)
    prepared.recompile()


def _is_foldable(layer: fx.Node, readers: Counter[object]) -> bool:
    """Return whether torchao can fold, and nothing but the batch norm reads the layer's output and parameters."""
    groups = layer.args[_GROUPS_POSITION] if len(layer.args) > _GROUPS_POSITION else 1
    if layer.target in TRANSPOSED_OPERATORS and groups != 1:
        return False
    parameters = [operand.target for operand in layer.args[1:3] if isinstance(operand, fx.Node)]
    return len(layer.users) == 1 and all(readers[parameter] == 1 for parameter in parameters)
