"""The operators of a stored graph, by name: functions of tensors and sizes, without side effects.

A graph that somebody else wrote may name any operator. Some of torch's write files (`aten::save`), change global state
(`aten::manual_seed`) or trust their arguments (`aten::_sparse_csr_tensor_unsafe`), so only what a network computes with
is accepted: operators that return tensors and write into none.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from mrecg.errors import RunError

__all__ = ["is_arithmetic", "named_operator", "operator_name", "takes"]

_NAMESPACES = ("aten", "quantized_decomposed", "torchvision")
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"operator.{function.__name__}": function
    for function in (
        *(operator.add, operator.sub, operator.mul, operator.neg),
        *(operator.floordiv, operator.truediv, operator.mod),
    )
} | {
    f"torch.{function.__name__}": function
    for function in (torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min)
}
"""Operators that sizes may be computed with. Not powers: two small numbers make one that fills the memory."""
_FUNCTIONS = _ARITHMETIC | {"operator.getitem": operator.getitem}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
_SIZES = ("sym_size", "sym_numel", "sym_stride")
_INTERNAL = {
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__"),
    *("_adaptive_avg_pool2d", "_convolution", "_log_softmax", "_softmax", "_safe_softmax"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_trilinear"),
    *("_pad_circular", "_pad_enum", "_to_copy", "_unsafe_view", "_weight_norm"),
    *(f"_upsample_{kind}2d_aa" for kind in ("bicubic", "bilinear", "lanczos")),
    *(f"_upsample_nearest_exact{axes}d" for axes in (1, 2, 3)),
}
"""The operators with a leading underscore that networks call; the others are torch's own business."""
_REFUSED = {"from_file", "resize", "set"}
_UNCHECKED = re.compile(
    "fbgemm|quantized_|segment_reduce|sparse|csr|csc|bsr|bsc|coo|nested|mkldnn|cudnn|miopen|backward"
)
"""Families whose operators trust the indices and layouts that they are given."""


def operator_name(target: Any) -> str:
    """Return the name of a node's target, such as `aten.conv2d.default`.

    Raises:
        RunError: it is not an operator that a stored graph may hold.
    """
    name = str(target) if isinstance(target, OpOverload) else _NAMES.get(target, "")
    if not name or _known(name) is not target:
        raise RunError(f"The operator {name or target} cannot be stored in a run.")
    return name


def named_operator(name: str) -> Callable[..., Any]:
    """Return the operator of that name.

    Raises:
        RunError: there is none, or a stored graph may not hold it.
    """
    found = _known(name)
    if found is None:
        raise RunError(f"The operator {name[:100]!r} is not one that a run may hold.")
    return found


def is_arithmetic(function: Callable[..., Any]) -> bool:
    """Return whether the operator computes a number from numbers; given lists, it would repeat them."""
    return function in _ARITHMETIC.values() or (
        isinstance(function, OpOverload) and _packet_name(function) in _SIZES
    )


def takes(function: Callable[..., Any], count: int, names: set[str]) -> bool:
    """Return whether an operator has `count` positional arguments at least, and the named ones."""
    if not isinstance(function, OpOverload):
        return count <= 3 and not names
    arguments = [argument.name for argument in function._schema.arguments]
    return count <= len(arguments) and names <= set(arguments[count:])


def _known(name: str) -> Callable[..., Any] | None:
    return _FUNCTIONS.get(name) or _overload(name)


def _overload(name: str) -> OpOverload[..., Any] | None:
    parts = name.split(".")
    if len(parts) != 3 or parts[0] not in _NAMESPACES or not all(map(str.isidentifier, parts)):
        return None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    if not isinstance(packet, OpOverloadPacket) or parts[2] not in packet.overloads():
        return None
    overload = getattr(packet, parts[2])
    return overload if _is_a_function_of_tensors(overload) else None


def _is_a_function_of_tensors(overload: OpOverload[..., Any]) -> bool:
    name, schema = _packet_name(overload), overload._schema
    if name in _SIZES:
        return True
    if name in _REFUSED or _UNCHECKED.search(name):
        return False
    if name.startswith("_") and name not in _INTERNAL:
        return False
    returned = [str(value.type) for value in schema.returns]
    return not schema.is_mutable and bool(returned) and all("Tensor" in kind for kind in returned)


def _packet_name(overload: OpOverload[..., Any]) -> str:
    return overload._schema.name.partition("::")[2]
