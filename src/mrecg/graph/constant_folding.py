"""Constant folding: evaluate once what does not depend on the network's input, and keep the value as a buffer or parameter.

Two kinds matter here: masks that are written piece by piece (shifted windows), and weights that are computed from parameters
(weight standardization, weight norm, spectral norm). Other constants stay as they are: folding them would gain nothing.
"""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mrecg.graph.layers import LAYER_OPERATORS, data_nodes, layer_name, module_path

__all__ = ["fold_computed_weights", "fold_mutated_constants"]

_aten = torch.ops.aten
_NEW_TENSORS: dict[object, Any] = {
    _aten.new_zeros.default: _aten.zeros.default,
    _aten.new_ones.default: _aten.ones.default,
}


def fold_mutated_constants(module: fx.GraphModule) -> None:
    """Replace constants that in-place operators build, such as the masks of shifted windows, by buffers with their value.

    Runs before `make_functional`, which could express most of them, too, but at the cost of computing them for every batch.

    Args:
        module: from `torch.export`; changed in place.
    """
    graph = module.graph
    _make_independent_of_input(graph)
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
    """Replace weights that are computed from parameters by parameters with their value.

    In evaluation mode the value is the same for every image, so it can be quantized like any other weight, and so can a filter that
    the forward makes of nothing but numbers (`torch.ones`). Where an
    operator outside of that computation reads the parameter, too, both the parameter and the layer stay as they are.

    Args:
        module: from `torch.export`, of a copy of the caller's model; changed in place.
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
        if not origins:  # parametrizations and weight norm keep their parameters under other names
            origins = parameters
            names = (one for one in _names(layer) if one not in folded and _is_free(module, one))
            name = next(names, "")
            if not name:
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


def _names(layer: fx.Node) -> list[str]:
    """Return how the weight of a layer may be called: after its module, or, as one of several there, after itself."""
    path = module_path(layer)
    return [f"{path}.{name}" if path else name for name in ("weight", f"{layer.name}_weight")]


def _is_free(module: fx.GraphModule, name: str) -> bool:
    """Return whether the owner of `name` is a module of the graph and has no attribute of that name."""
    owner, _, attribute = name.rpartition(".")
    known = dict(module.named_modules())
    return owner in known and not hasattr(known[owner], attribute)


def _make_independent_of_input(graph: fx.Graph) -> None:
    """Replace `x.new_zeros(size)` and `x.new_ones(size)` of a fixed size by `zeros` and `ones`.

    They take only dtype and device from `x`, but as users of `x` they, and all that is written into them, would count as
    computed from the images.
    """
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
    """Return a node and everything that it is computed from."""
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
    """Run nodes that depend on no image, in order; parameters are cloned first, because the nodes may write into them."""
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
