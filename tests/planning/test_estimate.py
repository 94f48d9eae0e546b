"""The estimate of memory and time: against what a run holds, and against steps counted on paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import mrecg
import toys
from mrecg import pipeline
from mrecg.cache.storage import Storage
from mrecg.cache.stored import CachedActivation
from mrecg.errors import DataError, PlanError
from mrecg.optimize import network, trial
from mrecg.optimize.progress import Progress
from mrecg.optimize.step import Drawn, Step
from mrecg.planning import estimate
from mrecg.planning.estimate import Estimate
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.records.plan import Plan

QUICK = {"reconstruct.steps": 2, "reconstruct.batch_size": 8}


def prepare(
    recipe: mrecg.Recipe, images: int = 16, memory: int | None = None
) -> mrecg.PreparedModel:
    return mrecg.prepare(toys.make("residual"), toys.images(images), recipe=recipe, memory=memory)


@pytest.mark.parametrize("toy", ["residual", "dense", "two-outputs"])
@pytest.mark.parametrize("plan", ["blocks", "tried", "kept"])
def test_the_estimate_counts_every_value_that_is_held(
    toy: str, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where joins are tried, also what the images that judge make."""
    held: list[dict[str, int]] = []
    original = Storage.allocate

    def watched(self: Storage, images: int, shape: Sequence[int]) -> CachedActivation:
        stored = original(self, images, shape)
        held.append(dict(self.held))
        return stored

    monkeypatch.setattr(Storage, "allocate", watched)
    model = toys.make(toy)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = 4 * 3 * sum(layer.weight.numel() for layer in layers)
    events: list[Progress | Estimate] = []
    joins = {"plan.join": "capacity", "plan.count": "all"}
    keeps = {"blocks": {}, "tried": joins, "kept": joins | {"plan.keep": "all"}}
    recipe = mrecg.preset("w4a4-brecq", QUICK | keeps[plan])
    mrecg.quantize(model, toys.images(16), recipe=recipe, progress=events.append)
    (found,) = (event for event in events if isinstance(event, Estimate))
    assert found.values == max(one["host"] for one in held)
    assert found.memory == found.values + found.working + weights
    assert not any(one["device"] for one in held)


