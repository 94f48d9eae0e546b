"""A layer as products of matrices: a row of its weight for each output channel, and what each of its results reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, fx
from torch.nn.functional import pad

from mrecg.graph.layers import TRANSPOSED_OPERATORS

__all__ = ["LayerMatrix", "weight_source"]


def weight_source(layer: fx.Node) -> fx.Node:
    """Return the node that a layer's weight comes from, in front of what only reorders it."""
    node = layer.args[1]
    while isinstance(node, fx.Node) and node.op == "call_function":
        node = node.args[0]
    assert isinstance(node, fx.Node)
    return node


@dataclass(frozen=True)
class LayerMatrix:
    """A convolution, transposed convolution or linear layer, as it multiplies.

    With the weight as g matrices of r rows and k columns, one for each group of a convolution, a layer's results are the products
    of these rows with `patches`.

    Attributes:
        layer: its node.
        window: the size of its kernel; none for a linear layer.
    """

    layer: fx.Node
    window: tuple[int, ...]

    @classmethod
    def of(cls, layer: fx.Node, weight: Tensor) -> "LayerMatrix":
        """Return a layer with a weight as it is stored."""
        return cls(layer, tuple(_reordered(layer.args[1], weight).shape[2:]))

    def places(self, weight: Tensor) -> Int64[Tensor, "g r k"]:
        """Return where in the flat stored weight each element of the matrices is."""
        stored = torch.arange(weight.numel(), device=weight.device).view(weight.shape)
        places = _reordered(self.layer.args[1], stored)
        if self._is_linear:
            return places[None]
        places = torch.unflatten(places, 0, (self._groups, -1))
        if self.layer.target in TRANSPOSED_OPERATORS:
            places = places.transpose(1, 2).flip(*range(3, places.ndim))
        # (groups, out / groups, in / groups, kernel …): a patch has its channels last
        return places.movedim(2, -1).flatten(2)

    def products(self, read: Float[Tensor, "n ..."], weight: Tensor) -> Float[Tensor, "g m r"]:
        """Return what a layer with a stored weight makes, without its bias."""
        assert callable(self.layer.target)
        given = _reordered(self.layer.args[1], weight)
        made: Tensor = self.layer.target(
            read, given, None, *self.layer.args[3:], **self.layer.kwargs
        )
        if self._is_linear:
            return made.reshape(1, -1, made.shape[-1])
        split = torch.unflatten(made.movedim(1, -1), -1, (self._groups, -1))
        return split.movedim(-2, 0).flatten(1, -2)

    def patches(self, read: Float[Tensor, "n ..."]) -> Float[Tensor, "g m k"]:
        """Return what each product reads; the images one after the other."""
        if self._is_linear:
            return read.reshape(1, -1, read.shape[-1])
        stride = self._each("stride")
        if self.layer.target in TRANSPOSED_OPERATORS:
            read, stride = _spread(read, stride), [1] * len(stride)
        read = pad(read, [side for pair in reversed(self._padding()) for side in pair])
        read = read.movedim(1, -1)
        axes = zip(self.window, stride, self._each("dilation"), strict=True)
        for axis, (size, step, apart) in enumerate(axes, start=1):
            read = read.unfold(axis, apart * (size - 1) + 1, step)[..., ::apart]
        # (n, positions …, channels, kernel …) → (groups, n · positions, kernel · channels of the group)
        channel = 1 + len(self.window)
        read = torch.unflatten(read, channel, (self._groups, -1)).movedim(channel, 0)
        read = read.movedim(channel + 1, -1)
        return read.reshape(len(read), -1, math.prod(self.window) * read.shape[-1])

    @property
    def _is_linear(self) -> bool:
        return self.layer.target is torch.ops.aten.linear.default

    @property
    def _groups(self) -> int:
        return int(self._settings["groups"])

    @cached_property
    def _settings(self) -> dict[str, Any]:
        assert isinstance(self.layer.target, torch._ops.OpOverload)
        schema = self.layer.target._schema
        found: dict[str, Any] = {one.name: one.default_value for one in schema.arguments}
        return found | dict(zip(found, self.layer.args, strict=False)) | dict(self.layer.kwargs)

    def _each(self, name: str) -> list[int]:
        """Return a setting for each axis of the window."""
        given = self._settings[name]
        several = list(given) if isinstance(given, list | tuple) else [given]
        return several * len(self.window) if len(several) == 1 else several

    def _padding(self) -> list[tuple[int, int]]:
        """Return the zeros in front of and behind each axis."""
        sizes = zip(self.window, self._each("dilation"), strict=True)
        reach = [apart * (size - 1) for size, apart in sizes]
        if self._settings["padding"] == "valid":
            return [(0, 0)] * len(reach)
        if self._settings["padding"] == "same":
            return [(one // 2, one - one // 2) for one in reach]
        given = self._each("padding")
        if self.layer.target not in TRANSPOSED_OPERATORS:
            return [(one, one) for one in given]
        sides = zip(reach, given, self._each("output_padding"), strict=True)
        return [(one - cut, one - cut + more) for one, cut, more in sides]


def _spread(read: Tensor, stride: Sequence[int]) -> Tensor:
    """Return values with zeros between them, over which a transposed convolution moves by single steps."""
    sizes = [step * (size - 1) + 1 for size, step in zip(read.shape[2:], stride, strict=True)]
    spread = read.new_zeros(*read.shape[:2], *sizes)
    inner = spread
    for axis, step in enumerate(stride, start=2):
        inner = inner.movedim(axis, 0)[::step].movedim(0, axis)
    inner.copy_(read)
    return spread


def _reordered(node: Any, weight: Tensor) -> Tensor:
    """Return a stored weight as the operator takes it."""
    if node.op != "call_function":
        return weight
    found: Tensor = node.target(_reordered(node.args[0], weight), *node.args[1:], **node.kwargs)
    return found
