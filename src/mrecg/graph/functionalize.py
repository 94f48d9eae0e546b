"""Replace in-place operators by functional ones.

`torch.export` keeps `relu_`, `add_` and writes into slices. Cutting a graph into units and inserting quantizers both assume
that a node's value never changes after it is computed.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from mrecg.errors import CaptureError
from mrecg.graph.layers import module_path

__all__ = ["make_functional"]

_aten = torch.ops.aten
_SCATTER: dict[object, Callable[..., Any]] = {
    _aten.slice.Tensor: _aten.slice_scatter.default,
    _aten.select.int: _aten.select_scatter.default,
}
"""For each view, the operator that writes a changed part into a copy of the whole; it takes the view's other arguments."""


def make_functional(graph: fx.Graph) -> None:
    """Replace every in-place operator by its functional form and redirect later readers to it.

    A slice that is written into is scattered into a copy of the tensor that it is a slice of (`slice_scatter`).

    Raises:
        CaptureError: an operator has no functional form, or another view of the changed tensor is read afterwards.
    """
    for node in list(graph.nodes):
        if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
            continue
        replacement = _functional_form(node.target)
        changed = node.args[0] if node.args else None
        if replacement is None or not isinstance(changed, fx.Node):
            raise CaptureError(_message(node, "has no functional form"))
        wholes = list(_enclosing(changed))
        if any(_is_stale_after(one, node) for one in _aliases(changed) if one not in wholes):
            raise CaptureError(
                _message(node, "changes a tensor, and a view of it is read afterwards")
            )
        with graph.inserting_before(node):
            new = _functional(node, replacement)
            updated = [new]
            for part, whole in pairwise(wholes):
                arguments = (whole, updated[-1], *part.args[1:])
                updated.append(graph.call_function(_SCATTER[part.target], arguments, part.kwargs))
                updated[-1].meta = node.meta | {"val": whole.meta.get("val")}
        node.replace_all_uses_with(new)
        for old, replaced in zip(wholes, updated, strict=True):
            for user in [user for user in old.users if user > node]:  # fx orders nodes by execution
                user.replace_input_with(old, replaced)
        graph.erase_node(node)


def _functional(node: fx.Node, replacement: OpOverload) -> fx.Node:
    """Insert the operator that returns as a new tensor what `node` would write."""
    new = node.graph.call_function
    if replacement is not _aten.copy.default:
        inserted = [new(replacement, node.args, node.kwargs)]
    else:  # autograd has no derivative for the functional `aten.copy`: convert and broadcast, as `copy_` does
        changed, value = node.args[:2]
        typed = new(_aten.type_as.default, (value, changed))
        inserted = [typed, new(_aten.expand_as.default, (typed, changed))]
    for one in inserted:
        one.meta = dict(node.meta)
    return inserted[-1]


def _enclosing(part: fx.Node) -> Iterator[fx.Node]:
    """Yield a tensor, the tensor that it is a slice of, the one that this is a slice of, and so on."""
    yield part
    while part.target in _SCATTER and isinstance(part.args[0], fx.Node):
        part = part.args[0]
        yield part


def _message(node: fx.Node, problem: str) -> str:
    where = module_path(node) or "the model itself"
    return (
        f"The in-place operator {node.target} in {where} {problem}; "
        "write the result into a new tensor instead."
    )


def _functional_form(operator: OpOverload) -> OpOverload | None:
    """Return `aten::relu` for `aten::relu_`: the same overload of the operator without the underscore, if there is one."""
    namespace, name = operator._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if packet is None or not name.endswith("_"):
        return None
    return getattr(packet, operator._overloadname, None)


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target.is_view


def _aliases(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the other nodes that may share memory with `node` through views."""
    root = node
    while _is_view(root) and isinstance(root.args[0], fx.Node):
        root = root.args[0]
    pending = [root]
    while pending:
        current = pending.pop()
        if current is not node:
            yield current
        pending += [user for user in current.users if _is_view(user) and user.args[0] is current]


def _is_stale_after(alias: fx.Node, node: fx.Node) -> bool:
    """Return whether a view from before a change is read after it."""
    return alias < node and any(user > node for user in alias.users)
