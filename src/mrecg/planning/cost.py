"""Memory that a unit's passes take, and so how many images go through it at once."""

import math
from collections.abc import Sequence

from torch import Tensor

from mrecg.graph.layers import traced_value
from mrecg.graph.units import Unit

__all__ = ["images_per_pass", "images_per_training_pass", "largest_value", "saved_bytes"]

_MOST_IMAGES = 64
_SAVED_PER_ELEMENT = 3
"""Tensors of an activation's size that a forward pass saves for its backward pass."""
_LARGEST_PASS = 2 << 30
"""Bytes that a pass through the whole network saves at most."""
_LARGEST_TENSOR = 1 << 26
"""Bytes of the largest tensor that a unit makes in a forward pass; a handful of them exist at a time."""


def saved_bytes(units: Sequence[Unit]) -> int:
    """Return the bytes that a forward pass through units saves of one image for its backward pass."""
    nodes = [n for unit in units for n in unit.float_graph.graph.nodes if n.op == "call_function"]
    values = [value for node in nodes if isinstance(value := traced_value(node), Tensor)]
    return 4 * _SAVED_PER_ELEMENT * sum(int(math.prod(value.shape[1:])) for value in values)


def images_per_training_pass(units: Sequence[Unit]) -> int:
    """Return how many images go through units forward and backward at once, within a bound of memory."""
    return max(1, _LARGEST_PASS // max(1, saved_bytes(units)))


def images_per_pass(unit: Unit) -> int:
    """Return how many images go through a unit forward at once, within a bound of memory."""
    return max(1, min(_MOST_IMAGES, _LARGEST_TENSOR // (4 * largest_value(unit))))


def largest_value(unit: Unit) -> int:
    """Return the elements per image of the largest tensor that a unit reads or makes."""
    sizes = [
        int(math.prod(value.shape[1:]))
        for node in unit.float_graph.graph.nodes
        if isinstance(value := traced_value(node), Tensor) and value.ndim > 1
        if node.op != "get_attr"
    ]
    return max(sizes, default=1)
