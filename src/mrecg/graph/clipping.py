"""Find ReLUs that only a quantizer reads: both are then computed in one pass over memory."""

import math
from collections.abc import Collection, Container, Sequence
from typing import NamedTuple

import torch
from torch import fx

__all__ = ["FusedClip", "find_fusable_clips"]

_DEFAULTS = {
    torch.ops.aten.relu.default: (0.0, math.inf),
    torch.ops.aten.relu6.default: (0.0, 6.0),
    torch.ops.aten.hardtanh.default: (-1.0, 1.0),
}
"""Operators that clip, with their bounds; arguments replace those from the left."""


class FusedClip(NamedTuple):
    """A clip that the only quantizer behind it computes.

    Attributes:
        source: what the clip reads.
        quantizer: the node that reads the clip.
        bounds: of the clip.
    """

    source: fx.Node
    quantizer: fx.Node
    bounds: tuple[float, float]


def find_fusable_clips(
    piece: Sequence[fx.Node], outputs: Collection[fx.Node], clipping: Container[str]
) -> dict[fx.Node, FusedClip]:
    """Return the clips in `piece` that need not be computed by themselves.

    Args:
        piece: nodes of one unit.
        outputs: nodes whose values leave the unit.
        clipping: names of the quantizers that can clip.
    """
    inside = frozenset(piece)
    found: dict[fx.Node, FusedClip] = {}
    for node in piece:
        if node.target not in _DEFAULTS or node in outputs or len(node.users) != 1:
            continue
        (reader,) = node.users
        if reader in inside and reader.op == "call_module" and reader.target in clipping:
            assert not node.kwargs, "captured graphs have positional arguments"
            source = node.args[0]
            assert isinstance(source, fx.Node)
            given = (*node.args[1:], *_DEFAULTS[node.target][len(node.args) - 1 :])
            low, high = (float(bound) for bound in given)  # type: ignore[arg-type]
            found[node] = FusedClip(source, reader, (low, high))
    return found
