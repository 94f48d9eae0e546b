"""Group by group along the chain: calibrate, tune, accept or roll back, carry the images on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from mrecg.cache.activation_cache import Stream
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.graph.units import Unit
from mrecg.optimize.group import Tuned, derived_seed, tune
from mrecg.prepare.integer_bias import IntegerBias
from mrecg.prepare.prepared_model import Assembly, Held
from mrecg.prepare.quantizers import calibrate
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.losses import SMALLEST_POWER
from mrecg.quantizers.lsq import ActivationQuantizer
from mrecg.quantizers.range_search import Sample
from mrecg.quantizers.weight import WeightQuantizer
from mrecg.records.plan import Plan
from mrecg.records.record import GroupRecord, UnitRecord

__all__ = ["Progress", "Report", "reconstruct", "steps_left"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: `plan` (the run that the loss metric needs), `tune`, or `network` (the whole after its groups).
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


Report = Callable[[Progress], None]


def reconstruct(
    assembly: Assembly,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    plan: Plan,
    phase: str,
    report: Report,
    storage: Storage | None = None,
    spent: float = 0.0,
) -> tuple[tuple[UnitRecord, ...], tuple[GroupRecord, ...]]:
    """Reconstruct every group of a plan; the assembly's quantizers hold the result.

    Args:
        assembly: may have been reconstructed before; every group starts anew.
        images: for calibration.
        recipe: steps and everything else.
        plan: fits the assembly.
        phase: passed on to `report`.
        report: called with what is going on.
        storage: where values lie between the groups; without limits when absent.
        spent: fraction of the steps that a run over single units has taken, whose result the assembly still holds.
            Units that stay single continue from there with the other steps.
    """
    stream = Stream(assembly.chain, images, assembly.device, storage)
    units: list[UnitRecord] = []
    groups: list[GroupRecord] = []
    for index, names in enumerate(plan.groups):
        started = time.perf_counter()
        members = assembly.chain.units[len(units) : len(units) + len(names)]
        inputs = stream.inputs(members)
        settings = recipe.reconstruct
        resume = len(members) == 1 and steps_left(settings.steps, spent) < settings.steps
        if resume:
            left = steps_left(settings.steps, spent)
            settings = settings.model_copy(update={"steps": left})
        held = Held.of(assembly, members)
        start = _Start.calibrated(assembly, stream, members, recipe)
        weights = assembly.learned_weights(members, recipe.reconstruct.exclude)
        activations = assembly.learned_activations(members)
        learned = weights or any(one.learns for one in activations.values())
        learns = recipe.reconstruct.steps > 0 and bool(learned)
        nearest = losses = stream.run_quantized(members, keep=not learns)
        loss = to_nearest = stream.lasting_loss(members, nearest)
        event = Progress(phase, names, index, len(plan.groups), 0, settings.steps, loss)
        tuned = Tuned(steps=0, first_loss=loss, last_loss=loss, undecided=0, roundings=0)
        if learns:
            if resume:
                held.put_back()
            if settings.steps:
                tuned = tune(
                    members,
                    weights,
                    activations,
                    *inputs,
                    stream.targets(members),
                    settings,
                    derived_seed(recipe.seed, phase, index),
                    lambda step, loss, event=event: report(replace(event, step=step, loss=loss)),  # type: ignore[misc]
                    resume,
                )
            start.round_biases()
            losses = stream.run_quantized(members, keep=True)
            loss = stream.lasting_loss(members, losses)
            if not loss <= to_nearest:
                tuned = replace(tuned, accepted=False)
                start.restore()
                losses = stream.run_quantized(members, keep=True)
                loss = stream.lasting_loss(members, losses)
        units += _unit_records(members, index, losses, nearest, stream.power)
        seconds = time.perf_counter() - started
        groups.append(_group_record(names, tuned, seconds))
        report(replace(event, step=event.steps, loss=loss, finished=True))
        stream.forget(members)
    stream.close()
    return tuple(units), tuple(groups)


def steps_left(steps: int, spent: float) -> int:
    """Of a group's steps, when a fraction of them was taken before."""
    return steps - round(spent * steps)


@dataclass(frozen=True)
class _Start:
    """Where a group starts, and where it returns to when tuning made it worse."""

    weights: Sequence[tuple[WeightQuantizer, Tensor]]
    activations: Sequence[tuple[ActivationQuantizer, Scaling | None]]
    biases: Sequence[IntegerBias]

    @classmethod
    def calibrated(
        cls, assembly: Assembly, stream: Stream, members: Sequence[Unit], recipe: Recipe
    ) -> "_Start":
        """Ranges from the float network, which the stream is carried through; weights to nearest."""
        for unit in members:
            samples = {name: Sample() for name in unit.activations}
            stream.advance_plain(unit, samples)
            for name, quantizer in assembly.activations([unit]).items():
                calibrate(quantizer, samples[name], recipe.activation)
        activations = [(one, one.scaling) for one in assembly.activations(members).values()]
        biases = assembly.biases_of(members)
        for bias in biases:
            bias.make_room()
        start = cls(list(assembly.weights(members).values()), activations, biases)
        start.restore()
        return start

    def restore(self) -> None:
        for quantizer, weight in self.weights:
            quantizer.round_to_nearest(weight)
        for activation, scaling in self.activations:
            activation.scaling = scaling
        self.round_biases()

    def round_biases(self) -> None:
        """To whole accumulator steps; after every change of a scale."""
        for bias in self.biases:
            bias.fit()


def _unit_records(
    members: Sequence[Unit],
    group: int,
    losses: Mapping[str, float],
    nearest: Mapping[str, float],
    powers: Mapping[str, float],
) -> list[UnitRecord]:
    records = []
    for unit in members:
        loss, nearest_loss = (sum(map(of.__getitem__, unit.outputs)) for of in (losses, nearest))
        records.append(
            UnitRecord(
                name=unit.name,
                layers=unit.layers,
                shape=unit.shape,
                group=group,
                loss=loss,
                relative_loss=loss / max(powers[unit.name], SMALLEST_POWER),
                nearest_loss=nearest_loss,
            )
        )
    return records


def _group_record(names: tuple[str, ...], tuned: Tuned, seconds: float) -> GroupRecord:
    return GroupRecord(
        units=names,
        steps=tuned.steps,
        first_loss=tuned.first_loss,
        last_loss=tuned.last_loss,
        undecided=tuned.undecided / max(1, tuned.roundings),
        accepted=tuned.accepted,
        seconds=seconds,
    )
