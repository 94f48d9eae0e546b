"""Which units are reconstructed jointly, and the values that decided it."""

import itertools
from collections.abc import Sequence
from typing import Literal

from mrecg.records.json_model import JsonModel

__all__ = ["Join", "Layer", "NeighborPair", "Plan"]


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


class Join(JsonModel):
    """A group that was optimized both jointly and unit by unit, with equal steps.

    Attributes:
        units: their names.
        separate_loss, joint_loss: relative loss at the group's end on images that tuned nothing, after either.
        kept: the joint loss is the smaller one.
    """

    units: tuple[str, ...]
    separate_loss: float
    joint_loss: float
    kept: bool

    @property
    def gain(self) -> float:
        """Return the fraction of the loss that joining took away; negative where it added some."""
        if (
            self.separate_loss == self.joint_loss or not self.separate_loss > 0
        ):  # both infinite, too
            return 0.0
        return 1 - self.joint_loss / self.separate_loss


class Plan(JsonModel):
    """Which units are reconstructed jointly, and what the rule saw. Edit `groups` and pass it back as you like.

    Attributes:
        groups: unit names; together all units of the model in their order.
        rule: how it came about, in words.
        metric: the value of every unit under the rule, in chain order; empty where the rule has none.
        neighbors: every pair of units that follow each other.
        joins: those that a run tried, with what each gained; those that were not kept are no groups.
    """

    groups: tuple[tuple[str, ...], ...]
    rule: str = "explicit"
    metric: tuple[float, ...] = ()
    neighbors: tuple[NeighborPair, ...] = ()
    joins: tuple[Join, ...] = ()

    @property
    def joined(self) -> tuple[tuple[str, ...], ...]:
        """Return the groups of more than one unit."""
        return tuple(group for group in self.groups if len(group) > 1)

    def after(self, groups: Sequence[tuple[str, ...]], joins: Sequence[Join]) -> "Plan":
        """Return the plan as a run left it: with the groups that it kept, and the joins that it tried."""
        together = {pair for group in groups for pair in itertools.pairwise(group)}
        neighbors = tuple(
            pair.model_copy(update={"joined": (pair.first, pair.second) in together})
            for pair in self.neighbors
        )
        found = {"groups": tuple(groups), "neighbors": neighbors, "joins": tuple(joins)}
        return self.model_copy(update=found)

    def __str__(self) -> str:
        joined = ", ".join("(" + " ".join(group) + ")" for group in self.joined) or "none"
        return f"{sum(map(len, self.groups))} units, joined: {joined} [{self.rule}]"
