"""Which units are reconstructed jointly, and the values that decided it."""

from typing import Literal

from mrecg.records.json_model import JsonModel

__all__ = ["Layer", "NeighborPair", "Plan"]


class Layer(JsonModel):
    """One quantized layer.

    Attributes:
        name: of the module that owns the weight.
        kind: the ATen operator.
        parameters: elements of the weight.
        bits: width of the weight; 32 is float.
        stride: of a convolution; 1 for a linear layer.
        groups: of a convolution: `dense`, `grouped` or `depthwise`.
    """

    name: str
    kind: str
    parameters: int
    bits: int
    stride: int
    groups: Literal["dense", "grouped", "depthwise"]


class NeighborPair(JsonModel):
    """Two units that follow each other, as the plan saw them.

    Attributes:
        first, second: their names.
        difference: their CapDiff under the plan's rule; `None` where the rule has none.
        homogeneous: whether they have as many layers, of equal stride and groups (MRECG, section 3: topological homogeneity).
        joined: whether they are in one group.
    """

    first: str
    second: str
    difference: float | None
    homogeneous: bool
    joined: bool


class Plan(JsonModel):
    """Which units are reconstructed jointly, and what the rule saw. Edit `groups` and pass it back as you like.

    Attributes:
        groups: unit names; together all units of the model in their order.
        rule: how it came about, in words.
        metric: the value of every unit under the rule, in chain order; empty where the rule has none.
        neighbors: every pair of units that follow each other.
    """

    groups: tuple[tuple[str, ...], ...]
    rule: str = "explicit"
    metric: tuple[float, ...] = ()
    neighbors: tuple[NeighborPair, ...] = ()

    @property
    def joined(self) -> tuple[tuple[str, ...], ...]:
        """Return the groups of more than one unit."""
        return tuple(group for group in self.groups if len(group) > 1)

    def __str__(self) -> str:
        joined = ", ".join("(" + " ".join(group) + ")" for group in self.joined) or "none"
        return f"{sum(map(len, self.groups))} units, joined: {joined} [{self.rule}]"
