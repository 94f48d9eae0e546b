"""Budgets: bits for a weight, bytes of a model, or bit operations for an image."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mrecg.config.settings import FLOAT_BITS
from mrecg.errors import RecipeError, expect, quoted
from mrecg.records.bit_choice import Cost
from mrecg.records.sensitivity import LayerCost, QuantizedKind

__all__ = [
    "WidthBudget",
    "Widths",
    "cost_of",
    "layer_bytes",
    "layer_width",
    "read_budget",
    "require_room",
]

Widths = dict[tuple[QuantizedKind, str], int]
"""The width of each unit, by kind and name."""

_EXAMPLES = "such as 4.0bits, 1.2MB or 0.5GBOPs"


@dataclass(frozen=True)
class WidthBudget:
    """A limit.

    Attributes:
        text: as it was asked for.
        unit: of what.
        amount: at most.
    """

    text: str
    unit: Literal["bits", "bytes", "bops"]
    amount: float

    def of(self, cost: Cost) -> float:
        """Return what a choice takes of it."""
        return float(getattr(cost, self.unit))


def read_budget(text: str) -> WidthBudget:
    """Return the budget in a text such as `4.0bits`, `1.2MB`, `900KiB` or `0.5GBOPs`; case does not matter.

    Raises:
        RecipeError: it cannot be read.
    """
    expect(text, str, "The budget", f"give a text {_EXAMPLES}", RecipeError)
    found = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,15})?)\s*(?:(bits?)|([kmgt]?)(i?)(b|bytes)|([kmgt]?)(bops))",
        text.strip(),
        re.IGNORECASE,
    )
    if found is None:
        raise RecipeError(f"The budget {quoted(text)} cannot be read, expected one {_EXAMPLES}.")
    number, bits, prefix, binary, _, bops_prefix, bops = found.groups()
    if bits:
        return WidthBudget(text, "bits", float(number))
    power = " KMGT".index((bops_prefix if bops else prefix).upper() or " ")
    factor = float((1024 if binary else 1000) ** power)
    return WidthBudget(text, "bops" if bops else "bytes", float(number) * factor)


def layer_bytes(layer: LayerCost, bits: int) -> int:
    """Return the bytes of a layer's weight at a width: codes and zero points in their bits, scales in 32."""
    if bits == FLOAT_BITS:
        return 4 * layer.parameters
    return -(-layer.parameters * bits // 8) - (-layer.zero_points * bits // 8) + layer.bytes_besides


def layer_width(layer: LayerCost, kind: QuantizedKind, widths: Widths) -> int:
    """Return the width of a layer's weight or of what it reads, under a choice."""
    unit = layer.weight_unit if kind == "weight" else layer.activation_unit
    prescribed = layer.weight_bits if kind == "weight" else layer.activation_bits
    return prescribed if unit is None else widths.get((kind, unit), prescribed)


def cost_of(layers: Iterable[LayerCost], other_bytes: int, widths: Widths) -> Cost:
    """Return the cost of a choice.

    Args:
        layers: of the network.
        other_bytes: of what is in no layer's weight.
        widths: that are chosen; a unit that is not named keeps the recipe's width.
    """
    bits = parameters = size = bops = 0
    for layer in layers:
        width = layer_width(layer, "weight", widths)
        size += layer_bytes(layer, width)
        bops += layer.products * width * layer_width(layer, "activation", widths)
        if layer.weight_unit is not None:
            bits, parameters = bits + layer.parameters * width, parameters + layer.parameters
    return Cost(bits=bits / max(1, parameters), bytes=size + other_bytes, bops=bops)


def require_room(limit: WidthBudget, smallest: Cost) -> None:
    """Refuse a budget that no choice of widths keeps.

    Args:
        limit: the budget.
        smallest: the cost with the smallest width everywhere.

    Raises:
        RecipeError: with what the network takes at least.
    """
    amount = limit.of(smallest)
    if amount > limit.amount:
        written = f"{amount:.4g}bits"
        if limit.unit != "bits":
            written = f"{amount / 1e6:.6g}M{'B' if limit.unit == 'bytes' else 'BOPs'}"
        raise RecipeError(
            f"The budget {limit.text} cannot be kept: with the smallest of the measured widths everywhere the network takes {written}; "
            "give as much, or measure smaller widths."
        )
