"""The whole method, from top to bottom."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from mrecg.calibration import check_weights, gather_images
from mrecg.graph.capture import capture
from mrecg.graph.placement import (
    PaperPlacement,
    PlacedQuantizer,
    Quantizer,
    freeze,
    layer_name,
    layers_of,
    place,
)
from mrecg.graph.units import Chain, Unit, cut
from mrecg.quantization.activation import ActivationQuantizer
from mrecg.quantization.losses import reconstruction_loss, signal_power
from mrecg.quantization.ranges import Sample
from mrecg.quantization.rounding import WeightQuantizer
from mrecg.recipe import Recipe
from mrecg.reconstruction.granularity import check_plan, make_plan
from mrecg.reconstruction.quantizers import calibrate, make_activation, make_weight
from mrecg.reconstruction.stream import Stream, Values
from mrecg.reconstruction.tune import Tuned, tune
from mrecg.record import (
    GroupRecord,
    Oscillation,
    Plan,
    QuantizerRecord,
    Record,
    UnitRecord,
)
from mrecg.runs import QuantizedModel, environment

__all__ = ["Progress", "make_model_plan", "quantize"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: `plan` (the run that the loss metric needs) or `tune`.
        group: names of the group's units.
        index, groups: the group's position, from 0, and their number.
        step, steps: steps of the group done, and planned.
        loss: reconstruction loss of the last step, or of the group when it is finished.
        finished: the group is done, its rounding hard.
    """

    phase: str
    group: tuple[str, ...]
    index: int
    groups: int
    step: int
    steps: int
    loss: float
    finished: bool = False


SMALLEST_POWER = 1e-12

Report = Callable[[Progress], None]


def quantize(
    model: nn.Module,
    calibration: Tensor | Iterable[Any],
    *,
    recipe: Recipe,
    plan: Plan | None = None,
    quantizer: Quantizer | None = None,
    progress: Report | None = None,
) -> QuantizedModel:
    """Quantize `model` after training.

    Args:
        model: takes one image tensor; it is not changed.
        calibration: images as a tensor, or an iterable of image tensors, batches or (images, labels).
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
    build = _build(model, images, recipe, quantizer)
    clock.lap("capture")
    if plan is None:
        plan = _plan(build, images, recipe, report)
    plan = check_plan(plan, build.chain.units)
    clock.lap("plan")
    units, groups = _reconstruct(build, images, recipe, plan, "tune", report)
    clock.lap("reconstruction")
    quantizers = build.describe()
    finished = freeze(build.graph, build.quantizers, _results(build))
    program = torch.export.export(
        finished, (images[:2].to(build.device),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    clock.lap("freeze")
    record = Record(
        units=units,
        groups=groups,
        plan=plan,
        quantizers=quantizers,
        oscillation=Oscillation.along(
            [unit.name for unit in units], [unit.relative_loss for unit in units]
        ),
        left_in_float=build.left_in_float,
        images=len(images),
        input_shape=tuple(images.shape[1:]),
        seconds=clock.laps,
        environment=environment(build.device),
    )
    return QuantizedModel(program, record, recipe)


def make_model_plan(
    model: nn.Module,
    calibration: Tensor | Iterable[Any],
    *,
    recipe: Recipe,
    progress: Report | None = None,
) -> Plan:
    """The plan that `quantize` would follow; only the rule `loss` looks at more than two images.

    Raises:
        MrecgError: as `quantize`.
    """
    images = gather_images(calibration, recipe.reconstruct)
    build = _build(model, images, recipe, None)
    return _plan(build, images, recipe, progress or (lambda event: None))


@dataclass
class _Build:
    """A model with quantizers, cut into units."""

    graph: fx.GraphModule
    quantizers: tuple[PlacedQuantizer, ...]
    chain: Chain
    device: torch.device
    left_in_float: tuple[str, ...]

    def weights(self, units: Sequence[Unit]) -> dict[str, tuple[WeightQuantizer, Tensor]]:
        found: dict[str, tuple[WeightQuantizer, Tensor]] = {}
        for unit in units:
            for name, parameter in unit.weights.items():
                module = self.graph.get_submodule(name)
                assert isinstance(module, WeightQuantizer)
                found[name] = (module, self.graph.get_parameter(parameter))
        return found

    def activations(self, units: Sequence[Unit]) -> dict[str, ActivationQuantizer]:
        found = {}
        for name in (name for unit in units for name in unit.activations):
            module = self.graph.get_submodule(name)
            assert isinstance(module, ActivationQuantizer)
            found[name] = module
        return found

    def describe(self) -> tuple[QuantizerRecord, ...]:
        described = []
        for placed in self.quantizers:
            module = self.graph.get_submodule(placed.name)
            assert isinstance(module, WeightQuantizer | ActivationQuantizer)
            assert module.scaling
            low, high = torch.aminmax(module.scaling.scale)
            described.append(
                QuantizerRecord(
                    name=placed.name,
                    kind="weight" if placed.is_weight else "activation",
                    tensor=placed.tensor,
                    readers=placed.readers,
                    low=placed.request.low,
                    high=placed.request.high,
                    scales=(float(low), float(high)),
                )
            )
        return tuple(described)


def _build(
    model: nn.Module, images: Float[Tensor, "n ..."], recipe: Recipe, quantizer: Quantizer | None
) -> _Build:
    check_weights(model)
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    captured = capture(model, images[:2].to(device))
    placement = quantizer or PaperPlacement(
        recipe.placement,
        bits={"weight": recipe.weight.bits, "activation": recipe.activation.bits},
        symmetric={"weight": recipe.weight.symmetric, "activation": recipe.activation.symmetric},
    )
    graph, quantizers = place(
        captured,
        placement,
        make_weight=lambda request, weight: make_weight(request, weight, recipe.weight.ranges),
        make_activation=make_activation,
    )
    chain = cut(graph, quantizers, model, recipe.plan.granularity)
    quantized = {reader for q in quantizers if q.is_weight for reader in q.readers}
    layers = dict.fromkeys(layer_name(node) for node in layers_of(graph.graph))
    plain = tuple(name for name in layers if name not in quantized)
    return _Build(graph, quantizers, chain, device, plain)


def _plan(build: _Build, images: Tensor, recipe: Recipe, report: Report) -> Plan:
    """The recipe's plan; the metric `loss` takes a shorter run without joining first."""
    rule, units = recipe.plan, build.chain.units
    losses: Sequence[float] = ()
    if rule.join == "loss":
        steps = round(recipe.reconstruct.steps * rule.loss_steps)
        short = recipe.override({"reconstruct.steps": steps})
        single = Plan(groups=tuple((unit.name,) for unit in units))
        records, _ = _reconstruct(build, images, short, single, "plan", report)
        losses = [unit.loss for unit in records]
    return make_plan(units, rule, losses)


