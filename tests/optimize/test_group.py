"""One group: what its steps read, how far they move, and when they end."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.graph.units import Unit
from mrecg.optimize import step
from mrecg.optimize.all_groups import optimize_groups
from mrecg.optimize.group import MOST_UNDECIDED
from mrecg.optimize.step import Batch, Step
from mrecg.planning.joint_plan import single_plan
from mrecg.preparation.judging import split_images
from mrecg.preparation.prepared_graph import prepare_graph
from mrecg.quantizers.state import QuantizerState
from mrecg.records.record import GroupRecord
from placements import Prescribed
from quick import GROUPS_ALONE


def optimize(name: str, **overrides: object) -> tuple[QuantizerState, tuple[GroupRecord, ...]]:
    """Optimize the residual toy, every unit alone."""
    settings = GROUPS_ALONE | {f"reconstruct.{key}": value for key, value in overrides.items()}
    recipe = mrecg.preset(name, settings)
    prepared = prepare_graph(toys.make("residual"), toys.images(2), recipe, None)
    plan = single_plan(prepared.chain.units)
    images = split_images(toys.images(32), recipe)
    found = optimize_groups(prepared, images, recipe, plan, "tune", lambda event: None)
    return found.state, found.groups


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_learning_reads_elements_of_both_networks(
    probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QDrop, eq. 8: each element behind the quantized units, or with 1 - p from the float network."""
    batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    read: list[dict[str, Tensor]] = []
    take, run_units = Step.take, step.run_quantized_units

    def watched(self: Step, batch: Batch, *others: Any) -> Tensor:
        batches.append(({n: v.clone() for n, v in batch.of_float.items()}, dict(batch.quantized)))
        return take(self, batch, *others)

    def reads(
        units: Sequence[Unit], given: Mapping[str, Tensor], bindings: Mapping[str, object]
    ) -> dict[str, Tensor]:
        read.append({name: value.clone() for name, value in given.items()})
        return run_units(units, given, bindings)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "take", watched)
    monkeypatch.setattr(step, "run_quantized_units", reads)
    optimize("w2a2-qdrop", keep_quantized_probability=probability)
    from_quantized, compared = 0, 0
    for (of_float, quantized), given in zip(batches, read, strict=True):
        assert given.keys() == quantized.keys()
        for name, value in of_float.items():
            differ = value != quantized[name]
            kept = given[name] == quantized[name]
            torch.testing.assert_close(given[name][~kept], value[~kept], rtol=1e-5, atol=1e-6)
            from_quantized += int((kept & differ).sum())
            compared += int(differ.sum())
    if probability == 1:
        assert compared == 0
        assert all(
            torch.equal(g[n], q[n]) for (_, q), g in zip(batches, read, strict=True) for n in q
        )
    else:
        assert compared > 1000
        assert from_quantized / compared == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize("unit", ["relative", "absolute"])
def test_a_step_moves_by_the_rate_in_its_unit(unit: str) -> None:
    """Adam's first step is the rate itself, whatever the gradient: of the activation scale, or absolute as in LSQ's code."""
    rate = 0.01
    settings = {"activation_rate": rate, "activation_rate_unit": unit}
    states = [optimize("w8a4-brecq", steps=steps, **settings)[0] for steps in (0, 1)]
    before, after = ({n: float(s.scale) for n, s in one.activations.items()} for one in states)
    moved = {name for name in before if before[name] != after[name]}
    assert moved
    assert max(before.values()) > 2 * min(before.values())
    for name in moved:
        distance = abs(after[name] - before[name])
        expected = rate * before[name] if unit == "relative" else rate
        assert distance == pytest.approx(
            expected, rel=0.2
        )  # less by Adam's ε, where a slope is tiny


def test_scales_that_a_target_prescribes_are_not_learned() -> None:
    """Neither group by group nor in the network as a whole; roundings are."""
    settings = GROUPS_ALONE | {"network.steps": 40, "reconstruct.activation_rate": 0.1}
    recipe = mrecg.preset("w2a8-brecq", settings | {"reconstruct.steps": 40})
    quantized = mrecg.quantize(
        toys.make("residual"), toys.images(32), recipe=recipe, quantizer=Prescribed(recipe)
    )
    activations = [one for one in quantized.record.quantizers if one.kind == "activation"]
    assert {one.scales for one in activations} == {(1 / 64, 1 / 64)}
    assert all(unit.loss < unit.nearest_loss for unit in quantized.record.units[:-1])
    assert quantized.record.network is not None


@pytest.mark.usefixtures("unchecked_shapes")
def test_every_rounding_is_decided_at_the_default_budget() -> None:
    """Of 500 steps; none is left to a hard threshold that the loss has not seen."""
    _, groups = optimize("w2a4-brecq", steps=500)
    assert [group.undecided for group in groups] == pytest.approx([0] * 5, abs=MOST_UNDECIDED)


def test_a_budget_that_is_too_short_is_recorded() -> None:
    """A tenth of the steps leaves roundings undecided, and the record says how many."""
    _, groups = optimize("w2a4-brecq", steps=50)
    assert max(group.undecided for group in groups) > 0.1


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_group_stops_when_nothing_moves_any_more() -> None:
    steps = {}
    for early_stop in (True, False):
        _, groups = optimize("w4a8-brecq", penalty=10.0, steps=200, early_stop=early_stop)
        steps[early_stop] = [group.steps for group in groups]
        assert all(group.undecided <= MOST_UNDECIDED for group in groups if group.steps < 200)
    assert set(steps[False]) == {200}
    assert min(steps[True]) < 200


def test_scales_alone_do_not_stop_early() -> None:
    """Where no rounding is learned, none is undecided; the noise of dropping would end every group."""
    _, groups = optimize("w4a2-qdrop", steps=100, early_stop=True, exclude=["*"])
    assert {group.steps for group in groups if group.steps} == {100}


def test_no_step_leaves_a_tensor_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that outlived its step would keep the large ones around it apart, and memory would grow with the steps."""
    left: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    take = Step.take

    def watched(self: Step, batch: Batch, *others: Any) -> Tensor:
        alive.append(sum(tensor() is not None for tensor in left))
        loss = take(self, batch, *others)
        left.extend(map(weakref.ref, (loss, *batch.quantized.values(), *batch.targets.values())))
        return loss

    monkeypatch.setattr(Step, "take", watched)
    optimize("w2a2-qdrop", steps=40)
    assert len(left) > 100
    assert max(alive) <= 3  # the last step's, which its caller still holds
