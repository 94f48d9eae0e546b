"""The capacity of a unit, and the capacity difference of neighbors (MRECG, sections 3.2 and 3.3)."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from mrecg.records.plan import Layer

__all__ = ["are_homogeneous", "cap_diff", "mod_cap"]

STRIDE_FACTOR = 1.6
"""α of a layer with stride 2 (MRECG, section 3.3; the value is recalled, not read from the paper)."""

_SMALLEST_METRIC = 1e-12


def mod_cap(layers: Sequence[Layer]) -> float:
    """Return ModCap, the data-free capacity of a module: `Σ parameters · bits · α` over the layers, α = 1.6 where the stride is 2, else 1."""
    return sum(
        layer.parameters * layer.bits * (STRIDE_FACTOR if layer.stride == 2 else 1)
        for layer in layers
    )


def are_homogeneous(first: Sequence[Layer], second: Sequence[Layer]) -> bool:
    """Return whether two units are topologically homogeneous (MRECG, section 3.2): as many layers, equal but for kernel size and channels."""
    shapes = [
        [(layer.kind, layer.stride, layer.groups) for layer in unit] for unit in (first, second)
    ]
    return shapes[0] == shapes[1]


def cap_diff(metric: Sequence[float], kind: Literal["square", "log-ratio"]) -> tuple[float, ...]:
    """Return CapDiff, the capacity difference of neighbors: `(M_i − M_{i+1})²`, or `|log(M_i / M_{i+1})|`, which does not favor deep layers.

    Args:
        metric: one non-negative value per unit, along the chain.
        kind: which of the two.
    """
    pairs = itertools.pairwise(metric)
    if kind == "square":
        return tuple((first - second) ** 2 for first, second in pairs)
    floor = _SMALLEST_METRIC
    return tuple(abs(math.log(max(first, floor) / max(second, floor))) for first, second in pairs)
