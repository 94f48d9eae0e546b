"""Keep torchao from folding batch norms whose folding would change the network.

torchao folds every batch norm that reads a convolution or linear layer. That changes what others compute where the layer's
output or its parameters have a second reader, or where the norm uses the statistics of the batch; and it fails on grouped
transposed convolutions and without running statistics. torchao has no option to leave one out, but it matches the pair
only where the batch norm reads the layer directly: an identity in between is enough.
"""

from collections import Counter
from operator import attrgetter

import torch
from torch import fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS, TRANSPOSED_OPERATORS

__all__ = ["ignore_running_statistics", "insert_folding_barriers", "remove_folding_barriers"]

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
        if layer.target not in CONVOLUTIONS_AND_PRODUCTS:
            continue
        if _has_fixed_statistics(norm) and _is_foldable(layer, readers):
            _add_missing_parameters(captured, norm)
        else:
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


def ignore_running_statistics(graph: fx.Graph) -> None:
    """Leave out running statistics where a norm uses those of the batch: the operator would update them in every call."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default and node.args[5]:
            node.args = (*node.args[:3], None, None, *node.args[5:])


def _has_fixed_statistics(norm: fx.Node) -> bool:
    """Return whether a norm uses running statistics that are parameters, not those of the batch."""
    _, weight, bias, *statistics = norm.args[:5]
    of_the_batch = norm.target is torch.ops.aten.batch_norm.default and norm.args[5]
    known = [one for one in (weight, bias, *statistics) if isinstance(one, fx.Node)]
    return (
        not of_the_batch
        and all(isinstance(one, fx.Node) for one in statistics)
        and all(one.op == "get_attr" for one in known)
    )


def _add_missing_parameters(captured: fx.GraphModule, norm: fx.Node) -> None:
    """Give a norm without factors and offsets ones and zeros: behind a linear layer, torchao cannot fold it without."""
    statistics = norm.args[3]
    assert isinstance(statistics, fx.Node)
    like = attrgetter(str(statistics.target))(captured)
    for position, fill in ((1, torch.ones_like), (2, torch.zeros_like)):
        if norm.args[position] is None:
            name = f"{norm.name}_{fill.__name__.removesuffix('_like')}"
            captured.register_buffer(name, fill(like))
            with norm.graph.inserting_before(norm):
                constant = norm.graph.get_attr(name)
            constant.meta = statistics.meta | {"val": fill(statistics.meta["val"])}
            norm.update_arg(position, constant)


def _is_foldable(layer: fx.Node, readers: Counter[object]) -> bool:
    """Return whether torchao can fold, and nothing but the batch norm reads the layer's output and parameters."""
    groups = layer.args[_GROUPS_POSITION] if len(layer.args) > _GROUPS_POSITION else 1
    if layer.target in TRANSPOSED_OPERATORS and groups != 1:
        return False
    parameters = [operand.target for operand in layer.args[1:3] if isinstance(operand, fx.Node)]
    return len(layer.users) == 1 and all(readers[parameter] == 1 for parameter in parameters)
