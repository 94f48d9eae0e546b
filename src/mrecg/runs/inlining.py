"""Graphs without the subgraphs that torch.export wraps."""

from typing import Any, cast

import torch
from torch import fx

from mrecg.errors import RunError

__all__ = ["inline_wrapped"]


def inline_wrapped(module: fx.GraphModule) -> fx.Graph:
    """Return the graph of a program with the operators of its subgraphs in their place.

    torch.export wraps what runs under `no_grad` or a disabled `autocast`; neither changes an evaluation.

    Raises:
        RunError: a subgraph is there for another reason.
    """
    if not any(
        isinstance(node.target, torch._ops.HigherOrderOperator) for node in module.graph.nodes
    ):
        return module.graph
    graph = fx.Graph()
    subgraphs = {name for name, one in module.named_children() if isinstance(one, fx.GraphModule)}
    made: dict[fx.Node, fx.Node] = {}
    results: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target in subgraphs:
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            inner, operands = _wrapped(module, node)
            starts = [one for one in inner.nodes if one.op == "placeholder"]
            known = {start: made[one] for start, one in zip(starts, operands, strict=True)}
            results[node] = graph.graph_copy(inner, known)
        elif node.args and node.args[0] in results:
            made[node] = results[node.args[0]][node.args[1]]  # getitem
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
    return graph


def _wrapped(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Graph, list[fx.Node]]:
    """Return the subgraph of a wrapping operator, itself inlined, and what it is given."""
    name, args = str(node.target), cast("tuple[Any, ...]", node.args)
    position = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(name)
    if position is None:
        raise RunError(f"The model uses the operator {name}, which cannot be stored in a run.")
    if name == "wrap_with_autocast" and args[2]:
        raise RunError(
            "The model enables autocast in its forward, which cannot be stored in a run."
        )
    inner = module.get_submodule(str(args[position].target))
    assert isinstance(inner, fx.GraphModule)
    return inline_wrapped(inner), list(args[position + 1 :])
