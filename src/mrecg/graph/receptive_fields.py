"""Find out how far the values of a unit reach over a feature map, and so what is left of them where the map is cut.

A convolution of a part of a map gives what it gives for the whole one, but for a halo along the cuts, where its zero padding
stands for what was cut off. So it is for everything that slides over a map or reads one position of it.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from mrecg.graph.layers import data_nodes, traced_value
from mrecg.graph.operators import arguments_of, is_pointwise, operator_of
from mrecg.graph.units import Unit

__all__ = ["Extent", "Field", "trace_fields"]

_aten = torch.ops.aten
_PER_CHANNEL = frozenset({_aten.batch_norm, _aten._native_batch_norm_legit_no_training})
_UNCHANGED = frozenset({_aten.alias, _aten.clone, _aten.contiguous, _aten.detach})
_ALONG_AN_AXIS = frozenset(
    {_aten.cat, _aten.chunk, _aten.split, _aten.split_with_sizes, _aten.slice}
)
_POOLS = frozenset({_aten.max_pool2d, _aten.avg_pool2d})


class Extent(NamedTuple):
    """One axis of a map.

    Attributes:
        size: positions of the whole map.
        stride: from one position to the next, in positions of the finest input.
        before, behind: how many positions next to a cut are not those of the whole map, where inputs are cut in front of
            what is kept and behind it.
    """

    size: int
    stride: int
    before: int = 0
    behind: int = 0


Field = tuple[Extent, Extent]
"""Height and width of a map."""


def trace_fields(units: Sequence[Unit]) -> dict[str, Field] | None:
    """Return the field of every value that neighboring units read or make.

    Returns:
        Fields by the names of values; `None` where a value is no map, or depends on all positions of another, as behind
        global pooling, attention and reshaping.
    """
    inputs = _input_sizes(units)
    if inputs is None:
        return None
    finest = [max(sizes) for sizes in zip(*inputs.values(), strict=True)]
    known: dict[str, Field] = {}
    for name, (height, width) in inputs.items():
        strides = [round(most / size) for most, size in zip(finest, (height, width), strict=True)]
        known[name] = Extent(height, strides[0]), Extent(width, strides[1])
    for unit in units:
        results = _trace(unit.float_graph.graph, [known[name] for name in unit.inputs])
        if results is None:
            return None
        known.update(zip(unit.outputs, results, strict=False))
    return known


def _input_sizes(units: Sequence[Unit]) -> dict[str, tuple[int, int]] | None:
    """Return height and width of what is read from before the units."""
    made = {name for unit in units for name in unit.outputs}
    sizes: dict[str, tuple[int, int]] = {}
    for unit in units:
        placeholders = [node for node in unit.float_graph.graph.nodes if node.op == "placeholder"]
        for name, node in zip(unit.inputs, placeholders, strict=True):
            size = _map_size(node)
            if size is None:
                return None
            if name not in made:
                sizes[name] = size
    return sizes


def _trace(graph: fx.Graph, inputs: Sequence[Field]) -> list[Field] | None:
    computed, given = data_nodes(graph), iter(inputs)
    fields: dict[fx.Node, Field] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            fields[node] = next(given)
        elif node.op == "output":
            (made,) = node.args
            return [fields[one] for one in made]
        elif node in computed and isinstance(traced_value(node), Tensor | list | tuple):
            field = _field_of(node, fields, computed)
            if field is None:
                return None
            fields[node] = field
    raise AssertionError("a graph has an output")


def _field_of(
    node: fx.Node, fields: Mapping[fx.Node, Field], computed: frozenset[fx.Node]
) -> Field | None:
    read = [fields.get(source) for source in node.all_input_nodes if source in computed]
    sources = [field for field in read if field is not None]
    if len(sources) < len(read) or not sources:
        return None
    called, arguments = operator_of(node), arguments_of(node)
    if called in _UNCHANGED or called in _PER_CHANNEL or node.target is operator.getitem:
        return None if arguments.get("training") else sources[0]
    if called in _ALONG_AN_AXIS:
        return _joined(sources) if arguments["dim"] in (1, -3) else None
    if is_pointwise(node):
        constants = [source for source in node.all_input_nodes if source not in computed]
        return _joined(sources) if all(map(_is_uniform, constants)) else None
    size = _map_size(node)
    kernel = None if size is None else _kernel(called, arguments)
    if size is None or kernel is None:
        return None
    slid = [_slide(*axis) for axis in zip(sources[0], size, *kernel, strict=True)]
    return slid[0], slid[1]


def _joined(fields: Sequence[Field]) -> Field | None:
    """Return the field of a value that reads the same position of several maps."""
    axes = []
    for extents in zip(*fields, strict=True):
        if len({(one.size, one.stride) for one in extents}) > 1:
            return None
        before = max(one.before for one in extents)
        behind = max(one.behind for one in extents)
        axes.append(extents[0]._replace(before=before, behind=behind))
    return axes[0], axes[1]


def _slide(field: Extent, size: int, reach: int, stride: int, padding: int) -> Extent:
    """Return the extent of a result whose position j reads `reach` positions from j · stride − padding on."""
    first = -(-(field.before + padding) // stride)
    last = (field.size - field.behind - reach + padding) // stride
    return Extent(size, field.stride * stride, max(0, first), max(0, size - 1 - last))


_Pair = tuple[int, int]


def _kernel(called: object, arguments: Mapping[str, Any]) -> tuple[_Pair, _Pair, _Pair] | None:
    """Return reach, stride and padding of an operator that slides over a map, for both axes; `None` for others."""
    if called is _aten.pad or called is _aten.constant_pad_nd:
        pad = [*arguments["pad"], 0, 0, 0, 0][:4]
        keeps_channels = not any(arguments["pad"][4:])
        constant = arguments.get("mode", "constant") == "constant"
        return ((1, 1), (1, 1), (pad[2], pad[0])) if keeps_channels and constant else None
    if called is _aten.conv2d:
        weight = traced_value(arguments["weight"])
        assert isinstance(weight, Tensor)
        size = _pair(weight.shape[2:])
    elif called in _POOLS:
        size = _pair(arguments["kernel_size"])
    else:
        return None
    dilation = _pair(arguments.get("dilation", 1))
    reach = (dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1)
    padding = arguments["padding"]
    if padding == "same":
        padding = [(reach[0] - 1) // 2, (reach[1] - 1) // 2]
    elif padding == "valid":
        padding = [0, 0]
    return reach, _pair(arguments["stride"] or size), _pair(padding)


def _pair(value: Any) -> _Pair:
    """Return height and width of an argument that may be one number for both."""
    first, last = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return int(first), int(last)


def _map_size(node: fx.Node) -> tuple[int, int] | None:
    value = traced_value(node)
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None
    return int(value.shape[2]), int(value.shape[3])


def _is_uniform(constant: fx.Node) -> bool:
    """Return whether a constant is the same at every position of a map."""
    value = traced_value(constant)
    return isinstance(value, Tensor) and all(size == 1 for size in value.shape[-2:])
