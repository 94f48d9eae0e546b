"""Steps of every unit on windows of large maps, in turns with steps on whole maps, in one process."""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import mrecg
from benchmarks.natural_images.windows import windows_store, windows_table
from benchmarks.performance.random_network import random_network
from benchmarks.performance.results import performance_store
from benchmarks.provenance import commit
from benchmarks.store import Result
from benchmarks.tables import table
from mrecg.config.optimization import Reconstruction
from mrecg.graph.units import Unit
from mrecg.optimize import reconstruction
from mrecg.optimize.group import GroupResult, GroupValues, optimize_group
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.state import QuantizerState

__all__ = ["configure", "run", "windows_section"]

NETWORKS_AT = ("resnet18@224", "mobilenetv2_100@224")
STEPS = 4
"""Of every unit and way; the first is not counted."""
SPEED = """## Windows

A step sees windows of large feature maps (`reconstruct.window`): CPU milliseconds of a step on whole maps, and on windows, in turns
in one process. Where the two are equal, maps are small, or a unit pools or attends and needs whole ones.
"""
QUALITY = """
EfficientNet-Lite0 with its ImageNet weights, photographs that packages ship: how near the answers on held-out crops are to the
float network's, against the CPU seconds of a run without a stage for the network as a whole
(`python -m benchmarks.natural_images windows`). *KL* is the mean divergence of the predictions, over so many seeds.
"""


@contextlib.contextmanager
def _both_ways(times: dict[str, tuple[list[float], list[float]]]) -> Iterator[None]:
    """Optimize every unit on whole maps, too, and keep the CPU seconds of its steps either way."""

    def optimize_both(
        prepared: PreparedGraph,
        units: Sequence[Unit],
        nearest: QuantizerState,
        values: GroupValues,
        settings: Reconstruction,
        seed: int,
        report: Callable[[int, float], None],
        *more: Any,
    ) -> tuple[QuantizerState, GroupResult]:
        spent = times.setdefault(units[0].name, ([], []))
        for way, seconds in zip(("none", settings.window), spent, strict=True):
            chosen, last = settings.model_copy(update={"window": way}), time.process_time()

            def timed(step: int, loss: float, seconds: list[float] = seconds) -> None:
                nonlocal last
                now = time.process_time()
                seconds.append(now - last)
                last = time.process_time()

            found = optimize_group(prepared, units, nearest, values, chosen, seed, timed, *more)
        return found

    with mock.patch.object(reconstruction, "optimize_group", optimize_both):
        yield


def _measure(network: str, side: int, batch: int, window: int) -> Result:
    model, images = random_network(network, side, batch)
    settings = {
        "reconstruct.steps": STEPS,
        "reconstruct.batch_size": batch,
        "reconstruct.window": window,
        "reconstruct.early_stop": False,
        "network.steps": 0,
        "network.learn": "scales",
    }
    times: dict[str, tuple[list[float], list[float]]] = {}
    with _both_ways(times):
        recipe = mrecg.preset("w4a4-qdrop", settings)
        record = mrecg.quantize(model, images, recipe=recipe, progress=False).record
    shapes = {unit.name: unit.shape for unit in record.units}
    units = [
        {
            "unit": name,
            "shape": shapes[name],
            "whole_ms": 1e3 * statistics.median(whole[1:]),
            "window_ms": 1e3 * statistics.median(cut[1:]),
        }
        for name, (whole, cut) in times.items()
    ]
    return {
        "network": network,
        "side": side,
        "batch": batch,
        "window": window,
        "units": units,
        "commit": commit(),
        "environment": record.environment,
    }


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS_AT), metavar="NAME@SIDE")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--window", type=int, default=Reconstruction().window)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and store, every network."""
    for place in arguments.networks:
        network, side = place.split("@")
        result = _measure(network, int(side), arguments.batch, arguments.window)
        performance_store("window_step", arguments.results).add(result)
        whole, cut = (sum(u[way] for u in result["units"]) for way in ("whole_ms", "window_ms"))
        print(f"{place}: {whole:.0f} → {cut:.0f} ms for a step of every unit", flush=True)


def windows_section(folder: Path) -> list[str]:
    """Return the page's section about windows; nothing where nothing was measured."""
    speeds = performance_store("window_step", folder).read()
    qualities = windows_store(folder).read()
    rows: list[tuple[object, ...]] = []
    for result in speeds:
        for unit in result["units"]:
            times = unit["whole_ms"], unit["window_ms"]
            shape = " × ".join(map(str, unit["shape"]))
            rows.append((result["network"], unit["unit"], shape, *(f"{one:.0f}" for one in times)))
        sums = (sum(u[way] for u in result["units"]) for way in ("whole_ms", "window_ms"))
        rows.append((result["network"], "all units", "", *(f"**{one:.0f}**" for one in sums)))
    columns = "network | unit | its output | whole maps (ms) | windows (ms)"
    found = [SPEED, *table(columns, rows)] if rows else []
    return [*found, *([QUALITY, *windows_table(qualities)] if qualities else []), ""]
