"""The recipes that are tried for a target of accuracy, from the cheapest on."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from mrecg.config.presets import METHODS
from mrecg.config.recipe import Recipe
from mrecg.config.settings import FLOAT_BITS, LayerOverride
from mrecg.config.width_rules import with_width_rules
from mrecg.graph.inputs import as_given
from mrecg.mixed_precision.budgets import cost_of
from mrecg.mixed_precision.integer_program import choose_bits
from mrecg.mixed_precision.measurement import PART_OF_STEPS, sensitivity
from mrecg.mixed_precision.within_budget import choose_within, open_widths
from mrecg.optimize.progress import Report
from mrecg.preparation.calibration import CalibrationImages, gather_inputs
from mrecg.records.bit_choice import BitChoice
from mrecg.records.sensitivity import QuantizedKind, Sensitivity

__all__ = ["Calibration", "Ladder", "LadderStep"]

Calibration = CalibrationImages | Tensor | dict[str, Tensor]
"""Images, or several inputs by name."""
MORE = (1.25, 1.5, 2.0)
"""More bits: the budget as a multiple of what the recipe's own widths take."""
IN_FLOAT = (0.5, 0.9)
"""Float: the fewest layers that do this part of the harm."""
_MEASURED = 64
"""Images that sensitivity is measured on, unless a batch has more."""


class LadderStep(NamedTuple):
    """One recipe to try, and what it was chosen by."""

    name: str
    recipe: Recipe
    sensitivity: Sensitivity | None = None
    bits: BitChoice | None = None


@dataclass(frozen=True)
class Ladder:
    """The recipes to try, from the cheapest on; sensitivity is measured once it is needed."""

    model: nn.Module
    images: Calibration
    recipe: Recipe
    budget: str | None
    after: int | None
    report: Report
    memory: int | str | None

    def steps(self) -> Iterator[LadderStep]:
        """Yield the recipes."""
        if self.budget is not None:
            found, chosen = choose_within(
                self.model,
                self._measured(),
                self.recipe,
                self.budget,
                after=self.after,
                progress=self.report,
                memory=self.memory,
            )
            mixed = with_width_rules(self.recipe, chosen.overrides())
            for step in _by_steps(mixed):
                name = f"{step.name}, widths within {self.budget}"
                yield step._replace(name=name, sensitivity=found, bits=chosen)
            return
        yield from _by_steps(self.recipe)
        yield from self._wider()

    def _wider(self) -> Iterator[LadderStep]:
        """Yield mixed widths that take more, and then the widest of them with layers in float."""
        images = self._measured()
        least: dict[QuantizedKind, int] = {
            "weight": self.recipe.weight.bits,
            "activation": self.recipe.activation.bits,
        }
        widths = open_widths(self.model, gather_inputs(images), self.recipe, least)
        if not widths:
            return
        found = sensitivity(
            self.model,
            images,
            self.recipe,
            weight_bits=widths.get("weight", ()),
            activation_bits=widths.get("activation", ()),
            after=self.after,
            progress=self.report,
            memory=self.memory,
        )
        activations = bool(found.of_kind("activation"))
        own = cost_of(found.layers, found.other_bytes, {})
        chosen, seen = None, {own}
        for factor in MORE:
            amount = (own.bops if activations else own.bits) * factor
            budget = f"{amount / 1e6:.6f}MBOPs" if activations else f"{amount:.6f}bits"
            chosen = choose_bits(found, budget)
            if chosen.cost in seen:
                continue
            seen.add(chosen.cost)
            recipe = with_width_rules(self.recipe, chosen.overrides())
            name = f"{factor:g} times the {'bit operations' if activations else 'bits'}"
            yield LadderStep(name, recipe, found, chosen)
        assert chosen is not None
        for part in IN_FLOAT:
            layers = _most_harmful(found, chosen, part)
            rules = [
                LayerOverride(
                    layers=glob.escape(name), weight_bits=FLOAT_BITS, activation_bits=FLOAT_BITS
                )
                for name in layers
            ]
            recipe = with_width_rules(self.recipe, (*chosen.overrides(), *rules))
            name = f"{MORE[-1]:g} times, {len(layers)} of {len(found.layers)} layers in float"
            yield LadderStep(name, recipe, found, chosen)

    def _measured(self) -> Tensor | dict[str, Tensor]:
        """Return the images that sensitivity is measured on: a batch at least, which a reconstruction takes."""
        count = max(_MEASURED, self.recipe.reconstruct.images_per_step)
        return as_given(gather_inputs(self.images)[:count])


def _by_steps(recipe: Recipe) -> Iterator[LadderStep]:
    """Yield a recipe rounded to nearest, in closed form, with few steps, and with its own; what it does itself is the last."""
    steps = recipe.reconstruct.step_count
    nearest = recipe.override(
        {
            "reconstruct.rounding": "learned",
            "reconstruct.steps": 0,
            "network.steps": 0,
            "plan.join": "none",
            "plan.scheme": [],
            "plan.groups": [],
        }
    )
    yield LadderStep("rounding to nearest", nearest)
    if recipe.reconstruct.reads_images:
        closed = nearest.override(METHODS["qronos"])
        yield LadderStep("rounding in closed form", closed)
    if steps >= 2 * PART_OF_STEPS:
        yield LadderStep(
            f"{steps // PART_OF_STEPS} steps",
            recipe.override({"reconstruct.steps": steps // PART_OF_STEPS}),
        )
    if steps:
        yield LadderStep(f"{steps} steps", recipe)


def _most_harmful(found: Sensitivity, chosen: BitChoice, part: float) -> list[str]:
    """Return the fewest layers of units that do a part of the harm that is left at the chosen widths."""
    widths = {(one.kind, one.name): one.bits for one in chosen.widths}
    harms = {
        unit.layers: unit.harm_at(widths[unit.kind, unit.name])
        for unit in sorted(
            found.units, key=lambda one: one.harm_at(widths[one.kind, one.name]), reverse=True
        )
    }
    layers: list[str] = []
    done, wanted = 0.0, part * sum(harms.values())
    for names, harm in harms.items():
        if done >= wanted:
            break
        layers += [name for name in names if name not in layers]
        done += harm
    return layers
