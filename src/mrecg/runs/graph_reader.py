"""From a stored graph to a program, without executing anything that the file says beyond known operators' shapes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_structure

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
        with default_torch_modes():
            program = export_frozen(fx.GraphModule(root, builder.graph), images)
    except Exception as error:  # neither fx nor torch.export documents a narrower class
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        _refuse(f"its operators do not fit each other ({type(error).__name__}: {reason[:200]})")
    _refuse_large_values(program.graph)
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
        self.numbers: set[fx.Node] = set()
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
        if is_arithmetic(function):
            self._check_numbers(stored, function, args)
        node = self.graph.call_function(function, args, kwargs)
        if is_arithmetic(function):
            self.numbers.add(node)
        if stored.module and not is_path(stored.module):
            _refuse(f"{stored.name} comes from a module {stored.module[:100]!r}")
        node.meta["nn_module_stack"] = {stored.module: (stored.module, "")}
        self.made[stored.name] = node

    def _check_numbers(
        self, stored: StoredNode, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Refuse arithmetic on lists and strings, which repeats them."""
        of_tensor = isinstance(function, torch._ops.OpOverload)
        for arg in args[1:] if of_tensor else args:
            if not (
                arg in self.numbers if isinstance(arg, fx.Node) else isinstance(arg, int | float)
            ):
                _refuse(f"{stored.name} computes a number from something else")

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


def _refuse_large_values(graph: fx.Graph) -> None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            sizes = [size if isinstance(size, int) else 2 for size in value.shape]
            if math.prod(sizes) > _LARGEST:
                _refuse(f"{node.name} has {math.prod(sizes):,} elements")
