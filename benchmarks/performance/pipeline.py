"""Where the seconds of a run go, phase by phase, as fractions of the run.

    python -m benchmarks.performance pipeline
    python -m benchmarks.performance pipeline --networks resnet18 --methods qdrop-mrecg --bits w4a4 --steps default

CPU seconds of one thread, since the machine may be shared; the estimate, too, which is made beside the truth. A few steps tell how
long one takes in each group and in the network as a whole, where a whole run would be too long.
"""

import argparse
import contextlib
import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

import mrecg
from benchmarks.performance.memory import peak_resident
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.tables import table
from mrecg import pipeline
from mrecg.cache.activation_cache import ActivationCache
from mrecg.optimize import all_groups, progress, reconstruction, trial
from mrecg.optimize.judge import Judge
from mrecg.paper.networks import NETWORKS
from mrecg.planning import estimate

__all__ = ["configure", "pipeline_sections", "run"]

SECONDS = """## Where the seconds go

Whole runs, as fractions of the run; `evaluation` is of as many images as were calibrated with. *Longest group* is the time of all that
is done for it, its passes, too. Weights are random, with which some groups stop early: rows that name the
longest group let none, earlier ones did.
"""
ESTIMATES = """## The estimate beside the truth

What `prepared.estimate()` says before the run / what the run takes, in CPU seconds, by the phases of the record. The plan by `loss`
is known to the run alone; the estimate takes the plan by capacity for it. *GiB* is memory beside the model and the images, as
estimated / as resident memory grew.
"""

RUN = "network | preset | run"
PHASES: dict[str, list[tuple[Any, str]]] = {
    "capture": [(pipeline, "prepare_graph")],
    "finite pass": [(pipeline, "require_finite_activations")],
    "estimate": [(pipeline, "estimate_run"), (pipeline, "try_steps")],
    "ranges": [(reconstruction, "calibrate_activation")],
    "optimization": [(reconstruction, "optimize_group")],
    "float pass": [(ActivationCache, "run_float")],
    "quantized passes": [(ActivationCache, "run_quantized")],
    "judge": [(Judge, "run_float"), (Judge, "run_quantized")],
    "whole network": [(pipeline, "optimize_network")],
    "finished graph": [(pipeline, "export_frozen")],
}
"""What is timed inside a run; the rest of it is `other`. What one phase calls of another counts as its own."""


@contextlib.contextmanager
def in_cpu_seconds() -> Iterator[None]:
    """Let estimates and the clock of a run's phases count CPU seconds."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    with contextlib.ExitStack() as stack:
        for module in (estimate, pipeline, progress, all_groups, trial):
            stack.enter_context(mock.patch.object(module, "time", clock))
        yield


@contextlib.contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the seconds of every phase."""
    running = False

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal running
            if running:
                return function(*arguments, **options)
            started, running = time.process_time(), True
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.process_time() - started
                running = False

        return call

    with contextlib.ExitStack() as stack:
        for name, places in PHASES.items():
            for owner, attribute in places:
                replacement = wrapped(name, getattr(owner, attribute))
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield


