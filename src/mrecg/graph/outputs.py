"""Outputs of any shape: what a network returns, in nested tuples, lists and dictionaries, as leaves with names.

torch.export flattens with torch's pytree, which has no public name; this module is the only one that imports it.
"""

import copy
import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree

from mrecg.errors import CaptureError

__all__ = [
    "Structure",
    "computed_outputs",
    "flatten",
    "map_only",
    "named_leaves",
    "named_tensors",
    "on_cpu",
    "plain_outputs",
    "structure_of",
]

Structure = _pytree.TreeSpec
"""What is around the leaves; its `unflatten` puts them back."""


def flatten(value: Any) -> list[Any]:
    """Return the leaves of nested containers, in order; `None` and numbers are leaves, too."""
    return _pytree.tree_leaves(value)


def structure_of(value: Any) -> Structure:
    """Return nested containers without their leaves."""
    return _pytree.tree_structure(value)


def map_only(kind: type, function: Callable[[Any], Any], value: Any) -> Any:
    """Return nested containers with the leaves of one type replaced."""
    return _pytree.tree_map_only(kind, function, value)


def named_leaves(value: Any) -> dict[str, Any]:
    """Return the leaves by name, in order.

    A name is the path to its leaf: `logits` in a dictionary, `maps_1` in a list in one, `output_0` in a tuple, `output`
    where there is only one.
    """
    named: dict[str, Any] = {}
    for path, leaf in _pytree.tree_flatten_with_path(value)[0]:
        base = name = _name(path)
        again = 1
        while name in named:
            again += 1
            name = f"{base}_{again}"
        named[name] = leaf
    return named


def named_tensors(value: Any) -> dict[str, Tensor]:
    """Return the tensors among `named_leaves`."""
    return {name: leaf for name, leaf in named_leaves(value).items() if isinstance(leaf, Tensor)}


def on_cpu(value: Any) -> Any:
    """Return what a network returns with its tensors on the CPU, in the same containers."""
    return _pytree.tree_map(_leaf_on_cpu, value)


def _leaf_on_cpu(leaf: Any) -> Any:
    """Move a tensor, or the tensors in what pytree does not open: a dataclass, or a mapping of a class of its own."""
    made: Any
    if isinstance(leaf, Tensor):
        return leaf.cpu()
    if isinstance(leaf, MutableMapping):
        made = copy.copy(leaf)
        made.update({key: on_cpu(one) for key, one in leaf.items()})
        return made
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        made = copy.copy(leaf)
        for one in dataclasses.fields(leaf):
            object.__setattr__(made, one.name, on_cpu(getattr(leaf, one.name)))  # frozen ones, too
        return made
    return leaf


def plain_outputs(value: Any) -> Any:
    """Return what a network returns in containers that a run can store: tuples, named tuples, lists and dictionaries.

    A mapping of any other class becomes a dictionary, a dataclass a named tuple of its name and fields.

    Raises:
        CaptureError: there is something else in it.
    """
    kind = type(value)
    if value is None or isinstance(value, (Tensor, bool, int, float, str, torch.SymInt)):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*map(plain_outputs, value))
    if isinstance(value, tuple | list):
        return (list if isinstance(value, list) else tuple)(map(plain_outputs, value))
    if isinstance(value, Mapping):
        pairs = [(key, plain_outputs(one)) for key, one in value.items()]
        if all(_is_key(key) for key, _ in pairs):
            return OrderedDict(pairs) if kind is OrderedDict else dict(pairs)
    if dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value) if not one.name.startswith("_")]
        made = cast("Any", namedtuple)(kind.__name__, names)
        return made(*(plain_outputs(getattr(value, name)) for name in names))
    keys = " with other keys than strings, numbers and tuples" if isinstance(value, Mapping) else ""
    raise CaptureError(
        f"The model returns a {kind.__name__}{keys}, expected tensors in tuples, lists and dictionaries; return those."
    )


def computed_outputs(program: ExportedProgram) -> dict[str, fx.Node]:
    """Return the nodes of what a program returns and computes, by name; constants such as `None` are left out."""
    nodes: Any = program.graph.output_node().args[0]
    flat = [
        spec.arg.value if isinstance(spec.arg, ConstantArgument) else node
        for spec, node in zip(program.graph_signature.output_specs, nodes, strict=True)
    ]
    returned = program.call_spec.out_spec.unflatten(flat)
    return {
        name: leaf for name, leaf in named_leaves(returned).items() if isinstance(leaf, fx.Node)
    }


def _is_key(key: object) -> bool:
    return all(map(_is_key, key)) if isinstance(key, tuple) else isinstance(key, str | int)


def _name(path: Iterable[Any]) -> str:
    keys = list(path)
    words = [] if keys and not isinstance(keys[0], _pytree.SequenceKey) else ["output"]
    for key in keys:
        if isinstance(key, _pytree.SequenceKey):
            words.append(str(key.idx))
        elif isinstance(key, _pytree.MappingKey):
            parts = key.key if isinstance(key.key, tuple) else (key.key,)
            words += map(str, parts)
        else:
            words.append(str(getattr(key, "name", key)))
    return "_".join(words)
