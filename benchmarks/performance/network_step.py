"""One step of the network as a whole against one step of training the float network, in turns.

Ours is everything that happens per step: batch, patches, the float network's answer, forward and backward through the quantized
network, optimizer. The float step is forward, cross entropy, backward and Adam in training mode, in torch's default layout.
"""

import argparse
import copy
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import mrecg
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate

__all__ = ["configure", "measure", "run"]

NETWORKS_AT = ("resnet18_small@28", "mobilenetv2_small@28", "regnetx_small@28")
STEPS = 20
"""The stage reports every step of a run this short."""
WARM_UP = 5
"""Steps that are not counted."""


class FloatTraining:
    """Train a copy of a network, in float."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model = copy.deepcopy(model).train()
        self.images = images
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-5, fused=True)
        self.labels = torch.arange(len(images)) % 10

    def __call__(self) -> None:
        self.adam.zero_grad()
        functional.cross_entropy(self.model(self.images), self.labels).backward()
        self.adam.step()


def measure(network: str, side: int, batch: int) -> dict[str, Any]:
    """Time both steps."""
    model, images = random_network(network, side, 2 * batch)
    settings = {
        "reconstruct.steps": 0,
        "reconstruct.batch_size": batch,
        "network.steps": STEPS,
    }
    training = FloatTraining(model, images[:batch])
    ours: list[float] = []
    floats: list[float] = []
    last = time.process_time()

    def between(event: Progress | Estimate) -> None:
        nonlocal last
        if (
            isinstance(event, Estimate)
            or event.phase != "network"
            or event.finished
            or not event.step
        ):
            last = time.process_time()
            return
        middle = time.process_time()
        ours.append(middle - last)
        training()
        last = time.process_time()
        floats.append(last - middle)

    recipe = mrecg.preset("w2a2-qdrop", settings)
    record = mrecg.quantize(model, images, recipe=recipe, progress=between).record
    timed = [statistics.median(times[WARM_UP:]) for times in (ours, floats)]
    return {
        "network": network,
        "side": side,
        "batch": batch,
        "ratio": timed[0] / timed[1],
        "quantized_ms": 1e3 * timed[0],
        "float_ms": 1e3 * timed[1],
        "commit": commit(),
        "environment": record.environment,
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS_AT), metavar="NAME@SIDE")
    parser.add_argument("--batch", type=int, default=32, help="images per step")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, every network."""
    for place in arguments.networks:
        network, side = place.split("@")
        result = measure(network, int(side), arguments.batch)
        performance_store("network_step", arguments.results).add(result)
        print(f"{place}: {result['ratio']:.3f} × a step of training in float", flush=True)