def _reconstruct(
    build: _Build, images: Tensor, recipe: Recipe, plan: Plan, phase: str, report: Report
) -> tuple[tuple[UnitRecord, ...], tuple[GroupRecord, ...]]:
    """Group by group: calibrate, tune, carry the images on."""
    stream = Stream(build.chain, images, build.device)
    units: list[UnitRecord] = []
    groups: list[GroupRecord] = []
    for index, names in enumerate(plan.groups):
        started = time.perf_counter()
        members = build.chain.units[len(units) : len(units) + len(names)]
        plain, quantized = stream.inputs(members)
        _calibrate(build, stream, members, recipe)
        nearest = _losses(stream.plain, stream.run_quantized(members), members)

        steps = recipe.reconstruct.steps
        event = Progress(
            phase, names, index, len(plan.groups), step=0, steps=steps, loss=nearest[-1]
        )

        def on_step(step: int, loss: float, event: Progress = event) -> None:
            report(replace(event, step=step, loss=loss))

        tuned = Tuned(first_loss=nearest[-1], last_loss=nearest[-1], undecided=0, roundings=0)
        if steps:
            tuned = tune(
                members,
                build.weights(members),
                build.activations(members),
                plain,
                quantized,
                stream.targets(members),
                recipe.reconstruct,
                recipe.seed + index,
                on_step,
            )
        made = stream.run_quantized(members)
        stream.quantized.update(made)
        losses = _losses(stream.plain, made, members)
        units += _unit_records(members, index, losses, nearest, stream.plain)
        groups.append(_group_record(names, recipe, tuned, time.perf_counter() - started))
        report(replace(event, step=steps, loss=losses[-1], finished=True))
        stream.forget(members)
    return tuple(units), tuple(groups)


def _calibrate(build: _Build, stream: Stream, members: Sequence[Unit], recipe: Recipe) -> None:
    """Ranges from the float network, weights to nearest: where every group starts."""
    for unit in members:
        samples = {name: Sample() for name in unit.activations}
        stream.advance_plain(unit, samples)
        for name, quantizer in build.activations([unit]).items():
            calibrate(quantizer, samples[name], recipe.activation.ranges)
    for weight_quantizer, weight in build.weights(members).values():
        weight_quantizer.round_to_nearest(weight)


def _losses(plain: Values, quantized: Values, members: Sequence[Unit]) -> list[float]:
    """Reconstruction loss of every unit, over all of its outputs."""
    return [
        sum(float(reconstruction_loss(quantized[name], plain[name])) for name in unit.outputs)
        for unit in members
    ]


def _unit_records(
    members: Sequence[Unit],
    group: int,
    losses: Sequence[float],
    nearest: Sequence[float],
    plain: Values,
) -> list[UnitRecord]:
    records = []
    for unit, loss, nearest_loss in zip(members, losses, nearest, strict=True):
        power = sum(float(signal_power(plain[name])) for name in unit.outputs)
        records.append(
            UnitRecord(
                name=unit.name,
                layers=unit.layers,
                shape=unit.shape,
                group=group,
                loss=loss,
                relative_loss=loss / max(power, SMALLEST_POWER),
                nearest_loss=nearest_loss,
            )
        )
    return records


def _group_record(
    names: tuple[str, ...], recipe: Recipe, tuned: Tuned, seconds: float
) -> GroupRecord:
    return GroupRecord(
        units=names,
        steps=recipe.reconstruct.steps,
        first_loss=tuned.first_loss,
        last_loss=tuned.last_loss,
        undecided=tuned.undecided / max(1, tuned.roundings),
        seconds=seconds,
    )


def _results(build: _Build) -> dict[str, nn.Module]:
    results: dict[str, nn.Module] = {}
    for placed in build.quantizers:
        module = build.graph.get_submodule(placed.name)
        assert isinstance(module, WeightQuantizer | ActivationQuantizer)
        results[placed.name] = (
            module.coded() if isinstance(module, WeightQuantizer) else module.fixed()
        )
    return results


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.laps[phase] = now - self._last
        self._last = now
