"""From a stored graph to a program, without executing anything that the file says beyond known operators' shapes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_structure

import mrecg.quantizers  # noqa: F401 — registers the operators of quantized models
from mrecg.errors import RunError
from mrecg.graph.capture import export_frozen
from mrecg.runs.operators import is_arithmetic, named_operator, takes
from mrecg.runs.stored_graph import StoredGraph, StoredNode, is_name, is_path
from mrecg.torch_state import default_torch_modes

__all__ = ["DTYPES", "rebuild"]

DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
_CONSTANTS: dict[str, Mapping[str, Any]] = {
    "dtype": DTYPES,
    "device": {"cpu": torch.device("cpu")},
    "layout": {"strided": torch.strided},
    "memory_format": {
        str(value).removeprefix("torch."): value
        for value in vars(torch).values()
        if isinstance(value, torch.memory_format)
    },
}
_LARGEST = 1 << 33
"""Elements of a single value, for two images."""
_MOST_PARTS = 1 << 16
"""Length of an axis that an operator may cut into parts; each takes time and memory, whatever its size."""
_MOST_OPERATIONS = 200
"""Operations in the formula of a size that depends on the batch: a few operators can double it again and again."""
_MOST_TERMS = 32
"""Sizes and numbers that one number is computed from; forty squares would make a number that fills the memory."""


def rebuild(stored: StoredGraph, tensors: Mapping[str, Tensor]) -> ExportedProgram:
    """Return the program that a stored graph describes.

    Args:
        stored: its structure.
        tensors: the parameters and buffers, unpacked, by name.

    Raises:
        RunError: the graph names something unknown, or its operators do not fit each other; the sentence is to
            follow the name of the file.
    """
    if not is_name(stored.input):
        _refuse(f"its input has the name {stored.input[:100]!r}")
    images = _example(stored)
    builder, root = _Builder(stored), _placed(tensors, stored)
    try:
        with default_torch_modes(), _Bounds():
            program = export_frozen(fx.GraphModule(root, builder.graph), images)
    except RunError as error:  # of `_Bounds`; fx adds lines of its own
        _refuse(str(error).splitlines()[0])
    except Exception as error:  # neither fx nor torch.export documents a narrower class
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        _refuse(f"its operators do not fit each other ({type(error).__name__}: {reason[:200]})")
    # fx returns dictionaries and lists of its own.
    program.module_call_graph[0].signature.out_spec = tree_structure(builder.output)
    return program


def _refuse(reason: str) -> NoReturn:
    raise RunError(reason)


def _example(stored: StoredGraph) -> Tensor:
    """Return two images; nothing reads them, so that the system gives them no memory."""
    dtype = DTYPES.get(stored.input_dtype)
    if dtype is None or 2 * math.prod(stored.input_shape) > _LARGEST:
        _refuse(f"its input is {stored.input_dtype[:100]} of the shape {stored.input_shape}")
    return torch.empty((2, *stored.input_shape), dtype=dtype, device="cpu")


def _placed(tensors: Mapping[str, Tensor], stored: StoredGraph) -> nn.Module:
    """Return a tree of modules that holds the tensors under their names."""
    root = nn.Module()
    for name, spec in stored.tensors.items():
        if not is_path(name):
            _refuse(f"a tensor has the name {name[:100]!r}")
        *path, attribute = name.split(".")
        owner = root
        try:
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]  # type: ignore[assignment]
            if spec.kind == "parameter":
                owner.register_parameter(
                    attribute, nn.Parameter(tensors[name], requires_grad=False)
                )
            else:
                owner.register_buffer(attribute, tensors[name], persistent=spec.kind == "buffer")
        except (KeyError, RuntimeError, TypeError):
            _refuse(f"a tensor has the name {name[:100]!r}")
    return root


class _Builder:
    """Makes the nodes of a graph one after the other; each may read those before it only."""

    def __init__(self, stored: StoredGraph) -> None:
        self.graph = fx.Graph()
        self.made: dict[str, fx.Node] = {stored.input: self.graph.placeholder(stored.input)}
        self.tensors = {name: self.graph.get_attr(name) for name in stored.tensors}
        self.terms: dict[fx.Node, int] = {}
        for node in stored.nodes:
            self._add(node)
        self.output = self._decode(stored.output)
        self.graph.output(self.output)

    def _add(self, stored: StoredNode) -> None:
        if stored.name in self.made or not is_name(stored.name):
            _refuse(f"an operator has the name {stored.name[:100]!r}")
        function = named_operator(stored.operator)
        args = tuple(map(self._decode, stored.args))
        kwargs = {key: self._decode(value) for key, value in stored.kwargs.items()}
        if not takes(function, len(args), set(kwargs)):
            _refuse(f"{stored.name} gives {stored.operator} other arguments than it has")
        node = self.graph.call_function(function, args, kwargs)
        if is_arithmetic(function):
            self.terms[node] = self._count_terms(stored, function, args)
        if stored.module and not is_path(stored.module):
            _refuse(f"{stored.name} comes from a module {stored.module[:100]!r}")
        node.meta["nn_module_stack"] = {stored.module: (stored.module, "")}
        self.made[stored.name] = node

    def _count_terms(
        self, stored: StoredNode, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> int:
        """Return from how many numbers one is computed; refuse lists and strings, which arithmetic would repeat."""
        of_tensor = isinstance(function, torch._ops.OpOverload)
        terms = 1 if of_tensor else 0
        for arg in args[1:] if of_tensor else args:
            known = isinstance(arg, float) or (isinstance(arg, int) and arg.bit_length() < 64)
            if not (arg in self.terms if isinstance(arg, fx.Node) else known):
                _refuse(f"{stored.name} computes a number from something else")
            terms += self.terms[arg] if isinstance(arg, fx.Node) else 1
        if terms > _MOST_TERMS:
            _refuse(f"{stored.name} computes a number from more than {_MOST_TERMS} others")
        return terms

    def _decode(self, value: Any) -> Any:
        """Return the value of an argument."""
        if isinstance(value, list):
            return [self._decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            _refuse(f"an argument has the keys {', '.join(value)[:100]!r}")
        ((kind, content),) = value.items()
        if kind in ("tuple", "dict", "ordered_dict"):
            return self._container(kind, content)
        known = {"node": self.made, "tensor": self.tensors, **_CONSTANTS}.get(kind, {})
        if not isinstance(content, str) or content not in known:
            _refuse(f"an argument is the {kind[:100]} {str(content)[:100]!r}, which is unknown")
        return known[content]

    def _container(self, kind: str, content: Any) -> Any:
        if not isinstance(content, list):
            _refuse(f"a {kind} holds something else than a list")
        if kind == "tuple":
            return tuple(map(self._decode, content))
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            _refuse(f"a {kind} holds something else than pairs")
        pairs = [(self._decode(key), self._decode(one)) for key, one in content]
        if not all(_is_key(key) for key, _ in pairs):
            _refuse(f"a {kind} has a key that is no string, number or tuple")
        return OrderedDict(pairs) if kind == "ordered_dict" else dict(pairs)


def _is_key(value: Any) -> bool:
    return all(map(_is_key, value)) if isinstance(value, tuple) else isinstance(value, str | int)


class _Bounds(TorchFunctionMode):
    """Stops tracing at values that no network has, before they take time or memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.OpOverload) and _cuts(func):
            sizes = [size for one in _tensors(args) for size in one.shape]
            longest = max((size for size in sizes if isinstance(size, int)), default=0)
            if longest > _MOST_PARTS:
                _refuse(f"{func} cuts an axis of {longest:,}")
        result = func(*args, **(kwargs or {}))
        if isinstance(func, torch._ops.OpOverload):
            for value in _tensors(result):
                _refuse_large_value(str(func), value)
        return result


def _cuts(operator: torch._ops.OpOverload[..., Any]) -> bool:
    """Return whether an operator makes a tensor, or takes a step, for each index of an axis."""
    schema = operator._schema
    recurrent = any(name in schema.name for name in ("lstm", "gru", "rnn"))
    return recurrent or any("List" in str(value.type) for value in schema.returns)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _refuse_large_value(operator: str, value: Tensor) -> None:
    elements = 1
    for size in value.shape:
        if isinstance(size, int):
            elements *= size
            continue
        if size.node.expr.count_ops() > _MOST_OPERATIONS:
            _refuse(
                f"{operator} gives a size by a formula of more than {_MOST_OPERATIONS} operations"
            )
        elements *= max(1, size.node.hint or 1)
    if elements > _LARGEST:
        _refuse(f"{operator} gives {elements:,} elements")
