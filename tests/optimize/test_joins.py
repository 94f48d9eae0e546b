"""Joined groups: what they start from, which steps they get, and what keeps a join."""

from collections.abc import Sequence

import pytest

import mrecg
import toys
from mrecg import pipeline
from mrecg.cache.activation_cache import (
    run_float_units,
    run_quantized_units,
)
from mrecg.graph.units import Unit
from mrecg.optimize import all_groups, reconstruction
from mrecg.optimize.group import GroupResult
from mrecg.optimize.judge import Judge
from mrecg.optimize.progress import Progress
from mrecg.planning.joint_plan import single_plan
from mrecg.preparation.judging import split_images
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.state import QuantizerState
from quick import GROUPS_ALONE
from reconstructed import JOINED, optimize
from states import are_equal


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_run_for_the_plan_may_take_all_steps(fraction: float) -> None:
    """Then units that stay single keep what it found."""
    recipe = mrecg.preset(
        "w2a2-qdrop-mrecg", GROUPS_ALONE | {"plan.join": "loss", "plan.loss_steps": fraction}
    )
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    for group in record.groups:
        assert group.steps == len(group.units) * round(8 * (1 - fraction))


def test_units_continue_from_the_run_for_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and joined: with the codes and scales that it left, not anew from the float weights."""
    left: list[QuantizerState] = []
    continued: list[tuple[str, ...]] = []
    originals = all_groups.optimize_groups, reconstruction.optimize_group

    def remember(*arguments: object) -> all_groups.Reconstructed:
        found = originals[0](*arguments)  # type: ignore[arg-type]
        left.append(found.state)
        return found

    def watched(
        prepared: PreparedGraph, units: Sequence[Unit], *rest: object
    ) -> tuple[QuantizerState, GroupResult]:
        start = rest[5]
        if start is not None:
            assert isinstance(start, QuantizerState)
            assert len(left) == 1
            for unit in units:
                for name in unit.weights:
                    assert start.weights[name] is left[0].weights[name]
                for name in unit.activations:
                    assert start.activations[name] is left[0].activations[name]
            continued.append(tuple(unit.name for unit in units))
        return originals[1](prepared, units, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "optimize_groups", remember)
    monkeypatch.setattr(reconstruction, "optimize_group", watched)
    settings = {"plan.join": "loss", "plan.count": 1}
    recipe = mrecg.preset("w2a2-qdrop-mrecg", GROUPS_ALONE | settings)
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    names = [unit.name for unit in record.units]
    (join,) = record.plan.joins
    assert sorted(continued) == sorted([*[(name,) for name in names], join.units])
    assert left[0].steps == dict.fromkeys(names, 2)
    alone = set(names) - set(join.units) if join.kept else names
    assert left[1].steps == dict.fromkeys(alone, 8)


@pytest.mark.parametrize(("start", "is_anew"), [("anew", True), ("continued", False)])
def test_joined_units_may_start_anew(
    residual: PreparedGraph, monkeypatch: pytest.MonkeyPatch, start: str, is_anew: bool
) -> None:
    """As in the paper, which knows no run before."""
    given: list[object] = []
    original = reconstruction.optimize_group

    def watched(*arguments: object) -> tuple[QuantizerState, GroupResult]:
        given.append(arguments[7])
        return original(*arguments)  # type: ignore[arg-type]

    settings = {"plan.keep": "all", "plan.joined_start": start}
    recipe = mrecg.preset("w2a2-qdrop", GROUPS_ALONE | settings)
    previous, _ = optimize(residual, recipe.override({"reconstruct.steps": 4}))
    monkeypatch.setattr(reconstruction, "optimize_group", watched)
    _, groups = optimize(residual, recipe, JOINED, previous)
    assert [one is None for one in given] == [len(g.units) > 1 and is_anew for g in groups]
    assert [group.steps for group in groups] == [
        len(group.units) * (8 if len(group.units) > 1 and is_anew else 4) for group in groups
    ]


def test_a_group_may_get_the_steps_of_one_unit(residual: PreparedGraph) -> None:
    settings = {"plan.keep": "all", "plan.joined_steps": "per-group"}
    _, groups = optimize(residual, mrecg.preset("w2a2-qdrop", GROUPS_ALONE | settings), JOINED)
    assert {group.steps for group in groups} == {8}


@pytest.mark.parametrize("better", ["joined", "alone"])
def test_a_join_is_kept_where_images_that_tuned_nothing_are_nearer(
    residual: PreparedGraph, monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    """The result is that of a run that joins without trying, or of blocks, bit for bit; the calibration images decide nothing."""
    original = Judge.run_quantized

    def changed(self: Judge, units: Sequence[Unit], state: QuantizerState, keep: bool) -> float:
        original(self, units, state, keep)
        trials.append(keep)
        is_joint = trials.count(False) == 2
        return float(is_joint != (better == "joined"))

    trials: list[bool] = []
    monkeypatch.setattr(Judge, "run_quantized", changed)
    recipe = mrecg.preset("w2a2-qdrop", GROUPS_ALONE)
    images = split_images(toys.images(32), recipe)
    found = all_groups.optimize_groups(residual, images, recipe, JOINED, "tune", lambda event: None)
    (join,) = found.joins
    assert join.kept == (better == "joined")
    assert (join.separate_loss, join.joint_loss) == ((1, 0) if join.kept else (0, 1))
    plan = JOINED if join.kept else single_plan(residual.chain.units)
    expected, groups = optimize(residual, recipe.override({"plan.keep": "all"}), plan)
    assert are_equal(found.state, expected)
    assert [group.units for group in found.groups] == [group.units for group in groups]
    assert [unit.group for unit in found.units] == [
        index for index, group in enumerate(groups) for _ in group.units
    ]


def test_the_losses_of_a_join_are_those_of_the_judging_images(residual: PreparedGraph) -> None:
    """Recomputed from the images on, for the state that was kept."""
    recipe = mrecg.preset("w2a2-qdrop", GROUPS_ALONE)
    images = split_images(toys.images(32), recipe)
    found = all_groups.optimize_groups(residual, images, recipe, JOINED, "tune", lambda event: None)
    (join,) = found.joins
    units = residual.chain.units[:4]
    source = residual.chain.named(images.judging)
    made = run_quantized_units(units, source, residual.bind(units, found.state))
    wanted = run_float_units(units, source)
    name = units[-1].outputs[0]
    error = (made[name] - wanted[name]).square().mean() / wanted[name].square().mean()
    kept = join.joint_loss if join.kept else join.separate_loss
    assert kept == pytest.approx(float(error), rel=1e-4)


def test_a_join_that_is_tried_costs_the_steps_of_its_units_again(residual: PreparedGraph) -> None:
    """Whatever is kept, the units on the way to it got equal steps."""
    events: list[Progress] = []
    recipe = mrecg.preset("w2a2-qdrop", GROUPS_ALONE)
    found = all_groups.optimize_groups(
        residual,
        split_images(toys.images(32), recipe),
        recipe,
        JOINED,
        "tune",
        lambda event: events.append(event) if isinstance(event, Progress) else None,
    )
    assert sum(group.steps for group in found.groups) == 8 * len(found.units)
    done = {event.group: event.step for event in events if not event.finished}
    assert done == {
        ("stem",): 8,
        ("stage.one",): 8,
        ("stage.two",): 8,
        ("stage.three",): 16,
        ("stage.two", "stage.three"): 32,
        ("fc",): 8,
    }
