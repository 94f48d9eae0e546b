"""Weights of grouped transposed convolutions with one axis for all output channels.

torch keeps them as (in, out / groups, …): an index of the second axis is one output channel of every group. A grid for each
output channel needs an axis of all of them. So the parameter becomes (out, in / groups, …), and the graph puts it back.
"""

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mrecg.graph.insert import PlacedQuantizer
from mrecg.graph.layers import TRANSPOSED_OPERATORS, traced_value

__all__ = ["put_output_channels_first"]

_aten = torch.ops.aten
_GROUPS_POSITION = 6


def put_output_channels_first(
    placed: fx.GraphModule, quantizers: Sequence[PlacedQuantizer]
) -> tuple[PlacedQuantizer, ...]:
    """Change the layout of weights of grouped transposed convolutions that are quantized by channel.

    Args:
        placed: from `insert_quantizers`; changed in place.
        quantizers: its list.

    Returns:
        The list, with the new axis of the channels.
    """
    return tuple(_changed(placed, one) if one.is_weight else one for one in quantizers)


def _changed(placed: fx.GraphModule, quantizer: PlacedQuantizer) -> PlacedQuantizer:
    markers = [node for node in placed.graph.nodes if node.target == quantizer.name]
    layers = [layer for marker in markers for layer in marker.users]
    groups = {
        layer.args[_GROUPS_POSITION] if len(layer.args) > _GROUPS_POSITION else 1
        for layer in layers
        if layer.target in TRANSPOSED_OPERATORS
    }
    constants = [
        n for n in placed.graph.nodes if n.op == "get_attr" and n.target == quantizer.tensor
    ]
    others = [user for one in constants for user in one.users if user not in markers]
    is_shared = any(layer.target not in TRANSPOSED_OPERATORS for layer in layers) or others
    if quantizer.request.channel_axis is None or is_shared or len(groups) != 1 or groups == {1}:
        return quantizer
    (count,) = groups
    assert isinstance(count, int)
    weight = attrgetter(quantizer.tensor)(placed)
    owner, _, name = quantizer.tensor.rpartition(".")
    changed = _grouped(weight, count).flatten(0, 1).contiguous()
    setattr(placed.get_submodule(owner), name, nn.Parameter(changed, requires_grad=False))
    for constant in constants:
        value = traced_value(constant)
        assert isinstance(value, Tensor)
        constant.meta["val"] = _grouped(value, count).flatten(0, 1)
    if min(weight.shape[0] // count, weight.shape[1]) > 1:
        for marker in markers:
            _insert_reordering(marker, count)
    elif changed.shape != weight.shape:
        for marker in markers:
            _insert(marker, _aten.reshape.default, list(weight.shape))
    placed.recompile()
    return replace(quantizer, request=replace(quantizer.request, channel_axis=0))


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """Return the weight as (groups, out / groups, in / groups, …)."""
    return torch.unflatten(weight, 0, (groups, -1)).transpose(1, 2)


def _insert_reordering(marker: fx.Node, groups: int) -> None:
    """Put the weight back as the operator takes it."""
    changed = traced_value(marker)
    assert isinstance(changed, Tensor)
    out, in_group, *window = changed.shape
    grouped = _insert(marker, _aten.reshape.default, [groups, out // groups, in_group, *window])
    turned = _insert(grouped, _aten.transpose.int, 1, 2)
    _insert(turned, _aten.reshape.default, [groups * in_group, out // groups, *window])


def _insert(source: fx.Node, operator: torch._ops.OpOverload, *args: Any) -> fx.Node:
    """Insert an operator between a node and its readers."""
    with source.graph.inserting_after(source):
        made = source.graph.call_function(operator, (source, *args))
    source.replace_all_uses_with(made, lambda user: user is not made)
    made.meta = source.meta | {"val": operator(traced_value(source), *args)}
    return made
