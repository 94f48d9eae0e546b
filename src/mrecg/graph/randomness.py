"""Find operators that draw random numbers: a network that does has no answer that could be kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from mrecg.errors import CaptureError
from mrecg.graph.layers import module_path

__all__ = ["can_be_repeatable", "is_repeatable", "refuse_random"]

_SWITCHES = {"dropout_p", "train", "training"}
"""The arguments that switch off what is random in an operator."""
_PROBABILITIES = {"dropout", "p"}
"""Arguments of operators with a switch: of 0, it does not matter that they are on."""


def can_be_repeatable(function: OpOverload[..., Any]) -> bool:
    """Return whether an operator draws no random numbers, or has an argument that switches them off."""
    is_random = torch.Tag.nondeterministic_seeded in function.tags
    return not is_random or any(one.name in _SWITCHES for one in function._schema.arguments)


def is_repeatable(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Return whether an operator gives equal results in every call: dropout in attention, for example, must be off."""
    if (
        not isinstance(function, OpOverload)
        or torch.Tag.nondeterministic_seeded not in function.tags
    ):
        return True
    positions = enumerate(function._schema.arguments)
    given = {one.name: args[at] for at, one in positions if at < len(args)} | dict(kwargs)
    # An absent argument has its default, which is off; None, which one operator accepts, is on.
    off = all(given.get(name, 0) == 0 for name in _SWITCHES)
    never = any(given.get(name) == 0 for name in _PROBABILITIES)
    return can_be_repeatable(function) and (off or never)


def refuse_random(graph: fx.Graph) -> None:
    """Refuse a captured graph that draws random numbers in evaluation.

    Raises:
        CaptureError: naming the operator and its module.
    """
    for node in graph.nodes:
        if not is_repeatable(node.target, node.args, node.kwargs):
            raise CaptureError(
                f"The model draws random numbers in evaluation: {node.target} in {module_path(node) or 'its own forward'}; "
                "switch that off outside of training, as in F.dropout(x, p, self.training), or read a fixed tensor."
            )
