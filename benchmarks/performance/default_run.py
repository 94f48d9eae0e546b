"""A run at its default budget against one of another version at that version's default, in CPU seconds of one thread.

Each version runs in a process of its own on the same network and images. The other's default takes too long to run whole: two short
runs tell what a step costs, and the rest is extrapolated. No group stops early: weights are random, and then many would.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.tables import table
from mrecg.paper.networks import NETWORKS

__all__ = ["configure", "default_runs_section", "run"]

HEADER = """
## A default run, before and now

Whole runs at each version's default budget, one thread. What was before is extrapolated from two short runs. Weights
are random, with which many groups would stop early, so none may: with trained ones some runs are shorter. How near each comes to the
float network: [EfficientNet-Lite0](efficientnet-lite0.md#steps-and-images-per-step). Rows without a processor were measured on one that
multiplies in bfloat16, which default runs of large images then do; no version before did.
"""

SHORT = (5, 20)
"""Steps of the other version's two runs."""
SOURCE = Path(__file__).parents[2] / "src"
CHILD = """
import json, sys, time
import torch
torch.set_num_threads(1)
import mrecg
path, preset, steps = sys.argv[1:]
model, images = torch.load(path, weights_only=False)
settings = {"reconstruct.early_stop": False}
if int(steps):
    settings["reconstruct.steps"] = int(steps)
started = time.process_time()
record = mrecg.quantize(model, images, recipe=mrecg.preset(preset, settings), progress=False).record
seconds = time.process_time() - started
precision = getattr(record.groups[-1], "precision", None)
print(json.dumps({"cpu_seconds": seconds, "environment": record.environment, "precision": precision}))
"""


def seconds_of(source: Path, work: Path, preset: str, steps: int) -> dict[str, Any]:
    """Return what a run of the version in `source` costs; 0 steps are its own default."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(work), preset, str(steps)],
        env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"The run of {source} failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _without_own_classes(model: nn.Module) -> nn.Module:
    """Return the network as torch's modules alone: another version may not have this one's."""
    traced = torch.fx.symbolic_trace(model)
    for node in traced.graph.nodes:
        node.type = None
    traced.recompile()
    return traced


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--their-steps", type=int, default=500, help="by default, of a group")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenetv2_100"])
    parser.add_argument("--preset", default="w4a4-qdrop")
    parser.add_argument("--images", type=int, default=256)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, each network."""
    store = performance_store("default_run", arguments.results)
    for name in arguments.networks:
        side = NETWORKS[name].preprocessing.crop
        model, images = random_network(name, side, arguments.images)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "network.pt"
            torch.save((_without_own_classes(model), images), work)
            ours = seconds_of(SOURCE, work, arguments.preset, 0)
            theirs = [
                seconds_of(arguments.against / "src", work, arguments.preset, steps)["cpu_seconds"]
                for steps in SHORT
            ]
        slope = (theirs[1] - theirs[0]) / (SHORT[1] - SHORT[0])
        result = {
            "network": name,
            "side": side,
            "images": arguments.images,
            "preset": arguments.preset,
            "against": commit(arguments.against),
            "ours": ours["cpu_seconds"],
            "theirs_short": dict(zip(map(str, SHORT), theirs, strict=True)),
            "theirs": theirs[0] + slope * (arguments.their_steps - SHORT[0]),
            "precision": ours["precision"],
            "processor": ours["environment"]["processor"],
            "commit": commit(),
            "environment": ours["environment"],
        }
        store.add(result)
        ratio = result["theirs"] / result["ours"]
        print(f"{name}: {result['ours']:.0f} s, {ratio:.1f} times faster", flush=True)


def default_runs_section(results: list[Result]) -> list[str]:
    """Return the table, or nothing where nothing was measured."""
    if not results:
        return []
    rows = [
        (
            f"{one['network']}, {one['side']}², {one['images']} images",
            one["preset"],
            f"{one['ours']:.0f}",
            f"{one['theirs']:.0f}",
            f"**{one['theirs'] / one['ours']:.1f}**",
            one["against"],
            one.get("precision", ""),
            one.get("processor", ""),
        )
        for one in results
    ]
    head = (
        "run | preset | CPU seconds | before, extrapolated | ratio | before | precision | processor"
    )
    return [HEADER, *table(head, rows), ""]
