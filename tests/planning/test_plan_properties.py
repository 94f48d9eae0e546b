"""Whatever the network and the rule: a plan's groups are the units in their order, within the rule's limits."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrecg.config.settings import PlanRule
from mrecg.errors import PlanError
from mrecg.planning.joint_plan import check_plan, joined_by_scheme, make_plan, single_plan
from mrecg.records.plan import Layer, Plan


@dataclass(frozen=True)
class Unit:
    name: str
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]


LAYERS = st.builds(
    Layer,
    name=st.just("layer"),
    kind=st.just("conv2d"),
    parameters=st.integers(1, 10**6),
    bits=st.integers(2, 8),
    stride=st.integers(1, 2),
    groups=st.sampled_from(["dense", "grouped", "depthwise"]),
)
SHAPES = st.sampled_from([(8, 8, 8), (8, 4, 4), (16, 4, 4)])
CHAINS = st.lists(
    st.tuples(st.lists(LAYERS, min_size=1, max_size=3).map(tuple), SHAPES), min_size=1, max_size=9
).map(lambda units: [Unit(f"unit{i}", *unit) for i, unit in enumerate(units)])
RULES = st.builds(
    PlanRule,
    join=st.sampled_from(["none", "capacity", "loss", "stage"]),
    difference=st.sampled_from(["square", "log-ratio"]),
    count=st.one_of(st.just("auto"), st.integers(0, 9)),
    largest_group=st.integers(2, 4),
)
LOSSES = st.lists(st.floats(1e-6, 1e3), min_size=9, max_size=9)


def names(units: list[Unit]) -> list[str]:
    return [unit.name for unit in units]


@given(CHAINS, RULES, LOSSES)
def test_a_rules_plan_keeps_to_the_rule(
    units: list[Unit], rule: PlanRule, losses: list[float]
) -> None:
    plan = make_plan(units, rule, losses[: len(units)])
    assert list(itertools.chain(*plan.groups)) == names(units)
    assert len(plan.groups[0]) == len(plan.groups[-1]) == 1
    assert max(map(len, plan.groups)) <= rule.largest_group
    joins = sum(len(group) - 1 for group in plan.groups)
    assert joins == sum(pair.joined for pair in plan.neighbors)
    if rule.join == "none":
        assert joins == 0
    if rule.count != "auto":
        assert joins <= rule.count
    assert check_plan(plan, units) == plan


@given(CHAINS, RULES, LOSSES)
def test_what_is_joined_differs_most(
    units: list[Unit], rule: PlanRule, losses: list[float]
) -> None:
    """Where no group is full, no pair that stays single has a larger CapDiff than one that is joined."""
    rule = rule.model_copy(update={"join": "loss", "largest_group": 99})
    plan = make_plan(units, rule, losses[: len(units)])
    candidates = plan.neighbors[1:-1]
    joined = [pair.difference for pair in candidates if pair.joined]
    single = [pair.difference for pair in candidates if not pair.joined]
    assert max(single, default=0.0) <= min(joined, default=float("inf"))


@given(CHAINS, st.data())
def test_an_edited_plan_is_the_models_or_refused(units: list[Unit], data: st.DataObject) -> None:
    sizes = data.draw(_sizes(len(units)))
    parts = iter(names(units))
    groups = tuple(tuple(itertools.islice(parts, size)) for size in sizes)
    assert check_plan(Plan(groups=groups), units).groups == groups
    place = data.draw(st.integers(0, len(groups) - 1))
    damaged = (*groups[:place], *groups[place + 1 :])  # a group is missing
    with pytest.raises(PlanError, match="does not fit the model"):
        check_plan(Plan(groups=damaged), units)
    reordered = tuple(group[::-1] for group in groups[::-1])
    if reordered != groups:
        with pytest.raises(PlanError, match="does not fit the model"):
            check_plan(Plan(groups=reordered), units)


@given(CHAINS, st.data())
def test_an_edited_plan_says_so(units: list[Unit], data: st.DataObject) -> None:
    plan = make_plan(units, PlanRule())
    parts = iter(names(units))
    groups = tuple(tuple(itertools.islice(parts, n)) for n in data.draw(_sizes(len(units))))
    edited = check_plan(plan.model_copy(update={"groups": groups}), units)
    assert (edited.rule == plan.rule) is (groups == plan.groups)
    together = {pair for group in groups for pair in itertools.pairwise(group)}
    assert {(pair.first, pair.second) for pair in edited.neighbors if pair.joined} == together


@given(CHAINS, st.data())
def test_a_scheme_gives_groups_of_its_sizes(units: list[Unit], data: st.DataObject) -> None:
    sizes = data.draw(_sizes(len(units)))
    rule = PlanRule(join="scheme", scheme=tuple(sizes))
    assert [len(group) for group in make_plan(units, rule).groups] == sizes


@given(st.lists(st.integers(1, 5), min_size=2, max_size=9))
def test_a_scheme_may_count_stem_and_classifier_with_their_neighbors(sizes: list[int]) -> None:
    units = [str(i) for i in range(sum(sizes) + 2)]
    wider = [sizes[0] + 1, *sizes[1:-1], sizes[-1] + 1]
    assert joined_by_scheme(sizes, units) == joined_by_scheme(wider, units)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(1, 60))
def test_a_scheme_of_another_network_is_refused(sizes: list[int], count: int) -> None:
    units = [str(i) for i in range(count)]
    if count - sum(sizes) in (0, 2):
        assert joined_by_scheme(sizes, units) <= set(range(count - 1))
    else:
        with pytest.raises(PlanError, match=f"counts {sum(sizes)} units, the model has {count}"):
            joined_by_scheme(sizes, units)


@given(CHAINS)
def test_the_single_plan_joins_nothing(units: list[Unit]) -> None:
    assert single_plan(units).joined == ()
    assert check_plan(single_plan(units), units).groups == tuple((name,) for name in names(units))


@st.composite
def _sizes(draw: st.DrawFn, count: int) -> list[int]:
    """Sizes of groups that `count` units fall into."""
    ends = draw(st.sets(st.integers(1, count - 1), max_size=count - 1)) if count > 1 else set()
    return [after - before for before, after in itertools.pairwise([0, *sorted(ends), count])]
