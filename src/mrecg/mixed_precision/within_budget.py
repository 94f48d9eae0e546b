"""From a budget to widths: measure what has a choice, and choose."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError
from mrecg.graph.captures import forget_captures
from mrecg.graph.inputs import ModelInputs
from mrecg.mixed_precision.budgets import cost_of, read_budget, require_room
from mrecg.mixed_precision.integer_program import choose_bits, require_solver
from mrecg.mixed_precision.layout import NetworkLayout, allowed_widths, read_layout
from mrecg.mixed_precision.measurement import sensitivity
from mrecg.optimize.progress import Report
from mrecg.preparation.calibration import CalibrationImages, gather_inputs
from mrecg.records.bit_choice import BitChoice
from mrecg.records.sensitivity import QuantizedKind, Sensitivity
from mrecg.torch_state import default_torch_modes

__all__ = ["choose_within", "open_widths", "widths_within"]

_NARROWEST = 3
"""So many of the narrowest widths are measured, and the widest: there harms differ most."""


def choose_within(
    model: nn.Module,
    images: CalibrationImages | Tensor | Iterable[Any] | Mapping[str, Tensor],
    recipe: Recipe,
    budget: str,
    *,
    after: int | None,
    progress: Report,
    memory: int | str | None,
) -> tuple[Sensitivity, BitChoice]:
    """Measure what a budget chooses among, and choose the widths with the least added harm.

    Args:
        model, images, recipe, after, progress, memory: as in `mrecg.sensitivity`.
        budget: as in `mrecg.choose_bits`.

    Raises:
        MrecgError: an argument cannot be used, no width is open, or no choice keeps the budget.
    """
    require_solver()
    widths = widths_within(model, gather_inputs(images), recipe, budget)
    found = sensitivity(
        model,
        images,
        recipe,
        weight_bits=widths.get("weight", ()),
        activation_bits=widths.get("activation", ()),
        after=after,
        progress=progress,
        memory=memory,
    )
    return found, choose_bits(found, budget)


def widths_within(
    model: nn.Module, images: ModelInputs, recipe: Recipe, budget: str
) -> dict[QuantizedKind, tuple[int, ...]]:
    """Return the widths that a budget chooses among: of activations only where it limits bit operations, as they change no size.

    Raises:
        RecipeError: the budget cannot be read, no layer has a choice, or the smallest widths take more.
    """
    limit = read_budget(budget)
    kinds: tuple[QuantizedKind, ...] = ("weight", "activation")
    if limit.unit != "bops":
        kinds = ("weight",)
    layout, found = _open(model, images, recipe, dict.fromkeys(kinds, 0))
    if not found:
        raise RecipeError(
            f"The budget {budget} has no {' or '.join(kinds)} width to choose: the recipe or its target prescribes that of every "
            "layer, or leaves it in float."
        )
    smallest = {(kind, name): found[kind][0] for kind in found for name in layout.free(kind)}
    costs = layout.costs({unit: unit[1] for unit in smallest})
    require_room(limit, cost_of(costs, layout.other_bytes, smallest))
    return found


def open_widths(
    model: nn.Module, images: ModelInputs, recipe: Recipe, least: Mapping[QuantizedKind, int]
) -> dict[QuantizedKind, tuple[int, ...]]:
    """Return the widths that are worth measuring of each kind; a kind that no layer has a choice of is left out.

    Args:
        model: the float network.
        images: to trace with.
        recipe: its target says which widths there are, its placement which layers have a choice.
        least: the narrowest width of interest, for each kind of interest.
    """
    _, found = _open(model, images, recipe, least)
    return found


@default_torch_modes()
@forget_captures()
def _open(
    model: nn.Module, images: ModelInputs, recipe: Recipe, least: Mapping[QuantizedKind, int]
) -> tuple[NetworkLayout, dict[QuantizedKind, tuple[int, ...]]]:
    """Return the layout of the network, and its open widths."""
    allowed = {kind: allowed_widths(recipe, kind) for kind in least}
    kinds = [
        kind
        for kind in least
        if len(allowed[kind]) > 1 and (kind == "weight" or recipe.placement.tensors == "layers")
    ]
    layout = read_layout(model, images, recipe, kinds)
    wide = {kind: [bits for bits in allowed[kind] if bits >= least[kind]] for kind in kinds}
    return layout, {
        kind: tuple(sorted({*bits[:_NARROWEST], bits[-1]}))
        for kind, bits in wide.items()
        if bits and layout.free(kind)
    }
