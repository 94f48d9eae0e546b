"""The cheapest recipe that holds a target of accuracy: rounding to nearest, few steps, all steps, more bits, float."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg.config.presets import DEFAULT_PRESET
from mrecg.config.recipe import Recipe
from mrecg.config.settings import FLOAT_BITS
from mrecg.errors import DataError, RecipeError, expect
from mrecg.evaluation import evaluate
from mrecg.graph.inputs import as_given
from mrecg.metrics import Metric
from mrecg.mixed_precision.divergence import answer_divergence
from mrecg.mixed_precision.integer_program import require_solver
from mrecg.mixed_precision.ladder import Calibration, Ladder, LadderStep
from mrecg.monitoring import watched
from mrecg.optimize.progress import Report
from mrecg.planning.budget import fit_budget, positions_of
from mrecg.preparation.arguments import check_arguments, resolve_recipe
from mrecg.preparation.calibration import CalibrationImages, gather_inputs
from mrecg.quantization import quantize
from mrecg.records.accuracy_target import AccuracyTarget, Attempt
from mrecg.records.record import Record
from mrecg.runs.folder import QuantizedModel
from mrecg.torch_state import default_torch_modes

__all__ = ["quantize_to"]

_ASIDE = 4
"""Without labels, one image of so many calibrates nothing and is compared on."""


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
        attempt: quantizes with one recipe, in place of `mrecg.quantize`; one that keeps its results makes a search go on after
            an interruption.

    Returns:
        The first try that holds the target, else the nearest; `record.target` tells all tries, and `record.target.is_held` which.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    chosen = resolve_recipe(recipe)
    check_arguments(model, calibration, None)
    expect(max_drop, (int, float), "The largest drop", "give a number such as 0.5", RecipeError)
    if not 0 <= max_drop < float("inf"):
        raise RecipeError(f"The largest drop is {max_drop}, expected a number of 0 or more.")
    require_solver()
    if metric is not None and validation is None:
        raise DataError("A metric needs labels; give batches of images and labels as validation.")
    source: Calibration = (
        calibration
        if isinstance(calibration, CalibrationImages)
        else as_given(gather_inputs(calibration))
    )
    recipe = fit_budget(chosen, positions_of(gather_inputs(source)))
    judge = _Judge.of(model, source, validation, metric, recipe)
    attempts: list[Attempt] = []
    best: QuantizedModel | None = None
    with watched(progress) as report:
        ladder = Ladder(model, judge.tuned, recipe, budget, after, report, memory)
        for step in ladder.steps():
            started = time.perf_counter()
            found = attempt(model, judge.tuned, recipe=step.recipe, progress=report, memory=memory)
            drop = judge.drop(found)
            if best is None or drop < min(one.drop for one in attempts):
                best = found.with_found(sensitivity=step.sensitivity, bits=step.bits)
            attempts.append(_attempt(step, found.record, drop, time.perf_counter() - started))
            if drop <= max_drop:
                break
    assert best is not None
    target = AccuracyTarget(
        metric=judge.name,
        max_drop=max_drop,
        float_score=judge.float_score,
        attempts=tuple(attempts),
        kept=min(range(len(attempts)), key=lambda index: attempts[index].drop),
    )
    return best.with_found(target=target)


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


@dataclass(frozen=True)
class _Judge:
    """Judge of tries: by labels, or by the divergence on images that are set aside.

    Attributes:
        name: of the metric.
        float_score: of the float network; `None` without labels.
        tuned: the images that calibrate.
        drop: of a quantized network.
    """

    name: str
    float_score: float | None
    tuned: Calibration
    drop: Callable[[QuantizedModel], float]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        source: Calibration,
        validation: Iterable[tuple[Tensor, Any]] | None,
        metric: Metric | None,
        recipe: Recipe,
    ) -> "_Judge":
        if validation is not None:
            name = "top-1" if metric is None else getattr(metric, "__name__", "metric")
            before = _score(model, validation, metric)
            return cls(
                name, before, source, lambda found: before - _score(found, validation, metric)
            )
        inputs = gather_inputs(source)
        aside = torch.arange(len(inputs)) % _ASIDE == 0
        if len(inputs) < 2 * _ASIDE:
            raise DataError(
                f"There are {len(inputs)} images, expected {2 * _ASIDE} or more to set some aside for the comparison; give more, or "
                "labeled ones as validation."
            )
        judging = inputs[aside]
        if isinstance(source, CalibrationImages):
            tuned: Calibration = replace(source, images=source.images[~aside])
        else:
            tuned = as_given(inputs[~aside])
        return cls(
            "divergence",
            None,
            tuned,
            lambda found: answer_divergence(model, found.model, judging, recipe),
        )


def _score(
    model: nn.Module | QuantizedModel,
    validation: Iterable[tuple[Tensor, Any]],
    metric: Metric | None,
) -> float:
    if metric is None:
        return evaluate(model, validation).top1
    found = evaluate(model, validation, metric)
    if not isinstance(found, float):
        raise DataError("The metric gives several numbers, expected one whose drop is limited.")
    return found
