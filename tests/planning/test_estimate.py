"""The estimate of memory and time: against what a run holds, and against steps counted on paper."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

import mrecg
import toys
from mrecg.cache.storage import CachedActivation, Storage
from mrecg.errors import DataError, PlanError
from mrecg.optimize.progress import Progress
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


def test_the_estimate_of_time_knows_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every unit: what the plan's run has taken, it need not take again; a join that is tried takes its units' steps twice."""
    seconds: dict[str, float] = {}
    monkeypatch.setattr(estimate, "_forward_seconds", lambda prepared, images: seconds)
    settings = {"reconstruct.steps": 40, "reconstruct.batch_size": 8, "plan.count": 1}
    single = mrecg.preset("w4a4-brecq", settings | {"network.steps": 20})
    prepared = prepare(single, 32)
    units = prepared.graph.chain.units
    seconds |= {unit.name: 2.0**index for index, unit in enumerate(units)}
    total, step, passes = sum(seconds.values()), 8 * 4.0, 3 * 32
    assert prepared.estimate().seconds == total * (3 * 28 + step * (40 + 20))
    for join in ("capacity", "loss"):
        joined = single.override({"plan.join": join, "network.steps": 0})
        by_capacity = prepare(joined.override({"plan.join": "capacity"}))
        (pair,) = by_capacity.plan().joined
        jointly = sum(seconds[name] for name in pair)
        # The images that judge run, too.
        expected = total * (2 * passes + step * 40) + jointly * step * 80
        if join == "loss":  # a run of a quarter of the steps, which all continue
            expected += total * (passes + step * 10)
            expected -= step * (10 * total + 20 * jointly)
        assert prepare(joined, 32).estimate().seconds == expected
        kept = prepare(joined.override({"plan.keep": "all", "plan.join": "capacity"}), 32)
        assert kept.estimate().seconds == total * (passes + step * 40) + jointly * step * 40


def test_capacity_stands_in_for_a_loss_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would have to find it, and an estimate runs no unit on more than a few images."""
    seconds = dict.fromkeys(["stem", "stage.one", "stage.two", "stage.three", "fc"], 1.0)
    monkeypatch.setattr(estimate, "_forward_seconds", lambda prepared, images: seconds)
    settings = QUICK | {"plan.count": 1, "plan.keep": "all", "reconstruct.steps": 8}
    by_loss = mrecg.preset("w4a4-brecq", settings | {"plan.join": "loss"})
    by_capacity = by_loss.override({"plan.join": "capacity"})
    of_loss, of_capacity = (prepare(one).estimate() for one in (by_loss, by_capacity))
    assert of_loss.values == of_capacity.values
    assert of_loss.working == of_capacity.working
    assert of_loss.seconds > of_capacity.seconds
    # A plan that is given needs no run.
    plan = prepare(by_capacity).plan()
    assert prepare(by_loss).estimate(plan) == of_capacity


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


def test_the_estimate_of_a_run_for_the_loss_knows_the_plan_that_it_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No stand-in is needed any more, and the steps that units have taken are behind them."""
    names = ["stem", "stage.one", "stage.two", "stage.three", "fc"]
    seconds = {name: 2.0**index for index, name in enumerate(names)}
    monkeypatch.setattr(estimate, "_forward_seconds", lambda prepared, images: seconds)
    settings = {"plan.join": "loss", "plan.count": 1, "plan.keep": "all", "network.steps": 0}
    events: list[Progress | Estimate] = []
    recipe = mrecg.preset("w4a4-brecq", QUICK | settings | {"reconstruct.steps": 8})
    plan = prepare(recipe).quantize(progress=events.append).record.plan
    (found,) = (one for one in events if isinstance(one, Estimate))
    steps = sum(6 * len(group) * sum(seconds[name] for name in group) for group in plan.groups)
    assert found.seconds == 3 * 16 * sum(seconds.values()) + 8 * 4.0 * steps


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
