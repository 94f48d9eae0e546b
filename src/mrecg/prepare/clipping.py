"""ReLU and quantizer in one pass over memory."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import fx

from mrecg.graph.units import Unit
from mrecg.quantizers.lsq import ActivationQuantizer

__all__ = ["fuse_clipping"]

_DEFAULTS = {
    torch.ops.aten.relu.default: (0.0, math.inf),
    torch.ops.aten.relu6.default: (0.0, 6.0),
    torch.ops.aten.hardtanh.default: (-1.0, 1.0),
}
"""Operators that clip, with their bounds; arguments replace those from the left."""


def fuse_clipping(placed: fx.GraphModule, units: Sequence[Unit]) -> None:
    """Let quantizers in the quantized units clip what nobody else reads; the whole graph keeps its operators.

    Args:
        placed: the whole graph, whose quantizers the units share. There a quantizer clips what was clipped.
        units: their quantized graphs are changed.
    """
    calls = Counter(node.target for node in placed.graph.nodes if node.op == "call_module")
    for unit in units:
        graph = unit.quantized.graph
        for node in [node for node in graph.nodes if node.target in _DEFAULTS]:
            quantizer = _only_reader(unit.quantized, node)
            if quantizer is None or calls[next(iter(node.users)).target] > 1:
                continue
            assert not node.kwargs, "captured graphs have positional arguments"
            given = [*node.args[1:], *_DEFAULTS[node.target][len(node.args) - 1 :]]
            quantizer.bounds = (float(given[0]), float(given[1]))
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        unit.quantized.recompile()


def _only_reader(module: fx.GraphModule, node: fx.Node) -> ActivationQuantizer | None:
    """The quantizer of multiples of a step that is all that reads a node."""
    (reader,) = node.users if len(node.users) == 1 else (None,)
    if reader is None or reader.op != "call_module":
        return None
    quantizer = module.get_submodule(str(reader.target))
    if not isinstance(quantizer, ActivationQuantizer) or not quantizer.uniform:
        return None
    return quantizer
