"""The whole method, from top to bottom."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from mrecg.calibration import CalibrationImages, check_weights, gather_images
from mrecg.graph.capture import export_frozen
from mrecg.graph.placement import Quantizer
from mrecg.graph.units import Unit
from mrecg.recipe import Recipe
from mrecg.reconstruction.assembly import Assembly, assemble
from mrecg.reconstruction.granularity import check_plan, make_plan
from mrecg.reconstruction.groups import Progress, Report, reconstruct
from mrecg.record import Oscillation, Plan, Record
from mrecg.runs import QuantizedModel, environment

__all__ = ["Progress", "make_model_plan", "outline", "quantize"]


def quantize(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any],
    *,
    recipe: Recipe,
    plan: Plan | None = None,
    quantizer: Quantizer | None = None,
    progress: Report | None = None,
) -> QuantizedModel:
    """Quantize `model` after training.

    Args:
        model: takes one image tensor; it is not changed.
        calibration: what `mrecg.data.calibration_images` read, images as a tensor, or an iterable of image
            tensors, batches or (images, labels).
        recipe: from `mrecg.preset` or `mrecg.read_recipe`.
        plan: replaces the recipe's plan.
        quantizer: any PT2E quantizer, in place of the recipe's placement.
        progress: called with what is going on.

    Returns:
        The quantized model with its record.

    Raises:
        MrecgError: what the caller gave cannot be used; the message says why in a sentence.
    """
    clock = _Clock()
    report = progress or (lambda event: None)
    images = gather_images(calibration, recipe.reconstruct)
    check_weights(model)
    assembly = assemble(model, images, recipe, quantizer)
    clock.lap("capture")
    if plan is None:
        plan = _plan(assembly, images, recipe, report)
    plan = check_plan(plan, assembly.chain.units)
    clock.lap("plan")
    units, groups = reconstruct(assembly, images, recipe, plan, "tune", report)
    clock.lap("reconstruction")
    quantizers = assembly.describe()
    finished = assembly.frozen()
    program = export_frozen(finished, images[:2].to(assembly.device))
    clock.lap("freeze")
    record = Record(
        units=units,
        groups=groups,
        plan=plan,
        quantizers=quantizers,
        oscillation=Oscillation.along(
            [unit.name for unit in units], [unit.relative_loss for unit in units]
        ),
        left_in_float=assembly.left_in_float,
        images=len(images),
        skipped_images=calibration.skipped if isinstance(calibration, CalibrationImages) else (),
        input_shape=tuple(images.shape[1:]),
        seconds=clock.laps,
        environment=environment(assembly.device),
    )
    return QuantizedModel(program, record, recipe)


def make_model_plan(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any],
    *,
    recipe: Recipe,
    progress: Report | None = None,
) -> Plan:
    """The plan that `quantize` would follow; only the rule `loss` looks at more than the shape of two images.

    Raises:
        MrecgError: as `quantize`.
    """
    tuning = recipe.reconstruct
    if recipe.plan.join != "loss":
        tuning = tuning.model_copy(update={"steps": 0})
    images = gather_images(calibration, tuning)
    check_weights(model)
    assembly = assemble(model, images, recipe, None)
    return _plan(assembly, images, recipe, progress or (lambda event: None))


def outline(model: nn.Module, images: Tensor, recipe: Recipe) -> tuple[Unit, ...]:
    """The units that `quantize` would cut a model into, without calibrating anything.

    Args:
        model: is not changed.
        images: at least two, of the right shape; their values do not matter.
        recipe: decides placement and granularity.

    Raises:
        MrecgError: the model cannot be captured.
    """
    return tuple(assemble(model, images, recipe, None).chain.units)


def _plan(assembly: Assembly, images: Tensor, recipe: Recipe, report: Report) -> Plan:
    """The recipe's plan; the metric `loss` takes a shorter run without joining first."""
    rule, units = recipe.plan, assembly.chain.units
    losses: Sequence[float] = ()
    if rule.join == "loss":
        steps = round(recipe.reconstruct.steps * rule.loss_steps)
        short = recipe.override({"reconstruct.steps": steps})
        single = Plan(groups=tuple((unit.name,) for unit in units))
        records, _ = reconstruct(assembly, images, short, single, "plan", report)
        losses = [unit.loss for unit in records]
    return make_plan(units, rule, losses)


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.laps[phase] = now - self._last
        self._last = now
