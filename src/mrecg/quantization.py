"""Quantize in one call, or go on with a run that was interrupted."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from mrecg.config.presets import DEFAULT_PRESET
from mrecg.config.recipe import Recipe, parse_recipe
from mrecg.errors import PlanError, RunError, expect
from mrecg.graph.insert import Quantizer
from mrecg.monitoring import watched
from mrecg.optimize.augmentation import Augment
from mrecg.optimize.progress import Report, phase
from mrecg.pipeline import PLAN, prepare
from mrecg.preparation.calibration import CalibrationImages
from mrecg.records.plan import Plan
from mrecg.runs.files import RECIPE
from mrecg.runs.folder import QuantizedModel
from mrecg.runs.places import RunPlace, reserve
from mrecg.torch_state import default_torch_modes

__all__ = ["quantize", "resume"]


@default_torch_modes()
def quantize(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    *,
    recipe: Recipe | str = DEFAULT_PRESET,
    plan: Plan | None = None,
    quantizer: Quantizer | None = None,
    progress: Report | bool | None = None,
    memory: int | str | None = None,
    augment: Augment | None = None,
    folder: str | Path | None = None,
) -> QuantizedModel:
    """Quantize `model` after training: `prepare` and `PreparedModel.quantize` in one call.

    Args:
        model: takes an image tensor, or several tensors by name; it is not changed.
        calibration: images as `mrecg.data.calibration_images` reads them, as a tensor, a Dataset, or an iterable of image
            tensors, batches or (images, labels). For several inputs, dictionaries by the names of the forward's arguments take
            the place of tensors.
        recipe: from `mrecg.preset` or `mrecg.read_recipe`, or the name of a preset.
        plan: replaces the recipe's plan.
        quantizer: any PT2E quantizer, in place of the recipe's placement.
        progress: `True` shows bars, `False` nothing; by default bars are shown where there is a terminal or a notebook. Or a
            function that is called with `Progress`, and once with an `Estimate`.
        memory: bytes that the activation cache may take, or a size such as "2GiB"; the rest goes to temporary files. `None` is
            no limit.
        augment: takes a batch of images and returns another view of it, in place of `network.augment` of the recipe; it has
            to stay close to what the float network was trained on.
        folder: a new one for the run. It keeps every finished group, so that `resume` can go on after an interruption, and
            in the end the finished run.

    Returns:
        The quantized model with its record.

    Raises:
        MrecgError: an argument cannot be used; the message says why in a sentence.
    """
    if plan is not None:
        expect(plan, Plan, "The plan", "make one with mrecg.Plan(groups=...)", PlanError)
    advice = "name a new one"
    with watched(progress) as report, _reserved(folder, advice, resume=False) as place:
        with phase(report, "capture"):
            prepared = prepare(
                model, calibration, recipe=recipe, quantizer=quantizer, memory=memory
            )
        if place is None:
            return prepared.quantize(plan, progress=report, augment=augment)
        return prepared.quantize_in(place, plan, progress=report, augment=augment)


@default_torch_modes()
def resume(
    folder: str | Path,
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any] | Dataset[Any],
    *,
    quantizer: Quantizer | None = None,
    progress: Report | bool | None = None,
    memory: int | str | None = None,
    augment: Augment | None = None,
) -> QuantizedModel:
    """Go on with an interrupted `quantize(..., folder=folder)`: on a CPU to the bits that it would have had.

    Args:
        folder: holds the unfinished run; its recipe and its plan are read there.
        model, calibration, quantizer, augment: those that the run was started with. All are compared but `augment`: a
            function has no contents to compare.
        progress, memory: as in `quantize`.

    Raises:
        MrecgError: there is nothing to resume, or the run was started with something else; the message says why.
    """
    advice = "name an unfinished run"
    with watched(progress) as report, _reserved(folder, advice, resume=True) as place:
        assert place is not None
        recipe, plan = _read_choices(place)
        with phase(report, "capture"):
            prepared = prepare(
                model, calibration, recipe=recipe, quantizer=quantizer, memory=memory
            )
        return prepared.quantize_in(place, plan, progress=report, augment=augment)


def _reserved(
    folder: str | Path | None, advice: str, resume: bool
) -> AbstractContextManager[RunPlace | None]:
    """Return the reservation of a folder; of none where there is none."""
    if folder is None:
        return nullcontext()
    expect(folder, (str, Path), "The run folder", advice, RunError)
    return reserve(Path(folder), resume, together=True)


def _read_choices(place: RunPlace) -> tuple[Recipe, Plan | None]:
    """Return the recipe of an unfinished run, and the plan if one was given.

    Raises:
        MrecgError: they cannot be read.
    """
    recipe = parse_recipe(place.read_note(RECIPE), place.unfinished / RECIPE)
    path = place.unfinished / PLAN
    return recipe, Plan.parse(place.read_note(PLAN), path) if path.exists() else None
