"""Optimize group by group along the network: calibrate, optimize, keep the better state, carry activations on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from mrecg.cache.activation_cache import ActivationCache
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.graph.units import Unit
from mrecg.optimize.group import GroupResult, GroupValues, optimize_group
from mrecg.optimize.progress import Progress, Report
from mrecg.optimize.schedule import derive_seed
from mrecg.planning.estimate import remaining_steps
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.preparation.ranges import calibrate_activation
from mrecg.quantizers.losses import SMALLEST_POWER
from mrecg.quantizers.state import QuantizerState
from mrecg.records.plan import Plan
from mrecg.records.record import GroupRecord, UnitRecord

__all__ = ["optimize_groups"]


def optimize_groups(
    prepared: PreparedGraph,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    plan: Plan,
    phase: str,
    report: Report,
    storage: Storage | None = None,
    previous: QuantizerState | None = None,
) -> tuple[QuantizerState, tuple[UnitRecord, ...], tuple[GroupRecord, ...]]:
    """Reconstruct every group of a plan.

    Args:
        prepared: the network.
        images: the calibration images of this process.
        recipe: steps and everything else.
        plan: fits the network.
        phase: passed on to `report`, and part of the seeds.
        report: called with where the run is.
        storage: where activations are stored; without limits when absent.
        previous: the state of a run over single units, from which units that stay single continue.

    Returns:
        The state of the network, and the records of units and groups.
    """
    cache = ActivationCache(prepared.chain, images, prepared.device, storage)
    earlier = previous or QuantizerState()
    state = QuantizerState()
    units: list[UnitRecord] = []
    groups: list[GroupRecord] = []
    for index, names in enumerate(plan.groups):
        started = time.perf_counter()
        members = prepared.chain.units[len(units) : len(units) + len(names)]
        group = _Group(prepared, cache, members, recipe, derive_seed(recipe.seed, phase, index))
        event = Progress(phase, names, index, len(plan.groups), 0, group.steps(earlier), 0.0)
        outcome = group.reconstruct(
            state,
            earlier,
            lambda step, loss, event=event: report(replace(event, step=step, loss=loss)),  # type: ignore[misc]
        )
        state = outcome.state
        units += _unit_records(members, index, outcome, cache.power)
        groups.append(_group_record(names, outcome.result, time.perf_counter() - started))
        loss = cache.group_loss(members, outcome.losses)
        report(replace(event, step=event.steps, loss=loss, finished=True))
        cache.drop(members)
    cache.clear()
    return state, tuple(units), tuple(groups)


class _Outcome(NamedTuple):
    """The state of the network up to a group, and how it was reached.

    Attributes:
        state: the better one.
        result: figures of the optimization.
        losses: of the group's outputs under the state.
        nearest_losses: the same with the group rounded to nearest.
    """

    state: QuantizerState
    result: GroupResult
    losses: Mapping[str, float]
    nearest_losses: Mapping[str, float]


@dataclass(frozen=True)
class _Group:
    """One group of a plan, on the cached activations."""

    prepared: PreparedGraph
    cache: ActivationCache
    members: Sequence[Unit]
    recipe: Recipe
    seed: int

    def steps(self, earlier: QuantizerState) -> int:
        """Return how many steps the group gets; a single unit has taken some in an earlier run, perhaps."""
        return remaining_steps(
            self.recipe.reconstruct.steps, self._taken(earlier), len(self.members)
        )

    def reconstruct(
        self, before: QuantizerState, earlier: QuantizerState, report: Callable[[int, float], None]
    ) -> _Outcome:
        """Calibrate the group, optimize it, and keep the better of the result and rounding to nearest.

        Args:
            before: the state of the units before.
            earlier: the state of an earlier run, from which a single unit continues.
            report: called with steps and losses.
        """
        prepared, cache, members = self.prepared, self.cache, self.members
        of_float, quantized = cache.inputs(members)
        nearest = before | self._calibrate(before)
        learns = self.recipe.reconstruct.steps > 0 and self._has_variables()
        nearest_losses = self._run(nearest, keep=not learns)
        nearest_loss = cache.group_loss(members, nearest_losses)
        result = GroupResult(steps=0, first_loss=nearest_loss, last_loss=nearest_loss)
        steps, state, losses = self.steps(earlier), nearest, nearest_losses
        if learns:
            start = self._continue(nearest, earlier) if self._taken(earlier) else None
            if steps:
                state, result = optimize_group(
                    prepared,
                    members,
                    nearest,
                    GroupValues(of_float, quantized, cache.targets(members)),
                    self.recipe.reconstruct.model_copy(update={"steps": steps}),
                    self.seed,
                    report,
                    start,
                )
            elif start is not None:
                state = start
            losses = self._run(state, keep=True)
            if not cache.group_loss(members, losses) <= nearest_loss:  # also where it is no number
                state, result = nearest, replace(result, accepted=False)
                losses = self._run(nearest, keep=True)
        if len(members) == 1:
            given = self._taken(earlier) + steps
            state = state | QuantizerState(steps={members[0].name: given})
        return _Outcome(state, result, losses, nearest_losses)

    def _run(self, state: QuantizerState, keep: bool) -> dict[str, float]:
        bindings = self.prepared.bind(self.members, state)
        return self.cache.run_quantized(self.members, bindings, keep)

    def _taken(self, earlier: QuantizerState) -> int:
        return earlier.steps.get(self.members[0].name, 0) if len(self.members) == 1 else 0

    def _has_variables(self) -> bool:
        exclude = self.recipe.reconstruct.exclude
        activations = self.prepared.learned_activations(self.members).values()
        weights = self.prepared.learned_weights(self.members, exclude)
        return bool(weights) or any(one.learns for one in activations)

    def _continue(self, nearest: QuantizerState, earlier: QuantizerState) -> QuantizerState:
        """Return `nearest` with what an earlier run found for this group."""
        weights = (name for unit in self.members for name in unit.weights)
        activations = (name for unit in self.members for name in unit.activations)
        return nearest | QuantizerState(
            {name: earlier.weights[name] for name in weights},
            {name: earlier.activations[name] for name in activations},
        )

    def _calibrate(self, before: QuantizerState) -> QuantizerState:
        """Carry the float network's activations through the group; return its ranges, and its codes to nearest."""
        prepared = self.prepared
        activations = {}
        for unit in self.members:
            kept = self.recipe.activation.ranges.sample
            for name, sample in self.cache.run_float(unit, kept).items():
                quantizer = prepared.activations[name]
                activations[name] = calibrate_activation(
                    quantizer,
                    sample,
                    self.recipe.activation,
                    self.recipe.reconstruct.batch_size,
                )
        weights = prepared.float_weights(self.members)
        scalings = {name: prepared.weights[name].calibrated for name in weights}
        # A layer may share the quantizer of a unit before.
        read = {**before.activations, **activations}
        for bias in prepared.biases.values():
            if bias.weight in scalings and bias.activation in read:
                scalings[bias.weight] = bias.widen(read[bias.activation], scalings[bias.weight])
        return QuantizerState(
            {
                name: prepared.weights[name].round_to_nearest(weight, scalings[name])
                for name, weight in weights.items()
            },
            activations,
        )


def _unit_records(
    members: Sequence[Unit], group: int, outcome: _Outcome, powers: Mapping[str, float]
) -> list[UnitRecord]:
    records = []
    for unit in members:
        loss, nearest_loss = (
            sum(map(of.__getitem__, unit.outputs))
            for of in (outcome.losses, outcome.nearest_losses)
        )
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


def _group_record(names: tuple[str, ...], result: GroupResult, seconds: float) -> GroupRecord:
    return GroupRecord(
        units=names,
        steps=result.steps,
        first_loss=result.first_loss,
        last_loss=result.last_loss,
        undecided=result.undecided / max(1, result.roundings),
        accepted=result.accepted,
        seconds=seconds,
    )
