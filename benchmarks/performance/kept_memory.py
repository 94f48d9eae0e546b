"""What it is worth that a run keeps the memory it frees (`mrecg.freed_memory`), in CPU seconds of one thread and in memory.

Runs in new processes take turns: as they are, and with a default of glibc's in the environment, which counts as set up by the user, so
that a run leaves glibc alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.tables import table
from mrecg.paper.networks import NETWORKS

__all__ = ["configure", "kept_memory_section", "run"]

HEADER = """
## Freed memory that is kept

Short runs of `w4a4-qdrop` that keep what they free until the next step needs it, and runs that leave glibc's allocator as it
is: CPU seconds of one thread, medians of runs in turns. *GiB* is resident memory at its peak, kept / returned.

"""
LEFT_ALONE = {"MALLOC_ARENA_TEST": "8"}
"""The default. One of the parameters for large blocks would switch off glibc's own rule for these, whatever its value."""
CHILD = """
import json, sys, time
import torch
torch.set_num_threads(1)
import mrecg
from benchmarks.performance.memory import peak_resident
from benchmarks.performance.random_network import random_network
network, side, images, steps = sys.argv[1], *map(int, sys.argv[2:])
model, calibration = random_network(network, side, images)
settings = {"reconstruct.early_stop": False, "reconstruct.steps": steps, "network.steps": steps}
recipe = mrecg.preset("w4a4-qdrop", settings)
started = time.process_time()
record = mrecg.quantize(model, calibration, recipe=recipe, progress=False).record
found = {"seconds": time.process_time() - started, "peak_gib": peak_resident() / 2**30}
print(json.dumps({**found, "environment": record.environment}))
"""


def run_once(arguments: Iterable[str], changed: dict[str, str]) -> dict[str, Any]:
    """Return what a run in a new process takes, with something changed in its environment."""
    untouched = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        env=untouched | {"OMP_NUM_THREADS": "1"} | changed,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenetv2_100"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, each network."""
    store = performance_store("kept_memory", arguments.results)
    for network in arguments.networks:
        side = NETWORKS[network].preprocessing.crop
        given = (network, *map(str, (side, arguments.images, arguments.steps)))
        turns = [(run_once(given, {}), run_once(given, LEFT_ALONE)) for _ in range(arguments.turns)]
        result: dict[str, Any] = {
            "network": network,
            "side": side,
            "images": arguments.images,
            "steps": arguments.steps,
            "turns": arguments.turns,
            "commit": commit(),
            "environment": turns[0][0]["environment"],
        }
        for name, runs in zip(("kept", "returned"), zip(*turns, strict=True), strict=True):
            result[name] = {
                figure: statistics.median(one[figure] for one in runs)
                for figure in ("seconds", "peak_gib")
            }
        store.add(result)
        print(f"{network}: {_ratio(result):.2f} times as long without", flush=True)


def kept_memory_section(results: list[Result]) -> list[str]:
    """Return the table, or nothing where nothing was measured."""
    if not results:
        return []
    head = "run | kept | returned | returned ÷ kept | GiB"
    return [HEADER, *table(head, _rows(results)), ""]


def _rows(results: list[Result]) -> Iterator[list[str]]:
    for one in results:
        kept, returned = one["kept"], one["returned"]
        yield [
            f"{one['network']}, {one['side']}², {one['images']} images, {one['steps']} steps",
            *(f"{found['seconds']:.0f}" for found in (kept, returned)),
            f"**{_ratio(one):.2f}**",
            f"{kept['peak_gib']:.2f} / {returned['peak_gib']:.2f}",
        ]


def _ratio(result: Result) -> float:
    return float(result["returned"]["seconds"] / result["kept"]["seconds"])
