"""Resident memory of a whole run at its peak, with a memory budget, and while the network as a whole was optimized.

A few steps per group are enough for a large network: what they hold does not depend on how many there are, which a small
network with many steps shows.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch

import mrecg
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from mrecg.config.texts import bytes_of
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate
from mrecg.runs.folder import environment

__all__ = ["configure", "peak_resident", "run"]


def peak_resident() -> int:
    """Return the bytes that this process has held at most so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def restart_peak() -> None:
    """Let the peak be that from here on: Linux forgets the one before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def show(event: Progress) -> None:
    """Print the peak after each group."""
    if event.finished and event.group:
        print(f"{event.group[-1]}: {peak_resident() / 2**30:.2f} GiB at most so far", flush=True)


def measure(
    network: str, side: int, images: int, budget: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Run once under a budget and return memory, estimate and time."""
    model, calibration = random_network(network, side, images)
    estimates: list[Estimate] = []
    peaks: list[int] = []
    before, started = peak_resident(), time.perf_counter()

    def report(event: Progress | Estimate) -> None:
        if isinstance(event, Estimate):
            estimates.append(event)
            return
        show(event)
        if event.phase == "network" and (event.finished or not event.step):
            peaks.append(peak_resident())
            restart_peak()

    quantized = mrecg.quantize(
        model,
        calibration,
        recipe=mrecg.preset("w4a4-qdrop", settings),
        progress=report,
        memory=bytes_of(budget),
    )
    return {
        "peak_gib": max(*peaks, peak_resident()) / 2**30,
        "network_gib": peaks[1] / 2**30,
        "before_gib": before / 2**30,
        "estimate_memory_gib": estimates[0].memory / 2**30,
        "estimate_files_gib": estimates[0].files / 2**30,
        "seconds": time.perf_counter() - started,
        "commit": commit(),
        "environment": {**quantized.record.environment, **environment(torch.device("cpu"))},
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, one run."""
    settings: dict[str, Any] = {
        "reconstruct.steps": arguments.steps,
        "reconstruct.batch_size": arguments.batch,
        "network.steps": 2,
    }
    settings |= dict(item.split("=", 1) for item in arguments.overrides)
    place = (arguments.network, arguments.side, arguments.images)
    found = measure(*place, arguments.memory, settings)
    result = {
        **dict(zip(("network", "side", "images"), place, strict=True)),
        "steps": arguments.steps,
        "batch": arguments.batch,
        "budget": arguments.memory,
        "settings": settings,
        **found,
    }
    performance_store("memory", arguments.results).add(result)
    print(f"{arguments.network}: {result['peak_gib']:.2f} GiB at most", flush=True)
