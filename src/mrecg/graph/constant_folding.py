"""What no image changes is computed once: weights made from parameters, and masks that are written piece by piece."""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mrecg.graph.layers import LAYER_OPERATORS, data_nodes, layer_name, module_path

__all__ = ["fold_computed_weights", "fold_written_constants"]

_aten = torch.ops.aten
_NEW_TENSORS: dict[object, Any] = {
    _aten.new_zeros.default: _aten.zeros.default,
    _aten.new_ones.default: _aten.ones.default,
}


def fold_written_constants(module: fx.GraphModule) -> None:
    """Evaluate constants that are written into, such as the masks of shifted windows, and keep them as buffers.

    Args:
        module: from `torch.export`; changed in place.
    """
    graph = module.graph
    _detach_new_tensors(graph)
    computed = data_nodes(graph)
    constants = [n for n in graph.nodes if n.op == "call_function" and n not in computed]
    if not any(_writes(node) for node in constants):
        return
    values = _evaluated(module, constants)
    for node in constants:
        readers = [user for user in node.users if user in computed or user.op == "output"]
        if not readers or not isinstance(values[node], Tensor):
            continue
        module.register_buffer(f"constant_{node.name}", values[node].clone())
        with graph.inserting_before(node):
            constant = graph.get_attr(f"constant_{node.name}")
        constant.meta = dict(node.meta)
        for reader in readers:
            reader.replace_input_with(node, constant)
    for node in reversed(constants):
        if not node.users:
            graph.erase_node(node)


def fold_computed_weights(module: fx.GraphModule) -> None:
    """Evaluate what stands between a layer and its parameters, as in weight standardization, weight or spectral norm.

    Outside of training it gives the same tensor for every image, so it can be quantized like any other weight. A
    parameter that others read, too, is left as it is, and so is the layer.

    Args:
        module: from `torch.export`, whose parameters belong to nobody else; changed in place.
    """
    graph = module.graph
    computed = data_nodes(graph)
    folded: dict[str, Tensor] = {}
    replaced: list[tuple[fx.Node, fx.Node, str]] = []
    for layer in [node for node in graph.nodes if node.target in LAYER_OPERATORS]:
        weight = layer.args[1]
        if weight in computed or weight.op == "get_attr":
            continue
        sources = _sources(weight)
        parameters = [node for node in sources if node.op == "get_attr"]
        name = f"{layer_name(layer)}.weight"
        origins = [node for node in parameters if node.target == name]
        if not origins:  # a parametrization, whose module has no parameter of that name any more
            name, origins = f"{module_path(layer)}.weight", parameters
            if not _is_free(module, name):
                continue
        if any(user not in sources for one in origins for user in one.users):
            continue
        needed = [n for n in graph.nodes if n in sources and n.op == "call_function"]
        folded[name] = _evaluated(module, needed)[weight].clone().contiguous()
        replaced.append((layer, weight, name))
    for name, value in folded.items():
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))
    for layer, weight, name in replaced:
        with graph.inserting_before(layer):
            constant = graph.get_attr(name)
        constant.meta = dict(weight.meta)
        layer.replace_input_with(weight, constant)
    graph.eliminate_dead_code()


def _is_free(module: fx.GraphModule, name: str) -> bool:
    """Whether a module of the model could have a parameter of that name, and has none."""
    owner, _, attribute = name.rpartition(".")
    known = dict(module.named_modules())
    return owner in known and not hasattr(known[owner], attribute)


def _detach_new_tensors(graph: fx.Graph) -> None:
    """A fresh tensor of a fixed size takes no more from the tensor it is asked of than its type."""
    for node in list(graph.nodes):
        size = node.args[1] if node.target in _NEW_TENSORS else (None,)
        value = node.meta.get("val")
        if isinstance(value, Tensor) and all(isinstance(length, int) for length in size):
            with graph.inserting_before(node):
                fresh = graph.call_function(
                    _NEW_TENSORS[node.target],
                    (size,),
                    {"dtype": value.dtype, "device": value.device},
                )
            fresh.meta = dict(node.meta)
            node.replace_all_uses_with(fresh)
            graph.erase_node(node)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _sources(node: fx.Node) -> set[fx.Node]:
    """A node and everything that it is computed from."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending += current.all_input_nodes
    return found


@torch.no_grad()
def _evaluated(module: fx.GraphModule, constants: list[fx.Node]) -> dict[fx.Node, Any]:
    """The values of nodes that depend on no image, run in order; parameters are not written into."""
    values: dict[fx.Node, Any] = {}

    def value_of(node: fx.Node) -> Any:
        if node not in values:
            held = attrgetter(str(node.target))(module)
            values[node] = held.clone() if isinstance(held, Tensor) else held
        return values[node]

    for node in constants:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
        assert callable(node.target)
        values[node] = node.target(*args, **kwargs)
    return values
