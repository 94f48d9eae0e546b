"""Which units need bits, in one call."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg.config.presets import DEFAULT_PRESET
from mrecg.config.recipe import Recipe
from mrecg.errors import DataError, RecipeError, expect
from mrecg.freed_memory import freed_memory_kept
from mrecg.graph.captures import forget_captures
from mrecg.graph.inputs import ModelInputs
from mrecg.metrics import Meter, Metric, metric_name
from mrecg.mixed_precision.harms import HarmMeter, Scored, distance_name
from mrecg.mixed_precision.layout import (
    WIDEST,
    NetworkLayout,
    allowed_widths,
    only_these,
    read_layout,
)
from mrecg.monitoring import watched
from mrecg.optimize.progress import Progress, Report, phase
from mrecg.planning.budget import fit_budget, positions_of
from mrecg.preparation.arguments import check_arguments, resolve_memory, resolve_recipe
from mrecg.preparation.calibration import CalibrationImages, check_image_count, gather_inputs
from mrecg.preparation.prepared_graph import PreparedGraph, prepare_graph
from mrecg.records.sensitivity import QuantizedKind, Sensitivity, UnitHarms, WholeHarm
from mrecg.torch_state import default_torch_modes

__all__ = ["PART_OF_STEPS", "USUAL_WIDTHS", "sensitivity"]

USUAL_WIDTHS = (2, 3, 4, 8)
"""Widths that are measured where the caller names none."""
PART_OF_STEPS = 10
"""Few steps are the recipe's divided by it; after 50 of 500, widths are better chosen than to nearest (docs/bits.md)."""


@default_torch_modes()
@forget_captures()
@freed_memory_kept()
def sensitivity(
    model: nn.Module,
    images: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    recipe: Recipe | str = DEFAULT_PRESET,
    *,
    weight_bits: Sequence[int] = USUAL_WIDTHS,
    activation_bits: Sequence[int] = (),
    granularity: Literal["layer", "block"] = "layer",
    after: int | None = 0,
    labels: Tensor | None = None,
    metric: Metric | None = None,
    progress: Report | bool | None = None,
    memory: int | str | None = None,
) -> Sensitivity:
    """Measure the harm that each unit alone does to the network's answer at each width, everything else in float.

    The time is that of units × widths times half a forward pass. 64 images are enough to rank units.

    Args:
        model: is not changed.
        images: as in `mrecg.quantize`; ranges are found on them, and answers compared.
        recipe: placement and ranges, and how a unit is reconstructed.
        weight_bits, activation_bits: widths to measure; what is wider than the recipe's target can hold becomes narrower.
        granularity: whether single layers or blocks have one width each.
        after: steps of a reconstruction of the unit alone before it is measured; 0 is rounding to nearest, `None` a tenth of the
            recipe's steps.
        labels: of the images, in order; with them a metric is measured, too.
        metric: of outputs and labels, as in `mrecg.evaluate`; by default the percent of right classes.
        progress, memory: as in `mrecg.quantize`.

    Raises:
        MrecgError: an argument cannot be used, or there is no width to choose; the message says why in a sentence.
    """
    started = time.perf_counter()
    chosen_recipe, budget = resolve_recipe(recipe), resolve_memory(memory)
    check_arguments(model, images, None)
    gathered = gather_inputs(images)
    recipe = fit_budget(chosen_recipe, positions_of(gathered))
    if after is None:
        after = recipe.reconstruct.step_count // PART_OF_STEPS
    if after:
        check_image_count(len(gathered), recipe.reconstruct)
    scored = None if labels is None else _scored(labels, metric, len(gathered))
    recipe = recipe.override({"plan.granularity": granularity})
    widths = _widths(recipe, {"weight": weight_bits, "activation": activation_bits})
    with watched(progress) as report:
        with phase(report, "capture"):
            layout = read_layout(model, gathered, recipe, tuple(widths))
            meters = {
                kind: HarmMeter(
                    _prepared(model, gathered, recipe, kind, layout),
                    kind,
                    gathered,
                    recipe,
                    chosen,
                    after,
                    budget,
                    scored,
                )
                for kind, chosen in widths.items()
            }
        units: list[UnitHarms] = []
        wholes: list[WholeHarm] = []
        for kind, meter in meters.items():
            found, checked = meter.measure(_Advance(report, kind, meter.prepared))
            units, wholes = units + found, wholes + checked
    first = next(iter(meters.values()))
    return Sensitivity(
        distance=cast(Any, distance_name(first.answers.distance)),
        metric=None if scored is None else metric_name(metric),
        float_score=first.float_score(),
        granularity=granularity,
        after=after,
        images=len(gathered),
        units=tuple(units),
        wholes=tuple(wholes),
        layers=layout.costs({(one.kind, name): one.name for one in units for name in one.layers}),
        other_bytes=layout.other_bytes,
        seconds=time.perf_counter() - started,
    )


