"""Outputs of any shape: what a network returns, in nested tuples, lists and dictionaries, as leaves with names.

torch.export flattens with torch's pytree, which has no public name; this module is the only one that imports it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree

__all__ = ["Structure", "flatten", "map_only", "named_leaves", "named_tensors", "structure_of"]

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
