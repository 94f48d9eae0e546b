"""The whole method, from top to bottom."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from mrecg import distributed
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.errors import DataError, PlanError, RecipeError, StorageError, expect
from mrecg.graph.capture import export_frozen
from mrecg.graph.insert import Quantizer
from mrecg.graph.units import Unit
from mrecg.optimize.groups import Progress, Report, reconstruct
from mrecg.optimize.network import network_steps, tune_network
from mrecg.planning.estimate import Estimate, estimate
from mrecg.planning.joint_plan import check_plan, make_plan
from mrecg.prepare.calibration_images import CalibrationImages, gather_images
from mrecg.prepare.models import check_model
from mrecg.prepare.prepared_model import Assembly, assemble
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Plan
from mrecg.records.record import NetworkRecord, Record
from mrecg.runs.folder import QuantizedModel, environment
from mrecg.torch_state import own_modes

__all__ = ["Estimate", "Progress", "check", "foresee", "make_model_plan", "quantize"]

_PROBED = 8
"""Images that the estimate of time runs on."""


@own_modes()
def quantize(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any],
    *,
    recipe: Recipe,
    plan: Plan | None = None,
    quantizer: Quantizer | None = None,
    progress: Report | None = None,
    memory: int | None = None,
    announce: Callable[[Estimate], None] | None = None,
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
        memory: bytes that the calibration values may take; the rest lies in temporary files. `None` is no limit.
        announce: called with an estimate of memory and time before the reconstruction starts.

    Returns:
        The quantized model with its record.

    Raises:
        MrecgError: what the caller gave cannot be used; the message says why in a sentence.
    """
    clock = _Clock()
    report = progress or (lambda event: None)
    _check_memory(memory)
    everything, images, assembly = _prepared(model, calibration, recipe, plan, quantizer)
    if plan is not None:
        plan = check_plan(plan, assembly.chain.units)
    storage = _storage(assembly, recipe, memory)
    clock.lap("capture")
    spent = 0.0
    if plan is None:
        plan = _plan(assembly, images, recipe, report, storage)
        spent = recipe.plan.loss_steps if recipe.plan.join == "loss" else 0.0
    clock.lap("plan")
    if announce is not None:
        announce(estimate(assembly, images[:_PROBED], len(images), recipe, plan, storage, spent))
    units, groups = reconstruct(assembly, images, recipe, plan, "tune", report, storage, spent)
    clock.lap("reconstruction")
    network = _tune_network(assembly, images, recipe, report)
    clock.lap("network")
    quantizers = assembly.describe()
    finished = assembly.frozen()
    program = export_frozen(finished, everything[:2].to(assembly.device))
    clock.lap("freeze")
    record = Record(
        units=units,
        groups=groups,
        plan=plan,
        quantizers=quantizers,
        oscillation=Oscillation.along(
            [unit.name for unit in units], [unit.relative_loss for unit in units]
        ),
        network=network,
        left_in_float=assembly.left_in_float,
        images=len(everything),
        **_kept_of(calibration),
        input_shape=tuple(images.shape[1:]),
        seconds=clock.laps,
        environment=environment(assembly.device),
    )
    return QuantizedModel(program, record, recipe)


@own_modes()
def check(
    model: nn.Module,
    calibration: CalibrationImages | Tensor | Iterable[Any],
    *,
    recipe: Recipe,
    plan: Plan | None = None,
) -> None:
    """Refuse in seconds what `quantize` would refuse; worth it before something long.

    Raises:
        MrecgError: as `quantize`.
    """
    _, _, assembly = _prepared(model, calibration, recipe, plan, None)
    if plan is not None:
        check_plan(plan, assembly.chain.units)
    elif recipe.plan.join != "loss":
        make_plan(assembly.chain.units, recipe.plan)


@own_modes()
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
    _check_arguments(model, calibration, recipe, None, None)
    if recipe.plan.join != "loss":  # nothing is tuned: two images will do
        recipe = recipe.override({"reconstruct.steps": 0})
    _, images, assembly = _prepared(model, calibration, recipe, None, None)
    report = progress or (lambda event: None)
    return _plan(assembly, images, recipe, report, _storage(assembly, recipe))