class _Advance:
    """Reports each unit that is done."""

    def __init__(self, report: Report, kind: QuantizedKind, prepared: PreparedGraph) -> None:
        self._report, self._phase = report, f"{kind}s"
        self._place = {unit.name: index for index, unit in enumerate(prepared.chain.units)}

    def __call__(self, name: str) -> None:
        self._report(
            Progress(self._phase, (name,), self._place[name], len(self._place), finished=True)
        )


def _widths(
    recipe: Recipe, asked: dict[QuantizedKind, Sequence[int]]
) -> dict[QuantizedKind, tuple[int, ...]]:
    """Return the widths to measure of each kind that has some."""
    found: dict[QuantizedKind, tuple[int, ...]] = {}
    for kind, given in asked.items():
        allowed = allowed_widths(recipe, kind)
        widest = allowed[-1]
        kept = tuple(sorted({min(bits, widest) for bits in given if allowed[0] <= bits <= WIDEST}))
        if given and not kept:
            raise RecipeError(
                f"The {kind} widths {', '.join(map(str, given))} do not fit the recipe, expected some of {allowed[0]} to "
                f"{allowed[-1]} bits."
            )
        if kept:
            found[kind] = kept
    if "activation" in found and recipe.placement.tensors != "layers":
        raise RecipeError(
            f"The recipe quantizes what operators read, too (placement.tensors = {recipe.placement.tensors}), so layers have no "
            "activation widths of their own; leave activation_bits out."
        )
    if not found:
        raise RecipeError("No width is to be measured; give some weight_bits or activation_bits.")
    return found


def _prepared(
    model: nn.Module,
    images: ModelInputs,
    recipe: Recipe,
    kind: QuantizedKind,
    layout: NetworkLayout,
) -> PreparedGraph:
    free = layout.free(kind)
    if not free:
        raise RecipeError(
            f"The recipe prescribes the {kind} width of every layer, or leaves it in float, so there is none to choose."
        )
    bits = allowed_widths(recipe, kind)[0]
    return prepare_graph(model, images, only_these(recipe, kind, free, bits), None)


def _scored(labels: Tensor, metric: Metric | None, images: int) -> Scored:
    expect(labels, Tensor, "The labels", "give a tensor with one for each image", DataError)
    if len(labels) != images:
        raise DataError(
            f"There are {len(labels)} labels for {images} images, expected one for each."
        )

    def score(outputs: Tensor) -> float:
        meter = Meter.of(_percent_right if metric is None else metric)
        meter.add(outputs.cpu(), labels, images, 0)
        found = meter.result(images)
        if not isinstance(found, float):
            raise DataError("The metric gives several numbers, expected one to rank units by.")
        return found

    return score


def _percent_right(outputs: Tensor, labels: Tensor) -> float:
    return 100 * float((outputs.argmax(1) == labels).to(torch.float32).mean())
