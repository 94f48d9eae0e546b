"""How much worse a quantized network is than the float one: by labels, or by the divergence on images that are set aside."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from mrecg.config.recipe import Recipe
from mrecg.errors import DataError
from mrecg.evaluation import Evaluation, evaluate
from mrecg.graph.inputs import as_given
from mrecg.metrics import Metric, metric_name
from mrecg.mixed_precision.divergence import FloatAnswers, returned_floats
from mrecg.mixed_precision.ladder import Calibration
from mrecg.preparation.calibration import CalibrationImages, check_image_count, gather_inputs
from mrecg.runs.folder import QuantizedModel

__all__ = ["DropMeter", "Verdict"]

_ASIDE = 4
"""Without labels, one image of so many calibrates nothing and is compared on."""


class Verdict(NamedTuple):
    """Drop and accuracy of one quantized network.

    Attributes:
        drop: of the metric, or the divergence; infinite where that is NaN.
        accuracy: of it and of the float network, as the record holds them; nothing by another metric than top-1.
    """

    drop: float
    accuracy: Mapping[str, Evaluation]


@dataclass(frozen=True)
class DropMeter:
    """Measures quantized networks against the float one.

    Attributes:
        name: of the metric.
        float_score: of the float network; `None` without labels.
        tuned: the images that calibrate.
        measure: of a quantized network, which may be NaN.
    """

    name: str
    float_score: float | None
    tuned: Calibration
    measure: Callable[[QuantizedModel], Verdict]

    def verdict(self, found: QuantizedModel) -> Verdict:
        """Return what a quantized network loses."""
        made = self.measure(found)
        return made._replace(drop=math.inf) if math.isnan(made.drop) else made

    @classmethod
    def by_accuracy(
        cls,
        source: Calibration,
        validation: Iterable[tuple[Tensor, Any]],
        before: Evaluation,
    ) -> Self:
        """Count right answers.

        Args:
            source: the images that calibrate.
            validation: batches of images and labels.
            before: of the float network on them.
        """

        def measure(found: QuantizedModel) -> Verdict:
            after = evaluate(found, validation)
            return Verdict(before.top1 - after.top1, {"float": before, "quantized": after})

        return cls(metric_name(None), before.top1, source, measure)

    @classmethod
    def by_metric(
        cls,
        model: nn.Module,
        source: Calibration,
        validation: Iterable[tuple[Tensor, Any]],
        metric: Metric,
    ) -> Self:
        """Measure a metric, of which larger is better.

        Raises:
            DataError: it gives several numbers, or the float network's is no number that can drop.
        """
        before = _number(model, validation, metric)
        if not math.isfinite(before):
            raise DataError(
                f"The metric {metric_name(metric)} is {before} for the float network, expected a finite number whose drop is limited."
            )

        def measure(found: QuantizedModel) -> Verdict:
            return Verdict(before - _number(found, validation, metric), {})

        return cls(metric_name(metric), before, source, measure)

    @classmethod
    def by_divergence(cls, model: nn.Module, source: Calibration, recipe: Recipe) -> Self:
        """Set images aside, and measure the divergence from the float network on them.

        Raises:
            DataError: there are too few, or the network returns nothing that a divergence is defined for.
            RecipeError: the recipe describes another number of outputs.
        """
        inputs = gather_inputs(source)
        aside = torch.arange(len(inputs)) % _ASIDE == 0
        if len(inputs) < 2 * _ASIDE:
            raise DataError(
                f"There are {len(inputs)} images, expected {2 * _ASIDE} or more to set some aside for the comparison; give more, or "
                "labeled ones as validation."
            )
        judging, kept = inputs[aside], inputs[~aside]
        what = f"calibration set without the {len(judging)} images that are set aside for the comparison"
        check_image_count(len(kept), recipe.reconstruct, what)
        if isinstance(source, CalibrationImages):
            tuned: Calibration = replace(source, images=source.images[~aside])
        else:
            tuned = as_given(kept)
        wanted = FloatAnswers.returned_by(model, judging, recipe)

        def measure(found: QuantizedModel) -> Verdict:
            return Verdict(wanted.compare(returned_floats(found.model, judging)), {})

        return cls("divergence", None, tuned, measure)


def _number(
    model: nn.Module | QuantizedModel, validation: Iterable[tuple[Tensor, Any]], metric: Metric
) -> float:
    found = evaluate(model, validation, metric)
    if not isinstance(found, float):
        raise DataError("The metric gives several numbers, expected one whose drop is limited.")
    return found
