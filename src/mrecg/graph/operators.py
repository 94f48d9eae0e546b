"""Classify operators by what integer hardware does with them."""

import operator
from typing import Any

import torch
from torch import fx

__all__ = [
    "CLIPS",
    "COMBINES",
    "FUSED",
    "MOVES",
    "POOLS",
    "SELECTS",
    "SOFTMAX",
    "arguments_of",
    "is_pointwise",
    "operator_of",
]

_aten = torch.ops.aten
CLIPS = frozenset({_aten.hardtanh, _aten.clamp, _aten.relu6})
MOVES = frozenset(
    {_aten.flatten, _aten.view, _aten.reshape, _aten.squeeze, _aten.permute, _aten.transpose}
    | {_aten.unsqueeze, _aten.unflatten, _aten.contiguous, _aten.clone}
    | {_aten.pixel_shuffle, _aten.pixel_unshuffle, _aten.channel_shuffle}
)
"""Operators that put all elements of a tensor at other places."""
SELECTS = frozenset(
    {_aten.slice, _aten.select, _aten.chunk, _aten.split, _aten.split_with_sizes, _aten.unbind}
    | {operator.getitem}
)
"""Operators that pick some elements of a tensor."""
POOLS = frozenset(
    {_aten.adaptive_avg_pool2d, _aten.avg_pool2d, _aten.max_pool2d, _aten.mean}
    | {_aten.upsample_nearest2d, _aten.upsample_bilinear2d}
)
COMBINES = frozenset({_aten.add, _aten.mul, _aten.cat})
FUSED = frozenset({_aten.relu, *CLIPS, *MOVES})
"""Operators that runtimes fuse into the operator before them, or execute as a view of its result."""
SOFTMAX = frozenset({_aten.softmax, _aten._softmax})
_POINTWISE = frozenset({_aten.hardswish, _aten.prelu, _aten._prelu_kernel, _aten.log_sigmoid})
"""Those that torch 2.13 does not tag."""


def operator_of(node: fx.Node) -> object:
    """Return what a node calls, whatever the types of its arguments."""
    target = node.target
    return target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an operator's call by their names, with the defaults of those that are not given."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    schema = node.target._schema.arguments
    arguments = {one.name: one.default_value for one in schema}
    return arguments | dict(zip(arguments, node.args, strict=False)) | dict(node.kwargs)


def is_pointwise(node: fx.Node) -> bool:
    """Return whether every element of a node's value depends on one element of each tensor that it reads."""
    target = node.target
    tagged = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return tagged or operator_of(node) in _POINTWISE
