"""How large a stored graph may be: beyond these bounds, opening it would take hours or fill the memory.

The writer checks the same bounds, so that every run that was saved can be loaded.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from mrecg.errors import RunError
from mrecg.graph.outputs import flatten, map_only
from mrecg.runs.stored_graph import StoredGraph, StoredTensor

__all__ = ["CODE_DTYPES", "SizeBounds", "check_sizes", "check_values", "refuse"]

CODE_DTYPES = {
    str(one).removeprefix("torch."): one
    for one in (torch.uint8, torch.int8, torch.int16, torch.int32)
}
"""The types that a grid stores its codes in, by name."""
_WIDEST = 16
"""Bits of a packed code."""
_MOST_NODES = 30_000
_LARGEST = 1 << 31
"""Elements of a single tensor; of a value, for two images."""
_MOST_PARTS = 1 << 13
"""Parts that the operators of a graph may cut axes into; each takes time and memory, whatever its size."""
_MOST_OPERATIONS = 200
"""Operations in the formula of a size that depends on the batch: a few operators can double it again and again."""


def refuse(reason: str) -> NoReturn:
    """Raise a RunError whose sentence is to follow the name of the file."""
    raise RunError(reason)


def check_sizes(stored: StoredGraph) -> None:
    """Refuse more nodes, larger tensors or other codes than a run may hold; nothing is computed or placed for it.

    Raises:
        RunError: naming the one at fault; the sentence is to follow the name of the file.
    """
    if len(stored.nodes) > _MOST_NODES:
        refuse(f"its graph has {len(stored.nodes):,} operators, expected at most {_MOST_NODES:,}")
    for one in stored.inputs:
        if 2 * math.prod(one.shape) > _LARGEST:
            refuse(f"its input is {one.dtype[:100]} of the shape {one.shape}")
    for name, tensor in stored.tensors.items():
        if math.prod(tensor.shape) > _LARGEST:
            refuse(
                f"'{name[:100]}' has the shape {tensor.shape}, expected at most {_LARGEST:,} elements"
            )
        if tensor.grid is not None:
            _check_codes(name, tensor, *tensor.grid)


def _check_codes(name: str, tensor: StoredTensor, low: int, high: int) -> None:
    if tensor.dtype not in CODE_DTYPES or low >= high or (high - low).bit_length() > _WIDEST:
        refuse(f"'{name[:100]}' holds codes from {low} to {high} as {tensor.dtype[:100]}")


def check_values(graph: fx.Graph) -> None:
    """Refuse an exported graph with larger values than `SizeBounds` accepts.

    Args:
        graph: of a program that was exported with two images; its nodes have the `val` of torch.export.

    Raises:
        RunError: naming the operator at fault; the sentence is to follow the name of the file.
    """
    bounds = SizeBounds()
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            args = map_only(fx.Node, lambda one: one.meta.get("val"), (node.args, node.kwargs))
            bounds.check_arguments(node.target, args)
            bounds.check_result(node.target, node.meta.get("val"))


class SizeBounds(TorchFunctionMode):
    """Stops tracing at values that no network has, before they take time or memory."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **(kwargs or {}))
        self.check_arguments(func, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        self.check_result(func, result)
        return result

    def check_arguments(self, func: torch._ops.OpOverload[..., Any], args: Any) -> None:
        """Refuse an operator that cuts a long axis into parts."""
        if not _cuts(func):
            return
        sizes = [size for one in _tensors(args) for size in one.shape]
        longest = max((size for size in sizes if isinstance(size, int)), default=0)
        if longest > _MOST_PARTS:
            refuse(f"{func} cuts an axis of {longest:,}")
        if _is_recurrent(func):
            self._count_parts(func, longest)

    def check_result(self, func: torch._ops.OpOverload[..., Any], result: Any) -> None:
        """Refuse a result that is too large, or has too many parts together with those before it."""
        values = _tensors(result)
        if _cuts(func):
            self._count_parts(func, len(values))
        for value in values:
            _refuse_large_value(str(func), value)

    def _count_parts(self, func: torch._ops.OpOverload[..., Any], count: int) -> None:
        self.parts += count
        if self.parts > _MOST_PARTS:
            refuse(f"{func} and the operators before it cut axes into {self.parts:,} parts")


def _cuts(func: torch._ops.OpOverload[..., Any]) -> bool:
    """Return whether an operator makes a tensor, or takes a step, for each index of an axis."""
    return _is_recurrent(func) or any("List" in str(one.type) for one in func._schema.returns)


def _is_recurrent(func: torch._ops.OpOverload[..., Any]) -> bool:
    return any(name in func._schema.name for name in ("lstm", "gru", "rnn"))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in flatten(values) if isinstance(value, Tensor)]


def _refuse_large_value(operator: str, value: Tensor) -> None:
    elements = 1
    for size in value.shape:
        if isinstance(size, int):
            elements *= size
            continue
        if size.node.expr.count_ops() > _MOST_OPERATIONS:
            refuse(
                f"{operator} gives a size by a formula of more than {_MOST_OPERATIONS} operations"
            )
        elements *= max(1, size.node.hint or 1)
    if elements > _LARGEST:
        refuse(f"{operator} gives {elements:,} elements")