@own_modes()
def foresee(model: nn.Module, probe: Tensor, count: int, recipe: Recipe) -> Estimate:
    """What quantizing will take, without calibrating anything.

    The rule `loss` needs a run to know its plan; here that of `capacity` stands in for it.

    Args:
        model: is not changed.
        probe: two images of the right shape, or a few more; their values do not matter.
        count: how many images will calibrate.
        recipe: steps, batch size and plan.

    Raises:
        MrecgError: the model cannot be captured.
    """
    _check_arguments(model, probe, recipe, None, None)
    assembly = assemble(model, probe, recipe, None)
    storage, rule, units = _storage(assembly, recipe), recipe.plan, assembly.chain.units
    if rule.join != "loss":
        return estimate(assembly, probe, count, recipe, make_plan(units, rule), storage)
    ahead = estimate(assembly, probe, count, _short(recipe), _single(units), storage)
    plan = make_plan(units, rule.model_copy(update={"join": "capacity"}))
    found = estimate(assembly, probe, count, recipe, plan, storage, rule.loss_steps)
    return replace(found, seconds=ahead.seconds + found.seconds)


def _prepared(
    model: nn.Module,
    calibration: CalibrationImages | Iterable[Any],
    recipe: Recipe,
    plan: Plan | None,
    quantizer: Quantizer | None,
) -> tuple[Tensor, Tensor, Assembly]:
    """All images, those of this process, and the captured model, once everything that was given fits together."""
    _check_arguments(model, calibration, recipe, plan, quantizer)
    everything = gather_images(calibration, recipe.reconstruct)
    images = distributed.share_of_images(everything)
    distributed.share_of_batch(recipe.reconstruct.batch_size)
    assembly = assemble(model, everything, recipe, quantizer)
    return everything, images, assembly


def _check_arguments(
    model: nn.Module,
    calibration: CalibrationImages | Iterable[Any],
    recipe: Recipe,
    plan: Plan | None,
    quantizer: Quantizer | None,
) -> None:
    """Refuse what is of another kind before anything is read or captured."""
    check_model(model)
    advice = "give images as a tensor, or an iterable of image tensors, batches or (images, labels)"
    expect(calibration, (CalibrationImages, Iterable), "The calibration set", advice, DataError)
    advice = "make one with mrecg.preset('w4a4-qdrop-mrecg')"
    expect(recipe, Recipe, "The recipe", advice, RecipeError)
    if plan is not None:
        expect(plan, Plan, "The plan", "make one with mrecg.Plan(groups=...)", PlanError)
    if quantizer is not None:
        expect(quantizer, Quantizer, "The quantizer", "give one of torchao's PT2E", RecipeError)


def _check_memory(memory: int | None) -> None:
    if memory is None:
        return
    expect(memory, int, "The memory budget", "give bytes, such as 4 * 2**30", StorageError)
    if memory < 0:
        raise StorageError(f"The memory budget is {memory} bytes, expected 0 or more.")


def _kept_of(calibration: object) -> dict[str, Any]:
    """What the record keeps of where the images come from."""
    if not isinstance(calibration, CalibrationImages):
        return {}
    return {"skipped_images": calibration.skipped, "preprocessing": calibration.preprocessing}


def _storage(assembly: Assembly, recipe: Recipe, memory: int | None = None) -> Storage:
    """Where a run keeps the values of calibration images."""
    return Storage(assembly.device, memory, recipe.reconstruct.cache == "float16")


def _short(recipe: Recipe) -> Recipe:
    """For the run that the metric `loss` needs."""
    steps = round(recipe.reconstruct.steps * recipe.plan.loss_steps)
    return recipe.override({"reconstruct.steps": steps, "reconstruct.network_share": 0.0})


def _single(units: Sequence[Unit]) -> Plan:
    """The plan that joins nothing."""
    return Plan(groups=tuple((unit.name,) for unit in units))


def _plan(
    assembly: Assembly, images: Tensor, recipe: Recipe, report: Report, storage: Storage
) -> Plan:
    """The recipe's plan; the metric `loss` takes a shorter run without joining first."""
    rule, units = recipe.plan, assembly.chain.units
    losses: Sequence[float] = ()
    if rule.join == "loss":
        plan = _single(units)
        records, _ = reconstruct(assembly, images, _short(recipe), plan, "plan", report, storage)
        losses = [unit.loss for unit in records]
    return make_plan(units, rule, losses)


def _tune_network(
    assembly: Assembly, images: Tensor, recipe: Recipe, report: Report
) -> NetworkRecord | None:
    """The last phase of a run, with its events."""
    steps = network_steps(recipe)
    event = Progress("network", ("all units",), 0, 1, 0, steps, 0.0)
    found = tune_network(
        assembly,
        images,
        recipe,
        lambda step, loss: report(replace(event, step=step, loss=loss)),
    )
    if found is not None:
        report(replace(event, step=steps, loss=found.divergence_after, finished=True))
    return found


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.laps[phase] = now - self._last
        self._last = now
