"""Optimize group by group along the network; try what the plan joins, and carry activations on."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mrecg.cache.activation_cache import ActivationCache
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.graph.units import Unit
from mrecg.optimize.group import GroupResult
from mrecg.optimize.judge import Judge
from mrecg.optimize.progress import Progress, Report
from mrecg.optimize.reconstruction import GroupOutcome, GroupReconstruction, calibrate_units
from mrecg.optimize.schedule import derive_seed
from mrecg.planning.cost import is_tried, planned_steps
from mrecg.preparation.judging import SplitImages
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.activation_sample import Distribution
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.losses import SMALLEST_POWER
from mrecg.quantizers.state import QuantizerState
from mrecg.records.plan import Join, Plan
from mrecg.records.record import GroupRecord, UnitRecord

__all__ = ["Reconstructed", "optimize_groups"]


class Reconstructed(NamedTuple):
    """The result of all groups.

    Attributes:
        state: of the network.
        units, groups: their records; a group that was not kept is recorded as its units.
        joins: those that were tried.
        distributions: what each activation quantizer reads.
    """

    state: QuantizerState
    units: tuple[UnitRecord, ...]
    groups: tuple[GroupRecord, ...]
    joins: tuple[Join, ...]
    distributions: Mapping[str, Distribution]


def optimize_groups(
    prepared: PreparedGraph,
    images: SplitImages,
    recipe: Recipe,
    plan: Plan,
    phase: str,
    report: Report,
    storage: Storage | None = None,
    previous: QuantizerState | None = None,
) -> Reconstructed:
    """Reconstruct every group of a plan.

    Args:
        prepared: the network.
        images: the calibration images of this process; those for the groups tune, those that judge decide on joins.
        recipe: steps and everything else.
        plan: fits the network.
        phase: passed on to `report`, and part of the seeds.
        report: called with where the run is.
        storage: where activations are stored; without limits when absent.
        previous: the state of a run over single units, from which groups continue.
    """
    storage = storage or Storage(prepared.device)
    cache = ActivationCache(prepared.chain, images.groups, prepared.device, storage)
    reconstruction = GroupReconstruction(prepared, cache, recipe, previous or QuantizerState())
    judge = None
    if any(is_tried(recipe, group) for group in plan.groups):
        judge = Judge(prepared, images.judging, storage)
    state = QuantizerState()
    units: list[UnitRecord] = []
    groups: list[GroupRecord] = []
    joins: list[Join] = []
    distributions: dict[str, Distribution] = {}
    for index, names in enumerate(plan.groups):
        started, first = time.perf_counter(), len(units)
        members = prepared.chain.units[first : first + len(names)]
        planned = planned_steps(recipe, members, reconstruction.earlier.steps)
        steps = sum(steps for _, steps in planned)
        event = Progress(phase, names, index, len(plan.groups), 0, steps)
        report(event)
        group_run = _GroupRun(reconstruction, judge, members, first, event, report)
        outcomes, join, read = group_run.run(state)
        state = outcomes[-1].state
        joins += [join] if join else []
        distributions |= read
        seconds = (time.perf_counter() - started) / len(outcomes)
        for outcome in outcomes:
            units += _unit_records(outcome, len(groups), cache.power)
            groups.append(_group_record(outcome, seconds))
    cache.clear()
    if judge is not None:
        judge.clear()
    return Reconstructed(state, tuple(units), tuple(groups), tuple(joins), distributions)


@dataclass(frozen=True)
class _GroupRun:
    """One planned group.

    Attributes:
        reconstruction: what it is reconstructed from.
        judge: carries along the images that decide on joins; `None` where no join is tried.
        members: its units.
        first: the position of its first unit in the chain; seeds follow positions, so that a unit that is not joined gets the
            same batches in every plan.
        event: where the run is.
        report: called with that and the steps.
    """

    reconstruction: GroupReconstruction
    judge: Judge | None
    members: Sequence[Unit]
    first: int
    event: Progress
    report: Report

    def run(
        self, before: QuantizerState
    ) -> tuple[list[GroupOutcome], Join | None, Mapping[str, Distribution]]:
        """Reconstruct the group behind a state.

        Returns:
            How, in one part or unit by unit; the join if it was tried; and what the activation quantizers read.
        """
        prepared, cache = self.reconstruction.prepared, self.reconstruction.cache
        recipe, members = self.reconstruction.recipe, self.members
        ranges, read = calibrate_units(prepared, cache, members, recipe)
        if self.judge is not None:
            self.judge.run_float(members)
        if self.judge is not None and is_tried(recipe, members):
            outcomes, join = self._try_join(before, ranges, self.judge)
        else:
            outcomes, join = [self._run(members, self.first, before, ranges, 0)], None
        last = outcomes[-1]
        if self.judge is not None:
            self.judge.run_quantized(members, last.state, keep=True)
            self.judge.drop(members)
        loss = cache.group_loss(last.members, last.losses)
        end = self.event.at(self.event.steps, loss, cache.group_power(last.members))
        self.report(replace(end, finished=True))
        cache.drop(members)
        return outcomes, join, read

    def _try_join(
        self, before: QuantizerState, ranges: Mapping[str, Scaling], judge: Judge
    ) -> tuple[list[GroupOutcome], Join]:
        """Optimize the units one by one, then jointly; return what is better on the judge's images, and both losses."""
        state, separate, done = before, [], 0
        for position, unit in enumerate(self.members, start=self.first):
            separate.append(self._run([unit], position, state, ranges, done))
            state = separate[-1].state
            done += self.reconstruction.steps([unit])
        joint = self._run(self.members, self.first, before, ranges, done)
        separate_loss = judge.run_quantized(self.members, state, keep=False)
        joint_loss = judge.run_quantized(self.members, joint.state, keep=False)
        kept = joint_loss < separate_loss
        if not kept:
            self.reconstruction.advance(self.members, state, keep=True)
        names = tuple(unit.name for unit in self.members)
        join = Join(units=names, separate_loss=separate_loss, joint_loss=joint_loss, kept=kept)
        return [joint] if kept else separate, join

    def _run(
        self,
        members: Sequence[Unit],
        position: int,
        before: QuantizerState,
        ranges: Mapping[str, Scaling],
        done: int,
    ) -> GroupOutcome:
        """Optimize some of the units; `done` steps of the whole group were taken before."""
        recipe, cache, report = self.reconstruction.recipe, self.reconstruction.cache, self.report
        names = tuple(unit.name for unit in members)
        event, power = replace(self.event, group=names), cache.group_power(members)
        return self.reconstruction.run(
            members,
            before,
            ranges,
            derive_seed(recipe.seed, self.event.phase, position),
            lambda step, loss: report(event.at(done + step, loss, power)),
        )


def _unit_records(
    outcome: GroupOutcome, group: int, powers: Mapping[str, float]
) -> list[UnitRecord]:
    records = []
    for unit in outcome.members:
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


def _group_record(outcome: GroupOutcome, seconds: float) -> GroupRecord:
    result: GroupResult = outcome.result
    return GroupRecord(
        units=tuple(unit.name for unit in outcome.members),
        steps=result.steps,
        first_loss=result.first_loss,
        last_loss=result.last_loss,
        undecided=result.undecided / max(1, result.roundings),
        accepted=result.accepted,
        seconds=seconds,
        curve=result.curve,
    )
