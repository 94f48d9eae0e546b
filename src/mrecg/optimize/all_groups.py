"""Optimize group by group along the network; try what the plan joins, and carry activations on."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mrecg import distributed
from mrecg.cache.activation_cache import ActivationCache
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.graph.units import Unit
from mrecg.optimize.checkpoints import Checkpoints, GroupCheckpoint
from mrecg.optimize.group import GroupResult
from mrecg.optimize.judge import Judge
from mrecg.optimize.progress import Progress, Report
from mrecg.optimize.reconstruction import GroupOutcome, GroupReconstruction, calibrate_units
from mrecg.optimize.schedule import derive_seed
from mrecg.planning.cost import IMAGES_OF_LOSSES, is_tried, planned_steps
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
    checkpoints: Checkpoints | None = None,
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
        checkpoints: keeps every finished group; those that it gives back are not optimized again.
    """
    storage = storage or Storage(prepared.device)
    # Where no code depends on images, the quantized network runs for the record's losses only.
    quantized = (
        None if recipe.reconstruct.reads_images else max(1, IMAGES_OF_LOSSES // distributed.count())
    )
    cache = ActivationCache(prepared.chain, images.groups, prepared.device, storage, quantized)
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
        first = len(units)
        members = prepared.chain.units[first : first + len(names)]
        planned = planned_steps(recipe, members, reconstruction.earlier.steps)
        event = Progress(phase, names, index, len(plan.groups), 0, sum(n for _, n in planned))
        report(event)
        run = _GroupRun(reconstruction, judge, members, first, event, report)
        found = checkpoints.group(phase, index) if checkpoints else None
        if found is not None:
            distributions |= run.skip(state | found.state)
        else:
            found, read = run.run(state, len(groups))
            distributions |= read
            if checkpoints:
                checkpoints.keep_group(phase, index, found)
        state = state | found.state
        units += found.units
        groups += found.groups
        joins += [found.join] if found.join else []
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
        self, before: QuantizerState, place: int
    ) -> tuple[GroupCheckpoint, Mapping[str, Distribution]]:
        """Reconstruct the group behind a state, in one part or unit by unit.

        Args:
            before: of the network up to the group.
            place: of the group's first record among those of all groups.

        Returns:
            What the group adds, and what its activation quantizers read.
        """
        prepared, cache = self.reconstruction.prepared, self.reconstruction.cache
        recipe, members, started = self.reconstruction.recipe, self.members, time.perf_counter()
        ranges, read = calibrate_units(prepared, cache, members, recipe)
        if self.judge is not None:
            self.judge.run_float(members)
        if self.judge is not None and is_tried(recipe, members):
            outcomes, join = self._try_join(before, ranges, self.judge)
        else:
            outcomes, join = [self._run(members, self.first, before, ranges, 0)], None
        last = outcomes[-1]
        self._finish(last.members, last.state, cache.group_loss(last.members, last.losses))
        seconds = (time.perf_counter() - started) / len(outcomes)
        found = GroupCheckpoint(
            state=last.state.without(before),
            units=tuple(
                record
                for group, outcome in enumerate(outcomes, start=place)
                for record in _unit_records(outcome, group, cache.power)
            ),
            groups=tuple(_group_record(outcome, seconds) for outcome in outcomes),
            join=join,
        )
        return found, read

    def skip(self, state: QuantizerState) -> Mapping[str, Distribution]:
        """Carry activations through a finished group, with the state that it ended with; return what its quantizers read."""
        prepared, cache = self.reconstruction.prepared, self.reconstruction.cache
        recipe, members = self.reconstruction.recipe, self.members
        _, read = calibrate_units(prepared, cache, members, recipe)
        if self.judge is not None:
            self.judge.run_float(members)
        losses = self.reconstruction.advance(members, state, keep=True)
        self._finish(members, state, cache.group_loss(members, losses))
        return read

    def _finish(self, last: Sequence[Unit], state: QuantizerState, loss: float) -> None:
        """Carry the judging images on, too; report the loss of the last units, and free what no unit after the group reads."""
        members = self.members
        if self.judge is not None:
            self.judge.run_quantized(members, state, keep=True)
            self.judge.drop(members)
        end = self.event.at(self.event.steps, loss, self.reconstruction.cache.group_power(last))
        self.report(replace(end, finished=True))
        self.reconstruction.cache.drop(members)

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
        diverged=result.diverged,
        precision=result.precision,
    )
