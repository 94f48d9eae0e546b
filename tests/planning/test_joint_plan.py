"""MRECG: the choice of neighbors, and plans as values."""

import itertools
from pathlib import Path

import pytest

import mrecg
from mrecg.config.settings import PlanRule
from mrecg.errors import PlanError, RunError
from mrecg.paper.networks import build
from mrecg.planning.joint_plan import check_plan, make_plan
from mrecg.records.plan import Plan
from toys import normal
from units import Unit, units_of

PUBLISHED = {
    "resnet18_small": (("layer1.1", "layer2.0"), ("layer2.1", "layer3.0")),
    "regnetx_small": (("s2.b3", "s3.b1", "s3.b2"), ("s3.b5", "s4.b1"), ("s4.b6", "s4.b7")),
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (PlanRule(join="none"), []),
        (PlanRule(join="capacity"), [("u4", "u5")]),
        (PlanRule(join="capacity", count=0), []),
        (PlanRule(join="capacity", count=2), [("u3", "u4", "u5")]),
        (PlanRule(join="capacity", count=2, largest_group=2), [("u2", "u3"), ("u4", "u5")]),
        (PlanRule(join="capacity", difference="log-ratio", count=1), [("u1", "u2")]),
    ],
    ids=str,
)
def test_choice_of_neighbors(rule: PlanRule, expected: list[tuple[str, ...]]) -> None:
    plan = make_plan(units_of(500, 1, 20, 60, 200, 800, 5000), rule)
    assert list(plan.joined) == expected
    assert [name for group in plan.groups for name in group] == [f"u{i}" for i in range(7)]
    joined = {(n.first, n.second) for n in plan.neighbors if n.joined}
    assert joined == {pair for group in expected for pair in itertools.pairwise(group)}


def test_loss_metric_joins_where_the_loss_jumps() -> None:
    plan = make_plan(units_of(*[1] * 6), PlanRule(join="loss", count=1), [1, 1, 1, 9, 1.5, 1])
    assert plan.joined == (("u2", "u3"),)


def test_stage_rule_joins_where_the_shape_changes() -> None:
    shapes = [(4, 8, 8)] * 3 + [(8, 4, 4)] * 2 + [(5,)]
    units = [Unit(f"u{i}", shape=shape) for i, shape in enumerate(shapes)]
    assert make_plan(units, PlanRule(join="stage")).joined == (("u2", "u3"),)


@pytest.mark.parametrize("network", PUBLISHED)
def test_published_schemes_are_plans(network: str) -> None:
    recipe = mrecg.preset(
        "w2a4-qdrop", {"plan.join": "explicit", "plan.groups": PUBLISHED[network]}
    )
    plan = mrecg.prepare(build(network), normal(2, 1, 28, 28), recipe=recipe).plan()
    assert plan.joined == PUBLISHED[network]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((("u1", "u9"),), "'u9', which the model does not have; known: u0"),
        ((("u1", "u3"),), r"joins \(u1 u3\), which are not neighbors"),
        ((("u3", "u2"),), "not neighbors"),
    ],
)
def test_explicit_plans_that_do_not_fit(groups: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(units_of(1, 2, 3, 4, 5), PlanRule(join="explicit", groups=groups))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((("u0",), ("u2", "u1")), "unit 2 is 'u2', the model's is 'u1'"),
        ((("u0",), ("u1",)), "lists 2 units, the model has 3"),
        ((("u0",), ("u1",), ("u2",), ("u3",)), "lists 4 units, the model has 3"),
        ((("u0",), (), ("u1", "u2")), "group 2 names no unit"),
    ],
)
def test_plans_of_another_model(groups: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan(Plan(groups=groups), units_of(1, 2, 3))


def test_plan_survives_json_and_editing(tmp_path: Path) -> None:
    plan = make_plan(units_of(1, 5, 50, 500, 2), PlanRule(join="capacity", count=1))
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    assert Plan.read(path) == plan
    assert "joined: (u2 u3)" in str(plan)
    assert check_plan(plan, units_of(1, 5, 50, 500, 2)) == plan
    edited = plan.model_copy(update={"groups": (("u0", "u1"), ("u2",), ("u3", "u4"))})
    followed = check_plan(edited, units_of(1, 5, 50, 500, 2))
    assert followed.rule == f"edited by hand, before: {plan.rule}"
    assert [pair.joined for pair in followed.neighbors] == [True, False, False, True]
    assert [pair.difference for pair in followed.neighbors] == [
        pair.difference for pair in plan.neighbors
    ]
    with pytest.raises(RunError, match=r"plan\.json already exists"):
        plan.write(path)
    plan.write(tmp_path / "new" / "plan.json")
    assert Plan.read(tmp_path / "new" / "plan.json") == plan
    path.write_text('{"groups": [["a"]], "rules": "x"}', encoding="utf-8")
    with pytest.raises(RunError, match="no plan: rules"):
        Plan.read(path)
    with pytest.raises(RunError, match=r"plan\.json/plan\.json cannot be written"):
        plan.write(path / "plan.json")
