"""One step of a group against a float forward and backward of the same unit, unit by unit, interleaved.

The quantized step is everything that happens per step: batch, forward, penalty, backward, optimizer. The float step is
what training the float unit takes: forward, loss, and gradients of its weights and of its input (of the images: none).

With `--against CHECKOUT`, the step of another version of this code takes the place of the float one (`paired.py`).
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mrecg
from benchmarks.ablations import ABLATIONS, without
from benchmarks.accuracy.choices import CHOICES
from benchmarks.performance.paired import compare
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from mrecg.cache.activation_cache import Stream, Values
from mrecg.graph.units import Unit
from mrecg.optimize.group import tune
from mrecg.prepare.prepared_model import Assembly, assemble
from mrecg.prepare.quantizers import calibrate
from mrecg.quantizers.losses import reconstruction_loss
from mrecg.quantizers.range_search import Sample
from mrecg.runs.folder import environment

__all__ = ["configure", "measure", "run"]

NETWORKS_AT = (
    "resnet18_small@28",
    "mobilenetv2_small@28",
    "regnetx_small@28",
    "resnet18@224",
    "mobilenetv2_100@224",
)
STEPS = 20
"""`tune` reports every step of a run this short, so that a float step can follow each."""
WARM_UP = 5
"""Steps that are not counted; the penalty sets in after four."""


class FloatStep:
    """Run forward, loss and backward of a float unit in torch's default memory layout."""

    def __init__(self, assembly: Assembly, unit: Unit, plain: Values, targets: Values) -> None:
        own = copy.deepcopy(unit.plain)
        self.unit = own.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.weights = [self.unit.get_parameter(name) for name in unit.weights.values()]
        for weight in self.weights:
            weight.requires_grad_(True)
        everything = torch.arange(len(next(iter(targets.values()))))
        self.inputs = [
            _as_given(plain[name].batch(everything)).requires_grad_(name != assembly.chain.input)
            for name in unit.inputs
        ]
        self.positions = [unit.outputs.index(name) for name in targets]
        self.channels = [unit.channels[name] for name in targets]
        self.targets = [_as_given(target.batch(everything)) for target in targets.values()]

    def __call__(self) -> None:
        outputs = self.unit(*self.inputs)
        wanted = zip(self.positions, self.targets, self.channels, strict=True)
        losses = [reconstruction_loss(outputs[i], target, axis) for i, target, axis in wanted]
        torch.stack(losses).sum().backward()
        for tensor in (*self.weights, *self.inputs):
            tensor.grad = None


def _as_given(values: Tensor) -> Tensor:
    return torch.empty(values.shape).copy_(values)


def measure_unit(
    assembly: Assembly, stream: Stream, unit: Unit, recipe: mrecg.Recipe
) -> tuple[float, float]:
    """Return the median seconds of the quantized and of the float step."""
    plain, quantized = stream.inputs([unit])
    samples = {name: Sample() for name in unit.activations}
    stream.advance_plain(unit, samples)
    activations = assembly.activations([unit])
    for name, quantizer in activations.items():
        calibrate(quantizer, samples[name], recipe.activation)
    targets = stream.targets([unit])
    float_step = FloatStep(assembly, unit, plain, targets)
    ours: list[float] = []
    floats: list[float] = []
    last = time.process_time()

    def between(step: int, loss: float) -> None:
        nonlocal last
        middle = time.process_time()
        ours.append(middle - last)
        float_step()
        last = time.process_time()
        floats.append(last - middle)

    tune(
        [unit],
        assembly.weights([unit]),
        assembly.learned_activations([unit]),
        plain,
        quantized,
        targets,
        recipe.reconstruct,
        recipe.seed,
        between,
    )
    stream.run_quantized([unit], keep=True)
    stream.forget([unit])
    return statistics.median(ours[WARM_UP:]), statistics.median(floats[WARM_UP:])


def measure(
    network: str, side: int, method: str, batch: int, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Time both steps of every unit."""
    model, images = random_network(network, side, batch)
    settings = {"reconstruct.steps": STEPS, "reconstruct.batch_size": batch}
    recipe = mrecg.preset(f"w2a4-{method}", settings | dict(overrides))
    assembly = assemble(model, images, recipe, None)
    stream = Stream(assembly.chain, images, assembly.device)
    units: list[dict[str, Any]] = []
    for unit in assembly.chain.units:
        quantized, plain = measure_unit(assembly, stream, unit, recipe)
        units.append({"unit": unit.name, "quantized_ms": 1e3 * quantized, "float_ms": 1e3 * plain})
    return {
        "network": network,
        "side": side,
        "method": method,
        "batch": batch,
        "ratio": statistics.geometric_mean(u["quantized_ms"] / u["float_ms"] for u in units),
        "units": units,
        "commit": commit(),
        "environment": environment(assembly.device) | {"processor": platform.processor()},
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
