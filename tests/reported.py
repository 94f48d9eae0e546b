"""Runs as a report sees them, made without quantizing anything."""

import itertools
import math
from typing import Any

import mrecg
from mrecg.records.evaluation import Evaluation, pack_hits
from mrecg.records.oscillation import Oscillation
from mrecg.records.plan import Join, Layer, NeighborPair, Plan
from mrecg.records.record import (
    GroupRecord,
    ModelSize,
    NetworkRecord,
    QuantizerRecord,
    Record,
    UnitRecord,
    ValuesRecord,
)
from mrecg.report.reported_run import Latency, ReportedRun

LATENCY = Latency("model.onnx", "onnxruntime 1.32.0", 0.0021, 0.0034, 61_000)


def accuracy(count: int, wrong: set[int]) -> Evaluation:
    """The evaluation of a network that has some images wrong, and every second of these not among its five best."""
    hits = [image not in wrong for image in range(count)]
    return Evaluation(count, sum(hits), count - len(wrong) // 2, pack_hits(hits))


def record(count: int = 5, pattern: str = "features.{}", **found: Any) -> Record:
    """The record of a network with three layers in each unit, of which units 1 and 2 are joined."""
    names = [pattern.format(index) for index in range(count)]
    groups = [(names[0],), (names[1], names[2]), *((one,) for one in names[3:])]
    losses = [0.01 + 0.2 * math.sin(1.3 * index) ** 2 for index in range(count)]
    group_of = {one: index for index, group in enumerate(groups) for one in group}
    made = [
        UnitRecord(
            name=one,
            layers=tuple(_layer(f"{one}.conv.{place}") for place in range(3)),
            shape=(8, 4, 4),
            group=group_of[one],
            loss=3 * loss,
            relative_loss=loss,
            nearest_loss=5 * loss,
        )
        for one, loss in zip(names, losses, strict=True)
    ]
    values: dict[str, Any] = {
        "units": tuple(made),
        "groups": tuple(map(_group, groups)),
        "plan": _plan(names, groups),
        "quantizers": tuple(one for unit in made for layer in unit.layers for one in _pair(layer)),
        "oscillation": Oscillation.at_ends(made, groups),
        "network": NetworkRecord(
            steps=40,
            divergence_before=0.3,
            divergence_after=0.2,
            accepted=True,
            seconds=2.0,
            curve=((20, 0.3), (40, 0.2)),
        ),
        "left_in_float": (),
        "images": 64,
        "accuracy": {
            "float": accuracy(200, set(range(9))),
            "quantized": accuracy(200, set(range(5, 20))),
        },
        "size": ModelSize(float_bytes=2_000_000, quantized_bytes=210_000),
        "input_shape": (1, 28, 28),
        "seconds": {"capture": 1.0, "reconstruction": 20.0},
        "environment": {"mrecg": "0.1.0", "device": "cpu", "threads": 2},
    }
    return Record(**values | found)


def run(name: str = "first", count: int = 5, **found: Any) -> ReportedRun:
    """A run with that record; `seed` and `bits` belong to its recipe."""
    settings = {"seed": found.pop("seed", 1), "weight.bits": found.pop("bits", 2)}
    recipe = mrecg.preset("w2a4-qdrop-mrecg", settings)
    return ReportedRun(name, record(count, **found), recipe)


def bare(run: ReportedRun) -> ReportedRun:
    """The run as an earlier version recorded it, without anything that was added for reports."""
    old = run.record.model_copy(
        update={
            "groups": tuple(one.model_copy(update={"curve": ()}) for one in run.record.groups),
            "quantizers": tuple(
                one.model_copy(update={"values": None}) for one in run.record.quantizers
            ),
            "network": None,
            "size": None,
            "accuracy": {},
        }
    )
    return ReportedRun(run.name, old, run.recipe)


def _layer(name: str) -> Layer:
    return Layer(name=name, kind="conv2d", parameters=900, bits=2, stride=1, groups="dense")


def _group(units: tuple[str, ...]) -> GroupRecord:
    curve = tuple((10 * (place + 1), 0.5 + 1 / (place + 1)) for place in range(40))
    return GroupRecord(
        units=units,
        steps=400,
        first_loss=1.5,
        last_loss=0.525,
        undecided=0.004,
        accepted=True,
        seconds=4.0,
        curve=curve,
    )


def _plan(names: list[str], groups: list[tuple[str, ...]]) -> Plan:
    together = set(zip(groups[1], groups[1][1:], strict=False))
    return Plan(
        groups=tuple(groups),
        rule="blocks joined by log-ratio difference of loss",
        metric=tuple(1.0 + index % 3 for index in range(len(names))),
        neighbors=tuple(
            NeighborPair(
                first=a, second=b, difference=0.5, homogeneous=True, joined=(a, b) in together
            )
            for a, b in itertools.pairwise(names)
        ),
        joins=(
            Join(units=groups[1], separate_loss=0.3, joint_loss=0.2, kept=True),
            Join(units=(names[3], names[4]), separate_loss=0.2, joint_loss=0.25, kept=False),
        ),
    )


def _pair(layer: Layer) -> tuple[QuantizerRecord, QuantizerRecord]:
    """The quantizers of a layer's weight and of its input."""
    codes = ValuesRecord(low=0, high=3, counts=(10, 30, 40, 20), channels=8, dead=1)
    read = ValuesRecord(
        low=0.0, high=1.5, counts=(*[0] * 8, *range(32), *[2] * 8), channels=8, dead=2, saturated=1
    )
    return (
        QuantizerRecord(
            name=f"{layer.name}_weight",
            kind="weight",
            tensor=f"{layer.name}.weight",
            readers=(layer.name,),
            low=0,
            high=3,
            scales=(0.1, 0.2),
            values=codes,
        ),
        QuantizerRecord(
            name=f"{layer.name}_input",
            kind="activation",
            tensor=f"{layer.name}:input",
            readers=(layer.name,),
            low=0,
            high=15,
            scales=(0.1, 0.1),
            values=read,
        ),
    )
