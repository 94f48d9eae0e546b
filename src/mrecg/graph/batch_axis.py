"""Tell what counts the images of a batch: an axis of a value, or rows of its first axis, several for each image.

Values are stored and drawn image by image, and a batch has any size. So every length that depends on the batch must be
a multiple of it, and a layer's result is compared with the images on axis 0.
"""

import math
import re
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from mrecg.errors import CaptureError
from mrecg.graph.layers import data_nodes, layer_name, module_path, traced_value
from mrecg.graph.operators import operator_of

__all__ = ["batch_symbols", "can_be_stored", "images_first", "refuse_combined_images"]

_MERGES = frozenset({torch.ops.aten.reshape, torch.ops.aten.flatten, torch.ops.aten.view})
_TRIED = (64, 97)
"""Sizes of a batch; a length that is the same multiple of both is that multiple of every batch."""


def can_be_stored(node: fx.Node) -> bool:
    """Return whether a value is one tensor of floats whose first axis is the batch, not a multiple of it such as all windows."""
    value = traced_value(node)
    if not isinstance(value, Tensor) or value.ndim == 0 or not value.is_floating_point():
        return False
    length = value.shape[0]
    return isinstance(length, SymInt) and length.node.expr in batch_symbols(node.graph)


def images_first(layer: fx.Node) -> fx.Node:
    """Return a layer's result with the images on axis 0, computed by a node that is inserted behind the layer.

    Raises:
        CaptureError: no axis counts the images, or what the rows of an image are is not known.
    """
    value = traced_value(layer)
    assert isinstance(value, Tensor)
    batch = batch_symbols(layer.graph)
    counts = [_rows_of_an_image(length, batch) for length in value.shape]
    leading = (-1,) if 1 in counts else _leading_lengths(layer, batch)
    if leading is None or leading.count(-1) != 1:
        raise CaptureError(
            f"The layer '{layer_name(layer)}' gives a tensor of {_shape(value, batch)} in which the images of a batch "
            "cannot be told apart, so nothing can be compared behind it; return the batch first, or move the reshaping "
            "out of the model."
        )
    images = counts.index(1) if 1 in counts else leading.index(-1)
    rows = [axis for axis in range(len(leading)) if axis != images]
    others = [axis for axis in range(len(leading), len(leading) + value.ndim - 1) if axis != images]
    # Rows must not take the place of the channels, which are on the last axis behind a linear layer and else on axis 1.
    linear = layer.target is torch.ops.aten.linear.default
    order = (images, *rows, *others) if linear else (images, *others, *rows)
    with layer.graph.inserting_after(layer):
        node = layer.graph.create_node(
            "call_function", _arranged, (layer, leading, order), name=f"{layer.name}_by_image"
        )
    node.meta = layer.meta | {"val": _arranged(value, leading, order)}
    return node


def refuse_combined_images(graph: fx.Graph) -> None:
    """Refuse a model that makes one result of several images, or of some of them.

    Raises:
        CaptureError: a length is neither fixed nor a multiple of the batch; the message names the operator.
    """
    batch = batch_symbols(graph)
    for node in graph.nodes:
        value = node.meta.get("val")
        shape = value.shape if isinstance(value, Tensor) else ()
        if any(_rows_of_an_image(length, batch) == 0 for length in shape):
            raise CaptureError(
                f"The model combines images of a batch: {operator_of(node)} in "
                f"{module_path(node) or 'the model itself'} gives a tensor of {_shape(value, batch)}; put images "
                "that belong together along another axis, or move this step out of the model."
            )


def batch_symbols(graph: fx.Graph) -> frozenset[Any]:
    """Return the symbols of tracing that stand for the size of the batch; inputs that never meet have one each."""
    values = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    lengths = [one.shape[0] for one in values if isinstance(one, Tensor) and one.ndim]
    return frozenset(_expression(length) for length in lengths if isinstance(length, SymInt))


def _rows_of_an_image(length: object, batch: frozenset[Any]) -> int | None:
    """Return how many of a length's rows belong to an image: `None` for a length of another kind, 0 where there is no such number."""
    if not isinstance(length, SymInt):
        return None
    symbols = length.node.expr.free_symbols
    if not symbols or not symbols <= batch:
        return None
    few, many = (int(length.node.expr.subs(dict.fromkeys(symbols, size))) for size in _TRIED)
    rows = few // _TRIED[0]
    return rows if (few, many) == (rows * _TRIED[0], rows * _TRIED[1]) else 0


def _leading_lengths(node: fx.Node, batch: frozenset[Any]) -> tuple[int, ...] | None:
    """Return the lengths that were merged into a value's first axis, the batch as -1; `None` where it is not known."""
    computed = data_nodes(node.graph)
    while True:
        value = traced_value(node)
        if not isinstance(value, Tensor) or value.ndim == 0:
            return None
        length = value.shape[0]
        if _rows_of_an_image(length, batch) == 1:
            return (-1,)
        if not isinstance(length, SymInt):
            return (int(length),)
        sources = [source for source in node.all_input_nodes if source in computed]
        same = [source for source in sources if _has_length(source, length)]
        if not same:
            return _merged(node, length, batch)
        node = same[0]


def _merged(node: fx.Node, length: SymInt, batch: frozenset[Any]) -> tuple[int, ...] | None:
    """Return what a reshape merged into its result's first axis."""
    source = node.args[0] if operator_of(node) in _MERGES else None
    read = traced_value(source) if isinstance(source, fx.Node) else None
    if not isinstance(source, fx.Node) or not isinstance(read, Tensor):
        return None
    outer = _leading_lengths(source, batch)
    # Behind the batch, whatever is split and merged, an image's rows stay together.
    if outer is None or outer[0] == -1:
        return outer and (-1, _rows_of_an_image(length, batch) or 0)
    for count in range(2, read.ndim + 1):
        if math.prod(map(_expression, read.shape[:count])) == length.node.expr:
            inner = [
                -1 if _rows_of_an_image(one, batch) == 1 else one for one in read.shape[1:count]
            ]
            known = all(isinstance(one, int) for one in inner)
            return (*outer, *map(int, inner)) if known else None
    return None


def _has_length(node: fx.Node, length: SymInt) -> bool:
    value = traced_value(node)
    return (
        isinstance(value, Tensor)
        and value.ndim > 0
        and _expression(value.shape[0]) == length.node.expr
    )


def _expression(length: int | SymInt) -> Any:
    return length.node.expr if isinstance(length, SymInt) else length


def _arranged(value: Tensor, leading: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """Split a value's first axis into some of given lengths, and reorder the axes."""
    return torch.permute(torch.unflatten(value, 0, leading), order)


def _shape(value: Tensor, batch: frozenset[Any]) -> str:
    """Describe a shape, with the size of the batch as N."""
    texts = [str(length) for length in value.shape]
    for symbol in batch:
        texts = [re.sub(rf"\b{symbol}\b", "N", text) for text in texts]
    return "×".join(texts)
