"""One step of a group against a float forward and backward of the same unit, unit by unit, interleaved.

The quantized step is everything that happens per step: batch, forward, penalty, backward, optimizer. The float step is
what training the float unit takes: forward, loss, and gradients of its weights and of its input (of the images: none).

With `--against CHECKOUT`, the step of another version of this code takes the place of the float one (`paired.py`).
"""

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import mrecg
from benchmarks.ablations import ABLATIONS, without
from benchmarks.accuracy.choices import CHOICES
from benchmarks.performance.paired import compare
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from mrecg.config.optimization import Reconstruction
from mrecg.graph.units import Unit
from mrecg.optimize import reconstruction
from mrecg.optimize.group import GroupResult, GroupValues, optimize_group
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.losses import reconstruction_loss
from mrecg.quantizers.state import QuantizerState

__all__ = ["configure", "measure", "run"]

NETWORKS_AT = (
    "resnet18_small@28",
    "mobilenetv2_small@28",
    "regnetx_small@28",
    "resnet18@224",
    "mobilenetv2_100@224",
)
STEPS = 20
"""A group reports every step of a run this short, so that a float step can follow each."""
WARM_UP = 5
"""Steps that are not counted; the penalty sets in after four."""


class FloatStep:
    """Forward, loss and backward of a float unit in torch's default memory layout."""

    def __init__(self, prepared: PreparedGraph, unit: Unit, values: GroupValues) -> None:
        own = copy.deepcopy(unit.float_graph)
        self.unit = own.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.weights = [self.unit.get_parameter(name) for name in unit.weights.values()]
        for weight in self.weights:
            weight.requires_grad_(True)
        targets = values.targets
        everything = torch.arange(len(next(iter(targets.values()))))
        self.inputs = [
            _contiguous(values.of_float[name].batch(everything)).requires_grad_(
                name not in prepared.chain.inputs
            )
            for name in unit.inputs
        ]
        self.positions = [unit.outputs.index(name) for name in targets]
        self.channels = [unit.channels[name] for name in targets]
        self.targets = [_contiguous(target.batch(everything)) for target in targets.values()]

    def __call__(self) -> None:
        outputs = self.unit(*self.inputs)
        wanted = zip(self.positions, self.targets, self.channels, strict=True)
        losses = [reconstruction_loss(outputs[i], target, count) for i, target, count in wanted]
        torch.stack(losses).sum().backward()
        for tensor in (*self.weights, *self.inputs):
            tensor.grad = None


def _contiguous(values: Tensor) -> Tensor:
    return torch.empty(values.shape).copy_(values)


@contextlib.contextmanager
def float_steps_between(times: dict[str, tuple[list[float], list[float]]]) -> Iterator[None]:
    """Take a float step after every step of a run, and keep the CPU seconds of both by unit."""

    def alternating(
        prepared: PreparedGraph,
        units: Sequence[Unit],
        nearest: QuantizerState,
        values: GroupValues,
        settings: Reconstruction,
        seed: int,
        report: Callable[[int, float], None],
        *more: Any,
    ) -> tuple[QuantizerState, GroupResult]:
        float_step = FloatStep(prepared, units[0], values)
        ours, floats = times.setdefault(units[0].name, ([], []))
        last = time.process_time()

        def between(step: int, loss: float) -> None:
            nonlocal last
            middle = time.process_time()
            ours.append(middle - last)
            float_step()
            last = time.process_time()
            floats.append(last - middle)

        return optimize_group(prepared, units, nearest, values, settings, seed, between, *more)

    with mock.patch.object(reconstruction, "optimize_group", alternating):
        yield


def measure(
    network: str, side: int, method: str, batch: int, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Time both steps of every unit."""
    model, images = random_network(network, side, batch)
    settings = {
        "reconstruct.steps": STEPS,
        "reconstruct.batch_size": batch,
        "network.steps": 0,
        "reconstruct.early_stop": False,
    }
    recipe = mrecg.preset(f"w2a4-{method}", settings | dict(overrides))
    times: dict[str, tuple[list[float], list[float]]] = {}
    with float_steps_between(times):
        record = mrecg.quantize(model, images, recipe=recipe, progress=False).record
    units: list[dict[str, Any]] = [
        {
            "unit": name,
            "quantized_ms": 1e3 * statistics.median(ours[WARM_UP:]),
            "float_ms": 1e3 * statistics.median(floats[WARM_UP:]),
        }
        for name, (ours, floats) in times.items()
    ]
    return {
        "network": network,
        "side": side,
        "method": method,
        "batch": batch,
        "ratio": statistics.geometric_mean(u["quantized_ms"] / u["float_ms"] for u in units),
        "units": units,
        "commit": commit(),
        "environment": record.environment,
        "processor": record.environment["processor"],
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS_AT), metavar="NAME@SIDE")
    parser.add_argument("--methods", nargs="+", default=["brecq", "qdrop"])
    parser.add_argument("--batch", type=int, help="images per step: 32, or 16 at 224²")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--without", choices=[*ABLATIONS, "float32"], help="take one away")
    other.add_argument("--against", type=Path, metavar="CHECKOUT", help="of another version")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, every network and method."""
    ratios = []
    for place in arguments.networks:
        network, side = place.split("@")
        batch = arguments.batch or (32 if int(side) < 64 else 16)
        for method in arguments.methods:
            cell = (network, int(side), method, batch)
            if arguments.against:
                result, other = compare(arguments.against, *cell), "the other version's"
            else:
                with without(arguments.without):
                    result = measure(*cell, CHOICES.get(arguments.without, {}))
                result["without"], other = arguments.without, "the float"
            kind = "paired" if arguments.against else "step"
            performance_store(kind, arguments.results).add(result)
            ratios.append(result["ratio"])
            print(f"{place} {method}: {result['ratio']:.3f} × {other} step", flush=True)
    print(f"geometric mean: {statistics.geometric_mean(ratios):.3f}")
