"""The cheapest recipe that holds a target of accuracy: rounding to nearest, few steps, all steps, more bits, float."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg.config.presets import DEFAULT_PRESET
from mrecg.config.recipe import Recipe
from mrecg.config.settings import FLOAT_BITS
from mrecg.errors import DataError, RecipeError, expect
from mrecg.evaluation import Evaluation, evaluate
from mrecg.graph.inputs import as_given
from mrecg.metrics import Metric
from mrecg.mixed_precision.drops import DropMeter
from mrecg.mixed_precision.integer_program import require_solver
from mrecg.mixed_precision.ladder import Calibration, Ladder, LadderStep
from mrecg.monitoring import watched
from mrecg.optimize.progress import Report
from mrecg.planning.budget import fit_budget, positions_of
from mrecg.preparation.arguments import check_arguments, resolve_recipe
from mrecg.preparation.calibration import CalibrationImages, check_image_count, gather_inputs
from mrecg.quantization import quantize
from mrecg.records.accuracy_target import AccuracyTarget, Attempt
from mrecg.records.record import Record
from mrecg.runs.folder import QuantizedModel
from mrecg.torch_state import default_torch_modes

__all__ = ["quantize_to"]


@default_torch_modes()
def quantize_to(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    *,
    max_drop: float,
    validation: Iterable[tuple[Tensor, Any]] | None = None,
    metric: Metric | None = None,
    recipe: Recipe | str = DEFAULT_PRESET,
    budget: str | None = None,
    after: int | None = None,
    progress: Report | bool | None = None,
    memory: int | str | None = None,
    float_accuracy: Evaluation | None = None,
    attempt: Callable[..., QuantizedModel] = quantize,
) -> QuantizedModel:
    """Quantize with the cheapest recipe that holds a target of accuracy.

    Tried in the order of cost: rounding to nearest, rounding in closed form, a tenth of the recipe's steps, its steps, more bits where the network is
    sensitive, and float for the layers that still hurt. With a budget, widths within it take the place of the last two.

    Args:
        model, calibration, recipe, progress, memory: as in `mrecg.quantize`.
        max_drop: of the metric, in its unit; without labels the divergence from the float network.
        validation: batches of images and labels, which can be gone through several times, such as a DataLoader.
        metric: as in `mrecg.evaluate`, larger is better; by default the percent of right classes.
        budget: as in `mrecg.choose_bits`; no try takes more.
        after: as in `mrecg.sensitivity`, where widths are chosen; by default a tenth of the recipe's steps.
        float_accuracy: top-1 of the float network on `validation`, where it was measured before.
        attempt: quantizes with one recipe, in place of `mrecg.quantize`; one that keeps its results makes a search go on after
            an interruption.

    Returns:
        The first try that holds the target, else the nearest; `record.target` tells all tries, and `record.target.is_held` which.
        Where top-1 decides, `record.accuracy` holds it.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    chosen = resolve_recipe(recipe)
    check_arguments(model, calibration, None)
    expect(max_drop, (int, float), "The largest drop", "give a number such as 0.5", RecipeError)
    if not 0 <= max_drop < float("inf"):
        raise RecipeError(f"The largest drop is {max_drop}, expected a number of 0 or more.")
    require_solver()
    source: Calibration = (
        calibration
        if isinstance(calibration, CalibrationImages)
        else as_given(gather_inputs(calibration))
    )
    recipe = fit_budget(chosen, positions_of(gather_inputs(source)))
    meter = _meter(model, source, validation, metric, recipe, float_accuracy)
    attempts: list[Attempt] = []
    best: QuantizedModel | None = None
    with watched(progress) as report:
        ladder = Ladder(model, meter.tuned, recipe, budget, after, report, memory)
        for step in ladder.steps():
            started = time.perf_counter()
            found = attempt(model, meter.tuned, recipe=step.recipe, progress=report, memory=memory)
            drop, accuracy = meter.verdict(found)
            attempts.append(_attempt(step, found.record, drop, time.perf_counter() - started))
            kept = _least_drop(attempts)
            if kept == len(attempts) - 1:
                best = found.with_found(
                    sensitivity=step.sensitivity, bits=step.bits, accuracy=accuracy
                )
            if drop <= max_drop:
                break
    assert best is not None
    target = AccuracyTarget(
        metric=meter.name,
        max_drop=max_drop,
        float_score=meter.float_score,
        attempts=tuple(attempts),
        kept=kept,
    )
    return best.with_found(target=target)


def _meter(
    model: nn.Module,
    source: Calibration,
    validation: Iterable[tuple[Tensor, Any]] | None,
    metric: Metric | None,
    recipe: Recipe,
    float_accuracy: Evaluation | None,
) -> DropMeter:
    """Return what measures drops: by labels where there are some."""
    if float_accuracy is not None:
        advice = "give what mrecg.evaluate returned"
        expect(float_accuracy, Evaluation, "The float network's accuracy", advice, DataError)
        if validation is None or metric is not None:
            raise DataError(
                "The float network's accuracy is compared with by top-1 on labeled images only; leave float_accuracy out."
            )
    if validation is None:
        if metric is not None:
            raise DataError(
                "A metric needs labels; give batches of images and labels as validation."
            )
        return DropMeter.by_divergence(model, source, recipe)
    check_image_count(len(gather_inputs(source)), recipe.reconstruct)
    if metric is not None:
        return DropMeter.by_metric(model, source, validation, metric)
    return DropMeter.by_accuracy(source, validation, float_accuracy or evaluate(model, validation))


def _least_drop(attempts: Sequence[Attempt]) -> int:
    """Return the index of the first try with the smallest drop."""
    return min(range(len(attempts)), key=lambda index: attempts[index].drop)


def _attempt(step: LadderStep, record: Record, drop: float, seconds: float) -> Attempt:
    layers = [layer for unit in record.units for layer in unit.layers if layer.bits < FLOAT_BITS]
    parameters = sum(layer.parameters for layer in layers)
    assert record.size is not None
    return Attempt(
        name=step.name,
        steps=step.recipe.reconstruct.step_count,
        bits=sum(layer.parameters * layer.bits for layer in layers) / max(1, parameters),
        left_in_float=len(record.left_in_float),
        bytes=record.size.quantized_bytes,
        drop=drop,
        seconds=seconds,
    )
