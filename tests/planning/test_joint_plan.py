"""MRECG: capacity, differences, the choice of neighbours, plans as values."""

import itertools
import math
from pathlib import Path

import pytest
import torch

import mrecg
from mrecg.config.settings import PlanRule
from mrecg.errors import PlanError, RunError
from mrecg.paper.networks import build
from mrecg.planning.capacity import are_homogeneous, differences, module_capacity
from mrecg.planning.joint_plan import check_plan, make_plan
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Layer, Plan

PUBLISHED = {
    "resnet18_small": (("layer1.1", "layer2.0"), ("layer2.1", "layer3.0")),
    "regnetx_small": (("s2.b3", "s3.b1", "s3.b2"), ("s3.b5", "s4.b1"), ("s4.b6", "s4.b7")),
}


class Unit:
    def __init__(
        self, name: str, parameters: int = 10, shape: tuple[int, ...] = (4, 8, 8), stride: int = 1
    ) -> None:
        self.name = name
        self.shape = shape
        self.layers = (
            Layer(
                name=name,
                kind="conv2d",
                parameters=parameters,
                bits=2,
                stride=stride,
                groups="dense",
            ),
        )


def units_of(*parameters: int) -> list[Unit]:
    return [Unit(f"u{i}", count) for i, count in enumerate(parameters)]


def images() -> torch.Tensor:
    return torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_module_capacity_by_hand() -> None:
    """ModCap of a MobileNetV2 block, added up on paper."""
    plan = mrecg.make_model_plan(
        build("mobilenetv2_small"),
        images(),
        recipe=mrecg.preset("w2a4-qdrop-mrecg", {"plan.join": "capacity"}),
    )
    block = 2 * (8 * 48 + 1.6 * 9 * 48 + 48 * 16)  # expand, depthwise of stride 2, project
    assert plan.metric[2] == pytest.approx(block)
    assert plan.metric[0] == 8 * 9 * 16  # the stem keeps 8 bits


def test_homogeneity() -> None:
    plain, strided = Unit("a").layers, Unit("b", stride=2).layers
    assert are_homogeneous(plain, Unit("c", parameters=99).layers)
    assert not are_homogeneous(plain, strided)
    assert not are_homogeneous(plain, plain + plain)


def test_differences() -> None:
    assert differences([1.0, 3.0, 2.0], "square") == (4.0, 1.0)
    logs = differences([1.0, 3.0, 0.0], "log-ratio")
    assert logs[0] == pytest.approx(math.log(3))
    assert math.isfinite(logs[1])


def test_module_capacity_weighs_stride() -> None:
    assert module_capacity(Unit("a", 100).layers) == 200
    assert module_capacity(Unit("a", 100, stride=2).layers) == 320


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
def test_choice_of_neighbours(rule: PlanRule, expected: list[tuple[str, ...]]) -> None:
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
    plan = mrecg.make_model_plan(build(network), images(), recipe=recipe)
    assert plan.joined == PUBLISHED[network]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((("u1", "u9"),), "'u9', which the model does not have; known: u0"),
        ((("u1", "u3"),), r"joins \(u1 u3\), which are not neighbours"),
        ((("u3", "u2"),), "not neighbours"),
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


def test_oscillation_counts_rises_that_fall_again() -> None:
    names = list("abcdef")
    steady = Oscillation.along(names, [1, 2, 3, 4, 5, 6])
    assert steady.jumps == ()
    assert (steady.largest_loss, steady.largest_unit) == (6, "f")
    falling = Oscillation.along(names, [6, 5, 4, 3, 2, 1])
    assert falling.jumps == ()
    wild = Oscillation.along(names, [1, 4, 2, 3, 7, 5])
    assert [(jump.unit, jump.size) for jump in wild.jumps] == [("b", 3), ("e", 5)]
    assert wild.total == 8
