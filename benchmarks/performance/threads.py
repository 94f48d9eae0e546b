"""What a second thread gains: wall seconds of a short run and its parts with one thread and with two, and of each kernel in C.

New processes take turns, the fastest turn counts. Steps of training the float network say what torch itself gains. Wall time needs
a machine on which nothing else runs: threads that wait for each other on a busy one are many times slower, so nothing is stored then.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mrecg
from benchmarks.performance.network_step import FloatTraining
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.tables import table
from mrecg.quantizers.kernels import native
from mrecg.runs.folder import environment

__all__ = ["configure", "run", "seconds_of_kernels", "seconds_of_network", "threads_section"]

HEADER = """## Two threads

Wall seconds of short runs with one thread and with two, on an otherwise idle machine, and how many times faster two are
(`benchmarks.performance threads`). *Training in float* is what torch gains on the same network: forward, backward and Adam of the
float network. What is no step of the groups or of the network as a whole (tracing, writing the finished graph) is Python of one thread.
"""
PARTS = {"reconstruction": "groups", "network": "network as a whole"}
"""Phases of a record that are steps and passes, by what the table calls them."""
TRAINING = "training in float"
KERNELS = "kernels in C"
MOST_OF_OTHERS = 0.1
"""Of a core, that other processes may use meanwhile."""
REPETITIONS = 20
"""Of a kernel, of which the fastest counts."""


def seconds_of_network(network: str, side: int, images: int, steps: int) -> dict[str, float]:
    """Return the wall seconds of a run, of its parts, and of as many steps of training in float, in this process."""
    model, calibration = random_network(network, side, images)
    batch = images // 2
    settings = {
        "reconstruct.steps": steps,
        "reconstruct.batch_size": batch,
        "network.steps": steps,
    }
    training = FloatTraining(model, calibration[:batch])
    training()
    started = time.perf_counter()
    for _ in range(steps):
        training()
    trained = time.perf_counter()
    record = mrecg.quantize(
        model, calibration, recipe=mrecg.preset("w4a4-qdrop", settings), progress=False
    ).record
    found = {name: record.seconds[phase] for phase, name in PARTS.items()}
    return {
        **found,
        "whole run": time.perf_counter() - trained,
        TRAINING: trained - started,
    }


def seconds_of_kernels() -> dict[str, float]:
    """Return the wall seconds of a call of each kernel, on tensors as large as those of ResNet-18 at 224²."""
    x, keep, scale = torch.randn(8, 64, 56, 56), torch.ones(8, 64, 56, 56), torch.tensor(0.1)
    alpha, base, span = (torch.randn(512, 512, 3, 3) for _ in range(3))
    delta = torch.zeros(512, 1, 1, 1)
    points, candidates = torch.randn(64, 2304), torch.rand(64, 80) + 0.1
    limits = (-8.0, 7.0, -math.inf, math.inf)
    calls: dict[str, Callable[[], Any]] = {
        "fake_quantize": lambda: native.fake_quantize(x, keep, scale, *limits),
        "fake_quantize_backward": lambda: native.fake_quantize_backward(
            x, x, scale, keep, scale, *limits
        ),
        "soft_rounding": lambda: native.soft_rounding(alpha, base, span, delta, 15),
        "soft_rounding_backward": lambda: native.soft_rounding_backward(
            alpha, alpha, base, span, delta, 15, 0.1, 2.0, True
        ),
        "grid_errors": lambda: native.grid_errors(
            points, None, candidates, torch.zeros(64, 80), -8.0, 7.0, 2.4
        ),
    }
    return {name: min(_timed(call) for _ in range(REPETITIONS)) for name, call in calls.items()}


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _of_new_process(call: str, threads: int) -> dict[str, float]:
    """Return what a function of this module returns in a process of so many threads."""
    program = (
        f"import json, torch\ntorch.set_num_threads({threads})\n"
        f"from {__name__} import *\nprint(json.dumps({call}))"
    )
    started, before = time.perf_counter(), _seconds_of_others()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    others = (_seconds_of_others() - before) / (time.perf_counter() - started)
    if others > MOST_OF_OTHERS:
        raise SystemExit(
            f"Other processes took {others:.0%} of a core meanwhile, expected at most {MOST_OF_OTHERS:.0%}; end or pause them."
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _seconds_of_others() -> float:
    """Return the CPU seconds that Linux has given so far to what is neither this process nor a finished child of it."""
    _, user, nice, system, *_ = Path("/proc/stat").read_text().split(maxsplit=4)
    all_of_them = (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return all_of_them - sum(own[:4])


def measure(call: str, turns: int) -> dict[str, dict[str, float]]:
    """Return the seconds of each part, by the number of threads."""
    fastest: dict[str, dict[str, float]] = {}
    for _ in range(turns):
        for threads in (1, 2):
            for part, seconds in _of_new_process(call, threads).items():
                of_part = fastest.setdefault(part, {})
                of_part[str(threads)] = min(seconds, of_part.get(str(threads), math.inf))
    return fastest


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="*", default=["resnet18@224", "mobilenetv2_100@224"])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--no-kernels", action="store_true", help="networks alone")


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, every network and the kernels."""
    store = performance_store("threads", arguments.results)
    places = [tuple(place.split("@")) for place in arguments.networks]
    works = [] if arguments.no_kernels else [(KERNELS, 0, 0, "seconds_of_kernels()")]
    for network, side in places:
        size = (int(side), arguments.images)
        call = f"seconds_of_network({network!r}, {size[0]}, {size[1]}, {arguments.steps})"
        works.append((network, *size, call))
    for work, side, images, call in works:
        seconds = measure(call, arguments.turns)
        store.add(
            {
                "work": work,
                "side": side,
                "images": images,
                "steps": arguments.steps,
                "seconds": seconds,
                "commit": commit(),
                "environment": environment(torch.device("cpu")),
            }
        )
        gains = {part: round(found["1"] / found["2"], 2) for part, found in seconds.items()}
        print(f"{work}: {gains}", flush=True)


def threads_section(results: list[Result]) -> list[str]:
    """Return the table, or nothing where nothing was measured."""
    if not results:
        return []
    rows = [
        [
            f"{one['work']}, {one['side']}², {one['images']} images, {one['steps']} steps"
            if one["side"]
            else one["work"],
            part,
            *(f"{seconds[threads]:.3g}" for threads in ("1", "2")),
            f"**{seconds['1'] / seconds['2']:.2f}**",
        ]
        for one in results
        for part, seconds in one["seconds"].items()
    ]
    return [HEADER, *table("work | part | one thread | two | times faster", rows), ""]
