"""A choice of widths within a budget, as a value and as overrides of a recipe that people can edit."""

import glob
from typing import Any

import yaml

from mrecg.config.settings import Bits, LayerOverride
from mrecg.records.json_model import JsonModel
from mrecg.records.sensitivity import QuantizedKind

__all__ = ["BitChoice", "Cost", "FrontPoint", "UnitWidth"]


class Cost(JsonModel):
    """The cost of a choice of widths.

    Attributes:
        bits: mean width of the weights that have a choice.
        bytes: of all parameters, as `Record.size` counts them.
        bops: bit operations for one image: products × width of the weight × width of what it is multiplied by.
    """

    bits: float
    bytes: int
    bops: int


class UnitWidth(JsonModel):
    """The width of the weights of one unit, or of what it reads."""

    name: str
    kind: QuantizedKind
    layers: tuple[str, ...]
    bits: Bits


class FrontPoint(JsonModel):
    """The least harm at one cost.

    Attributes:
        cost: of the choice.
        harm: the sum of the units' harms.
        uniform: the width, where all units have the same one; `None` for a mixed choice.
    """

    cost: Cost
    harm: float
    uniform: int | None = None


class BitChoice(JsonModel):
    """The widths with the least harm within a budget.

    Attributes:
        budget: as it was asked for.
        after: steps of the reconstruction behind the harms; 0 is rounding to nearest.
        widths: of each unit.
        harm: the sum of the units' harms.
        cost: of the choice.
        front: the least harm at several budgets, from the smallest on, and each width alone.
    """

    budget: str
    after: int
    widths: tuple[UnitWidth, ...]
    harm: float
    cost: Cost
    front: tuple[FrontPoint, ...] = ()

    def overrides(self) -> tuple[LayerOverride, ...]:
        """Return the widths as `placement.overrides` takes them: one rule for each layer."""
        found: dict[str, dict[str, Any]] = {}
        for unit in self.widths:
            for layer in unit.layers:
                found.setdefault(layer, {})[f"{unit.kind}_bits"] = unit.bits
        # A rule for a module is one for all that is in it, so what is inside comes later.
        names = sorted(found, key=lambda name: name.count("."))
        return tuple(LayerOverride(layers=glob.escape(name), **found[name]) for name in names)

    def to_yaml(self) -> str:
        """Return the widths as a YAML file that `mrecg quantize --widths` takes and people can edit."""
        head = (
            f"# Widths for {self.budget}: {self.cost.bits:.2f} bits for a weight, {self.cost.bytes:,} bytes, "
            f"{self.cost.bops / 1e9:.4g} GBOPs for an image.\n"
            "# The rules of placement.overrides: a later one wins, and patterns such as layer4.* stand for several layers.\n"
        )
        rules = [one.model_dump(mode="json", exclude_none=True) for one in self.overrides()]
        return head + yaml.safe_dump({"overrides": rules}, sort_keys=False, allow_unicode=False)
