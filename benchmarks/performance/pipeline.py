"""Where the seconds of a run go, phase by phase, as fractions of the run.

CPU seconds of one thread, since the machine may be shared.
"""

import argparse
import contextlib
import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

import mrecg
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from mrecg import pipeline
from mrecg.cache.activation_cache import ActivationCache
from mrecg.optimize import reconstruction
from mrecg.paper.networks import NETWORKS

__all__ = ["configure", "run"]

PHASES = {
    "capture": (pipeline, "prepare_graph"),
    "ranges": (reconstruction, "calibrate_activation"),
    "optimization": (reconstruction, "optimize_group"),
    "float pass": (ActivationCache, "run_float"),
    "quantized passes": (ActivationCache, "run_quantized"),
    "whole network": (pipeline, "optimize_network"),
    "finished graph": (pipeline, "export_frozen"),
}
"""What is timed inside a run; the rest of it is `other`."""


@contextlib.contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of every phase."""

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.process_time() - started

        return call

    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in PHASES.items():
            replacement = wrapped(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield


def measure(network: str, method: str, steps: int, count: int) -> dict[str, Any]:
    """Time one run and the evaluation of as many images as it was calibrated with."""
    model, images = random_network(network, NETWORKS[network].preprocessing.crop, count)
    recipe = mrecg.preset(f"w2a4-{method}", {"reconstruct.steps": steps})
    seconds: dict[str, float] = defaultdict(float)
    started = time.process_time()
    with timed(seconds):
        quantized = mrecg.quantize(model, images, recipe=recipe)
    finished = time.process_time()
    labels = torch.zeros(count, dtype=torch.long)
    mrecg.evaluate(quantized.model, zip(images.split(64), labels.split(64), strict=True))
    seconds["other"] = finished - started - sum(seconds.values())
    seconds["evaluation"] = time.process_time() - finished
    return {
        "network": network,
        "method": method,
        "steps": steps,
        "images": count,
        "seconds": seconds,
        "commit": commit(),
        "environment": quantized.record.environment,
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=["resnet18_small", "mobilenetv2_small"])
    parser.add_argument("--methods", nargs="+", default=["brecq", "qdrop"])
    parser.add_argument("--steps", nargs="+", type=int, default=[125, 500])
    parser.add_argument("--images", type=int, default=256)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, all combinations."""
    store = performance_store("pipeline", arguments.results)
    runs = itertools.product(arguments.networks, arguments.methods, arguments.steps)
    for network, method, steps in runs:
        result = measure(network, method, steps, arguments.images)
        store.add(result)
        total = sum(result["seconds"].values())
        parts = {name: f"{value / total:.1%}" for name, value in result["seconds"].items()}
        print(f"{network} {method}, {steps} steps: {total:.0f} s, {parts}", flush=True)