def measure(network: str, bits: str, method: str, steps: int | None, count: int) -> dict[str, Any]:
    """Time one run and the evaluation of as many images as it was calibrated with; compare it with its estimate."""
    model, images = random_network(network, NETWORKS[network].preprocessing.crop, count)
    # Random weights would let many groups stop early.
    settings: dict[str, Any] = {"reconstruct.early_stop": False}
    if steps is not None:
        settings["reconstruct.steps"] = steps
    recipe = mrecg.preset(f"{bits}-{method}", settings)
    seconds: dict[str, float] = defaultdict(float)
    with in_cpu_seconds():
        expected = mrecg.prepare(model, images, recipe=recipe).estimate()
    before, started = peak_resident(), time.process_time()
    with in_cpu_seconds(), timed(seconds):
        # Watched, so that it is estimated, as a run at a terminal is.
        quantized = mrecg.quantize(model, images, recipe=recipe, progress=lambda event: None)
    peak = peak_resident()
    finished = time.process_time()
    labels = torch.zeros(count, dtype=torch.long)
    mrecg.evaluate(quantized.model, zip(images.split(64), labels.split(64), strict=True))
    seconds["other"] = finished - started - sum(seconds.values())
    seconds["evaluation"] = time.process_time() - finished
    return {
        "network": network,
        "bits": bits,
        "method": method,
        "steps": quantized.recipe.reconstruct.steps,
        "batch_size": quantized.recipe.reconstruct.batch_size,
        "default": steps is None,
        "images": count,
        "seconds": seconds,
        "groups": [
            {"units": one.units, "seconds": one.seconds, "precision": one.precision}
            for one in quantized.record.groups
        ],
        "estimated": {"phases": expected.phases, "memory_gib": expected.memory / 2**30},
        "taken": quantized.record.seconds,
        "memory_gib": {"before": before / 2**30, "peak": peak / 2**30},
        "commit": commit(),
        "environment": quantized.record.environment,
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=["resnet18_small", "mobilenetv2_small"])
    parser.add_argument("--methods", nargs="+", default=["brecq", "qdrop"])
    parser.add_argument("--bits", default="w2a4")
    parser.add_argument(
        "--steps",
        nargs="+",
        type=lambda given: None if given == "default" else int(given),
        default=[125, 500],
        help="of a group, or `default`",
    )
    parser.add_argument("--images", type=int, default=256)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, all combinations."""
    store = performance_store("pipeline", arguments.results)
    runs = itertools.product(arguments.networks, arguments.methods, arguments.steps)
    for network, method, steps in runs:
        result = measure(network, arguments.bits, method, steps, arguments.images)
        store.add(result)
        total = sum(result["seconds"].values())
        parts = {name: f"{value / total:.1%}" for name, value in result["seconds"].items()}
        print(f"{network} {method}, {result['steps']} steps: {total:.0f} s, {parts}", flush=True)
        for phase, taken in result["taken"].items():
            expected = result["estimated"]["phases"][phase]
            print(f"{phase}: estimated {expected:.1f} s, taken {taken:.1f} s", flush=True)
        print(f"memory {result['estimated']['memory_gib']}, {result['memory_gib']}", flush=True)


def pipeline_sections(results: list[Result]) -> list[str]:
    """Return the tables: where the seconds go, and what was estimated."""
    phases = list(dict.fromkeys(phase for found in results for phase in found["seconds"]))
    estimated = [found for found in results if "taken" in found]
    longest = " | longest group" if any("groups" in found for found in results) else ""
    sections = [
        SECONDS,
        *table(f"{RUN} | seconds | {' | '.join(phases)}{longest}", _shares(results, phases)),
    ]
    if estimated:
        head = f"{RUN} | {' | '.join(estimated[0]['taken'])} | estimate ÷ run | GiB"
        sections += ["", ESTIMATES, *table(head, map(_estimated, estimated))]
    return sections


def _shares(results: list[Result], phases: list[str]) -> Iterator[list[str]]:
    known = any("groups" in found for found in results)
    for found in results:
        total = sum(found["seconds"].values())
        parts = (found["seconds"].get(phase, 0) / total for phase in phases)
        shares = (f"{one:.1%}" if one else "" for one in parts)
        longest = [_longest_group(found, total)] if known else []
        yield [*_run_of(found), f"{total:.0f}", *shares, *longest]


def _longest_group(found: Result, total: float) -> str:
    if "groups" not in found:
        return ""
    longest = max(found["groups"], key=lambda group: group["seconds"])
    return f"{' + '.join(longest['units'])} {longest['seconds'] / total:.1%}"


def _estimated(found: Result) -> list[str]:
    taken, expected = found["taken"], found["estimated"]["phases"]
    cells = [f"{expected[phase]:.1f} / {seconds:.1f}" for phase, seconds in taken.items()]
    ratio = sum(expected.values()) / sum(taken.values())
    memory = found["memory_gib"]
    grown = f"{found['estimated']['memory_gib']:.2f} / {memory['peak'] - memory['before']:.2f}"
    return [*_run_of(found), *cells, f"**{ratio:.2f}**", grown]


def _run_of(found: Result) -> list[str]:
    steps = f"{found['steps']} steps"
    if found.get("default"):
        precisions = sorted({group["precision"] for group in found["groups"]})
        steps = f"default, {steps} of {found['batch_size']} images in {' and '.join(precisions)}"
    return [
        found["network"],
        f"{found['bits']}-{found['method']}",
        f"{steps}; {found['images']} images",
    ]