@pytest.mark.parametrize("join", ["none", "capacity", "loss"])
def test_the_estimate_has_every_phase_and_the_steps_that_are_taken(
    join: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the plan's run has taken need not be taken again; a join that is tried takes its units' steps twice."""
    taken = {"groups": 0, "network": 0}
    for name, owner, attribute in (
        ("groups", Step, "__call__"),
        ("network", network, "_accumulate"),
    ):
        original = getattr(owner, attribute)

        def counted(*given: Any, _name: str = name, _original: Any = original, **more: Any) -> Any:
            taken[_name] += 1
            return _original(*given, **more)

        monkeypatch.setattr(owner, attribute, counted)
    settings = {"plan.join": join, "plan.count": 1, "reconstruct.early_stop": False}
    steps = {"reconstruct.steps": 8, "network.steps": 3, "reconstruct.batch_size": 8}
    prepared = prepare(mrecg.preset("w4a4-brecq", settings | steps))
    units = [unit.name for unit in prepared.graph.chain.units]
    monkeypatch.setattr(pipeline, "try_steps", lambda *given: dict.fromkeys(units, 1.0))
    events: list[Progress | Estimate] = []
    before, record = prepared.estimate(), prepared.quantize(progress=events.append).record
    (during,) = (one for one in events if isinstance(one, Estimate))
    assert list(before.phases) == list(record.seconds)
    assert all(value > 0 for value in before.phases.values())
    assert before.seconds == sum(before.phases.values())
    assert list(during.phases) == ["reconstruction", "network", "freeze"]  # those ahead
    in_groups = taken["groups"] - (2 * 5 if join == "loss" else 0)
    assert during.steps == {"reconstruction": in_groups, "network": 3}
    assert before.steps["plan"] == taken["groups"] - in_groups
    assert before.steps["network"] == taken["network"] == 3
    if join != "loss":  # else that of the capacity stands in for the plan
        assert before.steps["reconstruction"] == in_groups


def seconds_are(
    monkeypatch: pytest.MonkeyPatch, forward: Mapping[str, float], step: Mapping[str, float]
) -> None:
    """Let every unit take so long, per image."""
    monkeypatch.setattr(estimate, "_forward_seconds", lambda *given: forward)
    monkeypatch.setattr(pipeline, "try_steps", lambda *given: step)


def test_the_estimate_of_time_follows_steps_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"reconstruct.steps": 40, "reconstruct.batch_size": 8, "network.steps": 20}
    recipe = mrecg.preset("w4a4-brecq", settings)
    prepared = prepare(recipe, 32)
    forward = {unit.name: 2.0**at for at, unit in enumerate(prepared.graph.chain.units)}
    step = {name: 100 * one for name, one in forward.items()}
    seconds_are(monkeypatch, forward, step)
    total, phases = sum(forward.values()), prepared.estimate().phases
    assert phases["plan"] == total * 32  # every image is looked at
    more = {"reconstruct.steps": 50, "network.steps": 70}
    further = prepare(recipe.override(more), 32).estimate().phases
    grown = {
        name: (further[name] - phases[name]) / (8 * total) for name in ("reconstruction", "network")
    }
    of_network = 100 * estimate._NETWORK_STEP + 1  # which runs in float, too
    assert grown == pytest.approx(
        {"reconstruction": 10 * 100 * estimate._GROUP_STEP, "network": 50 * of_network}
    )
    # Seven eighths of the images tune, the rest judges in eight views.
    none = prepare(recipe.override({"reconstruct.steps": 0, "network.steps": 0}), 32).estimate()
    quantized = estimate._QUANTIZED_PASS
    assert none.phases["reconstruction"] == pytest.approx(total * 32 * (1 + quantized))
    assert none.phases["network"] == none.phases["plan"] == 0
    assert phases["network"] == pytest.approx(
        total * (28 + 2 * 32 * (1 + quantized)) + 8 * total * 20 * of_network
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trial_steps_are_those_of_the_run(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every unit, in the run's precision, with its batch; what learns nothing takes none."""
    taken: list[tuple[tuple[str, ...], str, int]] = []
    original = Step.__call__

    def noted(self: Step, drawn: Drawn, *given: Any) -> Any:
        units = tuple(unit.name for unit in self.units)
        taken.append((units, self.precision, len(drawn.chosen)))
        return original(self, drawn, *given)

    monkeypatch.setattr(Step, "__call__", noted)
    settings = {"reconstruct.steps": 40, "reconstruct.batch_size": 6, "network.steps": 20}
    recipe = mrecg.preset("w4a4-qdrop", settings | {"reconstruct.precision": precision})
    prepared = prepare(recipe)
    found = trial.try_steps(prepared.graph, prepared.images, recipe)
    names = [unit.name for unit in prepared.graph.chain.units]
    assert list(found) == names
    assert all(value > 0 for value in found.values())
    assert taken == [((name,), precision, 6) for name in names for _ in range(trial._STEPS)]
    taken.clear()
    to_nearest = mrecg.preset("w4a4-rtn")
    assert set(trial.try_steps(prepared.graph, prepared.images, to_nearest).values()) == {0.0}
    assert not taken


@pytest.mark.parametrize("progress", [False, print])
def test_no_steps_are_tried_for_nobody(progress: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = pipeline.try_steps

    def noted(*given: Any) -> Any:
        tried.append(1)
        return original(*given)

    monkeypatch.setattr(pipeline, "try_steps", noted)
    prepare(mrecg.preset("w4a4-brecq", QUICK)).quantize(progress=progress)
    assert len(tried) == (progress is not False)


def test_nothing_of_a_prepared_model_changes_with_its_estimate() -> None:
    """So a run behind an estimate is bit for bit the run without."""
    recipe = mrecg.preset("w4a4-qdrop", QUICK | {"network.steps": 2})
    plain, estimated = prepare(recipe), prepare(recipe)
    estimated.estimate()
    states = [one.quantize(progress=False).program.state_dict for one in (plain, estimated)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_capacity_stands_in_for_a_loss_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would have to find it, and an estimate runs no unit on more than a few images."""
    seconds = dict.fromkeys(["stem", "stage.one", "stage.two", "stage.three", "fc"], 1.0)
    seconds_are(monkeypatch, seconds, seconds)
    settings = QUICK | {"plan.count": 1, "plan.keep": "all", "reconstruct.steps": 8}
    by_loss = mrecg.preset("w4a4-brecq", settings | {"plan.join": "loss"})
    by_capacity = by_loss.override({"plan.join": "capacity"})
    of_loss, of_capacity = (prepare(one).estimate() for one in (by_loss, by_capacity))
    assert of_loss.values == of_capacity.values
    assert of_loss.working == of_capacity.working
    assert of_loss.seconds > of_capacity.seconds
    # A plan that is given needs no run.
    plan = prepare(by_capacity).plan()
    given = prepare(by_loss).estimate(plan)
    assert (given.values, given.steps) == (of_capacity.values, of_capacity.steps)


def test_an_estimate_for_other_images_and_another_plan() -> None:
    """Of which every eighth is set aside."""
    prepared = prepare(mrecg.preset("w4a4-brecq", QUICK), 16)
    given, more = prepared.estimate(), prepared.estimate(images=160)
    assert more.values == 10 * given.values
    assert given.working < more.working < 10 * given.working  # the samples of more images
    joined = Plan(groups=(("stem",), ("stage.one", "stage.two", "stage.three"), ("fc",)))
    assert prepared.estimate(joined).working > given.working
    assert prepare(prepared.recipe, 16, memory=1000).estimate().files == given.values - 1000


def test_the_estimate_counts_the_samples_of_ranges() -> None:
    """16,384 values of each tensor and image at most: here fewer, all of them, in two copies of the largest tensor besides."""
    recipe = mrecg.preset("w4a4-brecq", QUICK | {"network.steps": 0})
    whole = prepare(recipe, 16).estimate(images=4096).working
    few = recipe.override({"activation.ranges.sample": 16})
    sampled = prepare(few, 16).estimate(images=4096).working
    assert sampled < whole / 4
    assert whole % (4 * 4096) == 0  # bytes of a float, of every image


def test_the_estimate_counts_the_masks_of_qdrop() -> None:
    groups_only = {"network.steps": 0}
    recipes = [mrecg.preset(f"w4a4-{name}", groups_only) for name in ("brecq", "qdrop")]
    brecq, qdrop = (prepare(recipe, 8).estimate(images=64).working for recipe in recipes)
    assert qdrop - brecq == 4 << 20


@pytest.mark.parametrize("join", ["none", "capacity", "loss"])
def test_the_estimate_arrives_once_before_the_groups(join: str) -> None:
    events: list[Progress | Estimate] = []
    recipe = mrecg.preset("w4a4-brecq", QUICK | {"plan.join": join})
    prepared = prepare(recipe)
    prepared.quantize(progress=events.append)
    phases = ["the estimate" if isinstance(one, Estimate) else one.phase for one in events]
    assert phases.count("the estimate") == 1
    at = phases.index("the estimate")
    assert set(phases[:at]) == {"estimate"} | ({"plan"} if join == "loss" else set())
    assert phases[at + 1 : at + 3] == ["estimate", "tune"]
    (found,) = (one for one in events if isinstance(one, Estimate))
    assert found.values > 0
    if join != "loss":
        assert found.memory == prepared.estimate().memory


def test_too_few_images_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = mrecg.preset("w4a4-brecq", QUICK | {"plan.join": "loss"})
    prepared = prepare(recipe, 4)
    assert prepared.estimate(images=16).values > 0  # which says what more images would take
    monkeypatch.setattr(PreparedGraph, "bind", None)
    message = "has 4 images, expected at least 8"
    for refused in (prepared.check, prepared.plan, prepared.quantize):
        with pytest.raises(DataError, match=message):
            refused()
    single = Plan(groups=tuple((unit.name,) for unit in prepared.graph.chain.units))
    with pytest.raises(DataError, match=message):
        prepared.check(single)
    # Rounding to nearest takes no batches, and a plan by capacity no values.
    prepare(mrecg.preset("w4a4-rtn"), 4).check()
    assert prepare(recipe.override({"plan.join": "capacity"}), 4).plan().metric


def test_a_foreign_plan_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(mrecg.preset("w4a4-brecq", QUICK))
    monkeypatch.setattr(PreparedGraph, "bind", None)
    foreign = Plan(groups=(("stem",), ("other",)))
    for refused in (prepared.check, prepared.quantize):
        with pytest.raises(PlanError, match="'other'"):
            refused(foreign)
    prepared.check(Plan(groups=(("stem", "stage.one"), ("stage.two", "stage.three"), ("fc",))))


def test_a_rule_that_does_not_fit_the_model_is_refused_by_check() -> None:
    rule = {"plan.join": "explicit", "plan.groups": [["stem", "fc"]]}
    prepared = prepare(mrecg.preset("w4a4-brecq", QUICK | rule))
    for refused in (prepared.check, prepared.plan, prepared.quantize):
        with pytest.raises(PlanError, match="not neighbors"):
            refused()


def test_the_estimate_reads_no_value_of_the_images() -> None:
    recipe = mrecg.preset("w4a4-brecq", QUICK | {"plan.join": "capacity"})
    model = toys.make("residual")
    found = [
        mrecg.prepare(model, x, recipe=recipe).estimate()
        for x in (toys.images(16), torch.zeros(16, 2, 8, 8))
    ]
    assert found[0].memory == found[1].memory
