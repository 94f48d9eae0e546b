"""Sensitivity: the harm that each unit alone does to the network's answer at each width, and what each width costs."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from mrecg.config.settings import Bits
from mrecg.records.json_model import JsonModel

__all__ = ["LayerCost", "QuantizedKind", "Sensitivity", "UnitHarms", "WholeHarm", "WidthHarm"]

QuantizedKind = Literal["weight", "activation"]
_Count = Annotated[int, Field(ge=0)]


class WidthHarm(JsonModel):
    """One unit at one width, everything else in float.

    Attributes:
        bits: the width.
        harm: distance of the network's answer from the float network's, as `Sensitivity.distance` says.
        score: a metric of the answers on labeled images; `None` where none was asked for.
    """

    bits: Bits
    harm: Annotated[float, Field(ge=0)]
    score: float | None = None


class UnitHarms(JsonModel):
    """The weights of one unit, or the activations that it reads, at several widths.

    Attributes:
        name: of the unit.
        kind: what is quantized.
        layers: those that have one width for it; layers whose width the recipe prescribes are left out.
        harms: at each width, in ascending order.
    """

    name: str
    kind: QuantizedKind
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    harms: Annotated[tuple[WidthHarm, ...], Field(min_length=1)]

    def harm_at(self, bits: int) -> float:
        """Return the harm at a width that was measured."""
        return next(one.harm for one in self.harms if one.bits == bits)


class WholeHarm(JsonModel):
    """All units at one width together: how well the sum of their harms predicts it.

    Attributes:
        kind, bits: what is quantized, at which width.
        added: the sum of the units' harms.
        measured: the harm of all of them at once.
    """

    kind: QuantizedKind
    bits: Bits
    added: float
    measured: float


class LayerCost(JsonModel):
    """One layer, as a budget counts it.

    Attributes:
        name: of the layer.
        parameters: elements of the weight.
        bytes_besides: of its scales, which have 32 bits at any width.
        zero_points: of its channels, which have the width of the weight; 0 where the weight is in float.
        products: multiplications for one image.
        weight_bits, activation_bits: of the weight, and of what the layer reads, in the recipe; 32 is float.
        weight_unit, activation_unit: names of the units that decide these instead; `None` where the recipe does.
    """

    name: str
    parameters: _Count
    bytes_besides: _Count
    zero_points: _Count
    products: _Count
    weight_bits: Bits
    activation_bits: Bits
    weight_unit: str | None
    activation_unit: str | None


class Sensitivity(JsonModel):
    """Which units need bits.

    Attributes:
        distance: of answers: `divergence` (Kullback-Leibler, of classes), `relative error`, or `sum` of both over several outputs.
        metric: name of the score, where there is one.
        float_score: of the float network.
        granularity: what a unit is.
        after: optimizer steps that a unit was given before it was measured; 0 is rounding to nearest.
        images: how many were measured on.
        units: all that have a choice, in order: weights first.
        wholes: the check of the sum, for each width.
        layers: what each costs.
        other_bytes: of what is in no layer's weight, such as biases.
        seconds: wall time.
    """

    distance: Literal["divergence", "relative error", "sum"]
    metric: str | None = None
    float_score: float | None = None
    granularity: Literal["layer", "block"]
    after: _Count
    images: _Count
    units: Annotated[tuple[UnitHarms, ...], Field(min_length=1)]
    wholes: tuple[WholeHarm, ...]
    layers: tuple[LayerCost, ...]
    other_bytes: _Count
    seconds: float

    def of_kind(self, kind: QuantizedKind) -> tuple[UnitHarms, ...]:
        """Return the weights of all units, or their activations."""
        return tuple(unit for unit in self.units if unit.kind == kind)

    def widths(self, kind: QuantizedKind) -> tuple[int, ...]:
        """Return the widths that were measured, in ascending order."""
        units: Sequence[UnitHarms] = self.of_kind(kind)
        return tuple(sorted({one.bits for unit in units for one in unit.harms}))
