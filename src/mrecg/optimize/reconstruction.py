"""Reconstruct one group: from its ranges to the better of what was learned and rounding to nearest."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mrecg.cache.activation_cache import ActivationCache
from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError
from mrecg.graph.units import Unit
from mrecg.optimize.closed_form import round_in_closed_form
from mrecg.optimize.finite import (
    require_finite_losses,
    require_finite_power,
    require_finite_ranges,
)
from mrecg.optimize.group import GroupResult, GroupValues, optimize_group
from mrecg.planning.cost import remaining_steps
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.preparation.ranges import calibrate_activation
from mrecg.quantizers.activation_sample import Distribution
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.state import QuantizerState

__all__ = ["GroupOutcome", "GroupReconstruction", "calibrate_units", "round_to_nearest"]


class GroupOutcome(NamedTuple):
    """The state of the network up to a group, and how it was reached.

    Attributes:
        members: the group.
        state: the better one.
        result: figures of the optimization.
        losses: of the group's outputs under the state.
        nearest_losses: the same with the group rounded to nearest.
    """

    members: Sequence[Unit]
    state: QuantizerState
    result: GroupResult
    losses: Mapping[str, float]
    nearest_losses: Mapping[str, float]


@dataclass(frozen=True)
class GroupReconstruction:
    """The reconstruction of groups, one after the other.

    Attributes:
        prepared: the network.
        cache: activations of the images that tune.
        recipe: steps and everything else.
        earlier: the state of a run over single units, from which groups continue; empty where there was none.
    """

    prepared: PreparedGraph
    cache: ActivationCache
    recipe: Recipe
    earlier: QuantizerState

    def steps(self, members: Sequence[Unit]) -> int:
        """Return how many steps a group gets; its units have taken some in the earlier run, perhaps."""
        return remaining_steps(self.recipe, [self._taken(unit) for unit in members])

    def run(
        self,
        members: Sequence[Unit],
        before: QuantizerState,
        ranges: Mapping[str, Scaling],
        seed: int,
        report: Callable[[int, float], None],
    ) -> GroupOutcome:
        """Optimize a group, and keep the better of the result and rounding to nearest.

        A group whose loss becomes NaN or infinite keeps rounding to nearest. The cache holds the result's activations afterwards.

        Args:
            members: neighboring units.
            before: the state of the units before.
            ranges: calibrated scalings of its activation quantizers, from `calibrate_units`.
            seed: of batches and dropping.
            report: called with steps and losses.

        Raises:
            ModelError: even rounding to nearest gives no finite loss.
        """
        of_float, quantized = self.cache.inputs(members)
        nearest = round_to_nearest(self.prepared, members, before, ranges)
        learns = self.recipe.reconstruct.reads_images and self._has_variables(members)
        nearest_losses = self.advance(members, nearest, keep=not learns)
        require_finite_losses(members, nearest_losses)
        nearest_loss = self.cache.group_loss(members, nearest_losses)
        result = GroupResult(steps=0, first_loss=nearest_loss, last_loss=nearest_loss)
        steps, state, losses = self.steps(members), nearest, nearest_losses
        if learns:
            start = self._start(members, nearest)
            if steps:
                state, result = optimize_group(
                    self.prepared,
                    members,
                    nearest,
                    GroupValues(of_float, quantized, self.cache.targets(members)),
                    self.recipe.reconstruct.model_copy(update={"steps": steps}),
                    seed,
                    report,
                    start,
                    self.cache.shortages,
                )
            elif start is not None:
                state = start
            losses = self.advance(members, state, keep=True)
            if result.diverged or not self._is_better(members, losses, nearest_loss):
                state, result = nearest, _rolled_back(result, nearest_loss)
                losses = self.advance(members, nearest, keep=True)
        if len(members) == 1:
            given = self._taken(members[0]) + steps
            state = state | QuantizerState(steps={members[0].name: given})
        return GroupOutcome(members, state, result, losses, nearest_losses)

    def advance(
        self, members: Sequence[Unit], state: QuantizerState, keep: bool
    ) -> dict[str, float]:
        """Run quantized units on the cached activations; return the losses of their outputs.

        Args:
            members: neighboring units.
            state: of the network up to them.
            keep: whether the units after them will read the result.
        """
        return self.cache.run_quantized(members, self.prepared.bind(members, state), keep)

    def _is_better(
        self, members: Sequence[Unit], losses: Mapping[str, float], nearest_loss: float
    ) -> bool:
        finite = all(map(math.isfinite, losses.values()))
        return finite and self.cache.group_loss(members, losses) <= nearest_loss

    def _taken(self, unit: Unit) -> int:
        return self.earlier.steps.get(unit.name, 0)

    def _has_variables(self, members: Sequence[Unit]) -> bool:
        exclude = self.recipe.reconstruct.exclude
        activations = self.prepared.learned_activations(members).values()
        weights = self.prepared.learned_weights(members, exclude)
        return bool(weights) or any(one.learns for one in activations)

    def _start(self, members: Sequence[Unit], nearest: QuantizerState) -> QuantizerState | None:
        """Return the state that steps begin from, or that is the result without any; `None` where they begin at the float weights."""
        found = self._continue(members, nearest)
        if found is not None or self.recipe.reconstruct.rounding == "learned":
            return found
        exclude = self.recipe.reconstruct.exclude
        return round_in_closed_form(self.prepared, self.cache, members, nearest, exclude)

    def _continue(self, members: Sequence[Unit], nearest: QuantizerState) -> QuantizerState | None:
        """Return `nearest` with what the earlier run found for a group; `None` where the group starts anew."""
        continues = len(members) == 1 or self.recipe.plan.joined_start == "continued"
        if not continues or not all(map(self._taken, members)):
            return None
        weights = (name for unit in members for name in unit.weights)
        activations = (name for unit in members for name in unit.activations)
        return nearest | QuantizerState(
            {name: self.earlier.weights[name] for name in weights},
            {name: self.earlier.activations[name] for name in activations},
        )


def _rolled_back(result: GroupResult, nearest_loss: float) -> GroupResult:
    """Return the figures of a group that keeps rounding to nearest, whose loss stands for losses that are no numbers."""
    if result.diverged == 1:
        result = replace(result, first_loss=nearest_loss, last_loss=nearest_loss)
    return replace(result, accepted=False)


def calibrate_units(
    prepared: PreparedGraph, cache: ActivationCache, units: Sequence[Unit], recipe: Recipe
) -> tuple[dict[str, Scaling], dict[str, Distribution]]:
    """Carry the float network's activations through units; return the scalings of their activation quantizers, and what these read.

    Args:
        prepared: the network.
        cache: activations of the images that tune.
        units: neighbors.
        recipe: how ranges are found.

    Raises:
        RecipeError: a tensor is NaN or infinite, which no code is.
        ModelError: a range, or the power of a unit's outputs, is not finite.
    """
    batch, kept = recipe.reconstruct.images_per_step, recipe.activation.ranges.sample
    scalings, distributions = {}, {}
    for unit in units:
        for name, sample in cache.run_float(unit, kept).items():
            if not bool(sample.ends().isfinite().all()):
                tensor = next(one.tensor for one in prepared.placed if one.name == name)
                raise RecipeError(
                    f"The tensor '{tensor}' is NaN or infinite for some calibration image, and no grid holds that: leave it "
                    "in float, or use a finite number, such as -1e4 in a mask."
                )
            quantizer = prepared.activations[name]
            scalings[name] = calibrate_activation(quantizer, sample, recipe.activation, batch)
            distributions[name] = sample.distribution()
        require_finite_power(unit, cache.power[unit.name])
    require_finite_ranges(prepared, scalings)
    return scalings, distributions


def round_to_nearest(
    prepared: PreparedGraph,
    members: Sequence[Unit],
    before: QuantizerState,
    ranges: Mapping[str, Scaling],
) -> QuantizerState:
    """Return `before` with the calibrated ranges of a group, and its codes to nearest."""
    weights = prepared.float_weights(members)
    scalings = {name: prepared.weights[name].calibrated for name in weights}
    activations = {name: ranges[name] for unit in members for name in unit.activations}
    # A layer may share the quantizer of a unit before.
    read = {**before.activations, **activations}
    for bias in prepared.biases.values():
        if bias.weight in scalings and bias.activation in read:
            scalings[bias.weight] = bias.widen(read[bias.activation], scalings[bias.weight])
    return before | QuantizerState(
        {
            name: prepared.weights[name].round_to_nearest(weight, scalings[name])
            for name, weight in weights.items()
        },
        activations,
    )
