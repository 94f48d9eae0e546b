"""The cheapest recipe that holds a target of accuracy: rounding to nearest, few steps, all steps, more bits, float."""

import glob
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg.config.presets import DEFAULT_PRESET
from mrecg.config.recipe import Recipe
from mrecg.config.settings import FLOAT_BITS, LayerOverride
from mrecg.config.width_rules import with_width_rules
from mrecg.errors import DataError, RecipeError, expect
from mrecg.evaluation import evaluate
from mrecg.metrics import Metric
from mrecg.mixed_precision.budgets import cost_of
from mrecg.mixed_precision.divergence import answer_divergence
from mrecg.mixed_precision.integer_program import choose_bits
from mrecg.mixed_precision.layout import allowed_widths
from mrecg.mixed_precision.measurement import sensitivity
from mrecg.monitoring import watched
from mrecg.optimize.progress import Report
from mrecg.preparation.arguments import check_arguments, resolve_recipe
from mrecg.preparation.calibration import CalibrationImages, gather_images
from mrecg.quantization import quantize
from mrecg.records.accuracy_target import AccuracyTarget, Attempt
from mrecg.records.bit_choice import BitChoice
from mrecg.records.record import Record
from mrecg.records.sensitivity import QuantizedKind, Sensitivity
from mrecg.runs.folder import QuantizedModel
from mrecg.torch_state import default_torch_modes

__all__ = ["quantize_to"]

FEW = 10
"""Few steps are the recipe's divided by it."""
MORE = (1.25, 1.5, 2.0)
"""More bits: the budget as a multiple of what the recipe's own widths take."""
IN_FLOAT = (0.5, 0.9)
"""Float: the fewest layers that do this part of the harm."""
_MEASURED = 64
"""Images that sensitivity is measured on."""
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
    progress: Report | bool | None = None,
    memory: int | str | None = None,
) -> QuantizedModel:
    """Quantize with the cheapest recipe that holds a target of accuracy.

    Tried in the order of cost: rounding to nearest, a tenth of the recipe's steps, its steps, more bits where the network is
    sensitive, and float for the layers that still hurt. With a budget, widths within it take the place of the last two.

    Args:
        model, calibration, recipe, progress, memory: as in `mrecg.quantize`.
        max_drop: of the metric, in its unit; without labels the divergence from the float network.
        validation: batches of images and labels, which can be gone through several times, such as a DataLoader.
        metric: as in `mrecg.evaluate`, larger is better; by default the percent of right classes.
        budget: as in `mrecg.choose_bits`; no try takes more.

    Returns:
        The first try that holds the target, else the nearest; `record.target` tells all tries, and `record.target.is_held` which.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    recipe = resolve_recipe(recipe)
    check_arguments(model, calibration, None)
    expect(max_drop, (int, float), "The largest drop", "give a number such as 0.5", RecipeError)
    if not 0 <= max_drop < float("inf"):
        raise RecipeError(f"The largest drop is {max_drop}, expected a number of 0 or more.")
    if metric is not None and validation is None:
        raise DataError("A metric needs labels; give batches of images and labels as validation.")
    source = calibration
    if not isinstance(source, CalibrationImages):
        source = CalibrationImages(gather_images(source))
    judge = _Judge.of(model, source, validation, metric, recipe)
    attempts: list[Attempt] = []
    best: QuantizedModel | None = None
    with watched(progress) as report:
        ladder = _Ladder(model, judge.tuned, recipe, budget, report, memory)
        for step in ladder.steps():
            started = time.perf_counter()
            found = quantize(model, judge.tuned, recipe=step.recipe, progress=report, memory=memory)
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


def _attempt(step: "_Step", record: Record, drop: float, seconds: float) -> Attempt:
    layers = [layer for unit in record.units for layer in unit.layers if layer.bits < FLOAT_BITS]
    parameters = sum(layer.parameters for layer in layers)
    assert record.size is not None
    return Attempt(
        name=step.name,
        steps=step.recipe.reconstruct.steps,
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
    tuned: CalibrationImages
    drop: Callable[[QuantizedModel], float]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        source: CalibrationImages,
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
        aside = torch.arange(len(source)) % _ASIDE == 0
        if len(source) < 2 * _ASIDE:
            raise DataError(
                f"There are {len(source)} images, expected {2 * _ASIDE} or more to set some aside for the comparison; give more, or "
                "labeled ones as validation."
            )
        judging, tuned = source.images[aside], replace(source, images=source.images[~aside])
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


class _Step(NamedTuple):
    """One recipe to try, and what it was chosen by."""

    name: str
    recipe: Recipe
    sensitivity: Sensitivity | None = None
    bits: BitChoice | None = None


@dataclass(frozen=True)
class _Ladder:
    """The recipes to try, from the cheapest on; sensitivity is measured once it is needed."""

    model: nn.Module
    images: CalibrationImages
    recipe: Recipe
    budget: str | None
    report: Report
    memory: int | str | None

    def steps(self) -> Iterator[_Step]:
        """Yield the recipes."""
        if self.budget is not None:
            found = self._sensitivity()
            chosen = choose_bits(found, self.budget)
            mixed = with_width_rules(self.recipe, chosen.overrides())
            for step in _by_steps(mixed):
                name = f"{step.name}, widths within {self.budget}"
                yield step._replace(name=name, sensitivity=found, bits=chosen)
            return
        yield from _by_steps(self.recipe)
        yield from self._wider()

    def _wider(self) -> Iterator[_Step]:
        """Yield mixed widths that take more, and then the widest of them with layers in float."""
        found = self._sensitivity()
        activations = bool(found.of_kind("activation"))
        own = cost_of(found, {})
        chosen = None
        for factor in MORE:
            amount = (own.bops if activations else own.bits) * factor
            budget = f"{amount / 1e6:.6f}MBOPs" if activations else f"{amount:.6f}bits"
            chosen = choose_bits(found, budget)
            recipe = with_width_rules(self.recipe, chosen.overrides())
            name = f"{factor:g} times the {'bit operations' if activations else 'bits'}"
            yield _Step(name, recipe, found, chosen)
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
            name = f"{MORE[-1]:g} times, {len(layers)} layers in float"
            yield _Step(name, recipe, found, chosen)

    def _sensitivity(self) -> Sensitivity:
        weights = self._widths("weight", self.recipe.weight.bits if self.budget is None else 2)
        activations: Sequence[int] = ()
        if self.budget is None and self.recipe.placement.tensors == "layers":
            activations = self._widths("activation", self.recipe.activation.bits)
        return sensitivity(
            self.model,
            self.images.images[:_MEASURED],
            self.recipe,
            weight_bits=weights,
            activation_bits=activations,
            progress=self.report,
            memory=self.memory,
        )

    def _widths(self, kind: QuantizedKind, least: int) -> Sequence[int]:
        """Return the widths from the least one on that are worth measuring."""
        allowed = [bits for bits in allowed_widths(self.recipe, kind) if bits >= least]
        return sorted({*allowed[:3], *allowed[-1:]})


def _by_steps(recipe: Recipe) -> Iterator[_Step]:
    """Yield a recipe with no steps, with few, and with its own."""
    steps = recipe.reconstruct.steps
    nearest = {"reconstruct.steps": 0, "network.steps": 0, "plan.join": "none"}
    yield _Step("rounding to nearest", recipe.override(nearest))
    if steps >= 2 * FEW:
        yield _Step(f"{steps // FEW} steps", recipe.override({"reconstruct.steps": steps // FEW}))
    if steps:
        yield _Step(f"{steps} steps", recipe)


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
