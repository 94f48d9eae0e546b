"""The capacity of units, and how far neighbors differ in it."""

import math

import pytest

import mrecg
from mrecg.paper.networks import build
from mrecg.planning.capacity import are_homogeneous, cap_diff, mod_cap
from toys import normal
from units import Unit


def test_mod_cap_by_hand() -> None:
    """ModCap of a MobileNetV2 block, added up on paper."""
    recipe = mrecg.preset("w2a4-qdrop-mrecg", {"plan.join": "capacity"})
    plan = mrecg.prepare(build("mobilenetv2_small"), normal(2, 1, 28, 28), recipe=recipe).plan()
    block = 2 * (8 * 48 + 1.6 * 9 * 48 + 48 * 16)  # expand, depthwise of stride 2, project
    assert plan.metric[2] == pytest.approx(block)
    assert plan.metric[0] == 8 * 9 * 16  # the stem keeps 8 bits


def test_mod_cap_weighs_stride() -> None:
    assert mod_cap(Unit("a", 100).layers) == 200
    assert mod_cap(Unit("a", 100, stride=2).layers) == 320


def test_homogeneity() -> None:
    layers, strided = Unit("a").layers, Unit("b", stride=2).layers
    assert are_homogeneous(layers, Unit("c", parameters=99).layers)
    assert not are_homogeneous(layers, strided)
    assert not are_homogeneous(layers, layers + layers)


def test_cap_diff() -> None:
    assert cap_diff([1.0, 3.0, 2.0], "square") == (4.0, 1.0)
    logs = cap_diff([1.0, 3.0, 0.0], "log-ratio")
    assert logs[0] == pytest.approx(math.log(3))
    assert math.isfinite(logs[1])
