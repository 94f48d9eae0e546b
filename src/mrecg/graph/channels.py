"""Find the axis of a tensor that holds its channels; a shape alone does not tell feature maps from tokens."""

from collections import deque

import torch
from torch import Tensor, fx

from mrecg.graph.layers import CONVOLUTIONS_AND_PRODUCTS, traced_value

__all__ = ["channel_axis", "channels_of", "class_axis_of"]

_aten = torch.ops.aten
_ON_THE_LAST_AXIS = frozenset({_aten.linear.default, _aten.layer_norm.default})
_REORDERS = frozenset(
    {_aten.permute, _aten.transpose, _aten.reshape, _aten.view, _aten.flatten, _aten.unflatten}
)


def channels_of(node: fx.Node) -> int:
    """Return the number of channels of a node's value; 1 where there is one number per image."""
    axis, value = channel_axis(node), traced_value(node)
    if axis is None:
        return 1
    assert isinstance(value, Tensor)
    return int(value.shape[axis])


def channel_axis(node: fx.Node) -> int | None:
    """Return the axis of the channels of a node's value; `None` where there is one number per image.

    The nearest layer before the node decides: a convolution puts channels on axis 1, a linear layer on the last axis.
    After an operator that reorders axes, tensors with four axes have them on axis 1 and all others on the last.
    """
    value = traced_value(node)
    if not isinstance(value, Tensor) or value.ndim < 2:
        return None
    axis = _axis_before(node)
    default = 1 if value.ndim == 4 else -1
    return default if axis is None else axis


def class_axis_of(node: fx.Node) -> int | None:
    """Return the axis along which an output may have a logit for each class, or `None`.

    A table has them on axis 1. In a map, and in a row of tokens, the nearest layer decides; behind operators that reorder
    axes none is known.
    """
    value = traced_value(node)
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        return None
    axis = 1 if value.ndim == 2 else _axis_before(node)
    return None if axis is None or value.shape[axis] == 1 else axis


def _axis_before(node: fx.Node) -> int | None:
    """Search breadth-first from `node` towards the input; `None` where reordering hides every layer."""
    found, waiting = {node}, deque([node])
    while waiting:
        one = waiting.popleft()
        if one.target in _ON_THE_LAST_AXIS:
            return -1
        if one.target in CONVOLUTIONS_AND_PRODUCTS:
            return 1
        if getattr(one.target, "overloadpacket", None) not in _REORDERS:
            waiting.extend(source for source in one.all_input_nodes if source not in found)
            found.update(one.all_input_nodes)
    return None
