"""From the nodes of a stored graph to those of torch.fx; nothing is executed."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

import mrecg.quantizers  # noqa: F401 — registers the operators of quantized models
from mrecg.graph.randomness import is_repeatable
from mrecg.runs.bounds import refuse
from mrecg.runs.operators import is_arithmetic, named_operator, takes
from mrecg.runs.stored_graph import StoredGraph, StoredNode, is_name, is_path

__all__ = ["DTYPES", "GraphBuilder"]

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
_MOST_TERMS = 32
"""Sizes and numbers that one number is computed from; forty squares would make a number that fills the memory."""
_MOST_FIELDS = 256
"""Of a named tuple, whose class is made by code of that length."""


class GraphBuilder:
    """Makes the nodes of a graph one after the other; each may read those before it only.

    Attributes:
        graph: all nodes.
        output: what the network returns, with nodes in the place of tensors.

    Raises:
        RunError: a name, an operator or an argument is not one that a run may hold; the sentence is to follow the
            name of the file.
    """

    def __init__(self, stored: StoredGraph) -> None:
        self.graph = fx.Graph()
        self.made: dict[str, fx.Node] = {}
        for one in stored.inputs:
            if not is_name(one.name) or one.name in self.made:
                refuse(f"its input has the name {one.name[:100]!r}")
            self.made[one.name] = self.graph.placeholder(one.name)
        self.tensors = {name: self.graph.get_attr(name) for name in stored.tensors}
        self.terms: dict[fx.Node, int] = {}
        for node in stored.nodes:
            self._add(node)
        self.output = self._decode(stored.output)
        self.graph.output(self.output)

    def _add(self, stored: StoredNode) -> None:
        if stored.name in self.made or not is_name(stored.name):
            refuse(f"an operator has the name {stored.name[:100]!r}")
        function = named_operator(stored.operator)
        args = tuple(map(self._decode, stored.args))
        kwargs = {key: self._decode(value) for key, value in stored.kwargs.items()}
        if not takes(function, len(args), set(kwargs)):
            refuse(f"{stored.name} gives {stored.operator} other arguments than it has")
        if not is_repeatable(function, args, kwargs):
            refuse(f"its operator {stored.operator!r} draws random numbers in {stored.name}")
        node = self.graph.call_function(function, args, kwargs)
        if is_arithmetic(function):
            self.terms[node] = self._count_terms(stored, function, args)
        if stored.module and not is_path(stored.module):
            refuse(f"{stored.name} comes from a module {stored.module[:100]!r}")
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
                refuse(f"{stored.name} computes a number from something else")
            terms += self.terms[arg] if isinstance(arg, fx.Node) else 1
        if terms > _MOST_TERMS:
            refuse(f"{stored.name} computes a number from more than {_MOST_TERMS} others")
        return terms

    def _decode(self, value: Any) -> Any:
        """Return the value of an argument."""
        if isinstance(value, list):
            return [self._decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            refuse(f"an argument has the keys {', '.join(value)[:100]!r}")
        ((kind, content),) = value.items()
        if kind in ("tuple", "namedtuple", "dict", "ordered_dict"):
            return self._container(kind, content)
        known = {"node": self.made, "tensor": self.tensors, **_CONSTANTS}.get(kind, {})
        if not isinstance(content, str) or content not in known:
            refuse(f"an argument is the {kind[:100]} {str(content)[:100]!r}, which is unknown")
        return known[content]

    def _container(self, kind: str, content: Any) -> Any:
        if not isinstance(content, list):
            refuse(f"a {kind} holds something else than a list")
        if kind == "tuple":
            return tuple(map(self._decode, content))
        if kind == "namedtuple":
            return (
                self._named_tuple(*content)
                if len(content) == 3
                else refuse("a namedtuple holds no three things")
            )
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            refuse(f"a {kind} holds something else than pairs")
        pairs = [(self._decode(key), self._decode(one)) for key, one in content]
        if not all(_is_key(key) for key, _ in pairs):
            refuse(f"a {kind} has a key that is no string, number or tuple")
        return OrderedDict(pairs) if kind == "ordered_dict" else dict(pairs)

    def _named_tuple(self, name: Any, fields: Any, values: Any) -> Any:
        """Return a named tuple of a new class; Python makes its code of the names, so that they must be no more than names."""
        if (
            not isinstance(fields, list)
            or not isinstance(values, list)
            or len(fields) != len(values)
        ):
            refuse("a namedtuple has other fields than values")
        names = [name, *fields]
        if not all(isinstance(one, str) and is_name(one) for one in names) or any(
            field.startswith("_") for field in fields
        ):
            refuse(f"a namedtuple has the names {str(names)[:100]}")
        if len(set(fields)) < len(fields) or len(fields) > _MOST_FIELDS:
            refuse(f"a namedtuple has the names {str(names)[:100]}")
        made = namedtuple(name, fields)  # type: ignore[misc]
        return made(*map(self._decode, values))


def _is_key(value: Any) -> bool:
    return all(map(_is_key, value)) if isinstance(value, tuple) else isinstance(value, str | int)
