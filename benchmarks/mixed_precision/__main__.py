"""Compare spreads of the same weight bits, try targets of accuracy, and time sensitivity; cells that have a result are skipped.

    python -m benchmarks.mixed_precision measure --networks mbv2s resnet18s --reference ../reference
    python -m benchmarks.mixed_precision target --networks mbv2s resnet18s --reference ../reference
    python -m benchmarks.mixed_precision --threads 2 time      # sensitivity of MobileNetV2 at 224²
    python -m benchmarks.mixed_precision render                # the tables in docs/bits.md

Calibration images are the first 256 of a permutation of the training set, and networks are compared on the last 4,000 of it.
Test images decide nothing: top-1 is there to be read. A target is judged by the labels of those 4,000.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import float_network
from benchmarks.checkpoints import OUR_NETWORKS
from benchmarks.commands import Command, rendering, run_command
from benchmarks.mixed_precision.measure import SPREADS, measure_spread
from benchmarks.mixed_precision.render import (
    spreads_store,
    targets_store,
    timing_store,
    write_bits,
)
from benchmarks.mixed_precision.targets import measure_target
from benchmarks.mixed_precision.timing import time_sensitivity
from mrecg.data.fashion_mnist import DEBIAN_FOLDER


def _configure(command: argparse.ArgumentParser) -> None:
    _configure_cells(command, steps=125)
    command.add_argument("--spreads", nargs="+", choices=SPREADS, default=[*SPREADS])
    command.add_argument("--seeds", nargs="+", type=int, default=[1005, 1006, 1007])


def _configure_target(command: argparse.ArgumentParser) -> None:
    _configure_cells(command, steps=40)
    command.add_argument("--budgets", nargs="+", default=["3bits"])
    command.add_argument("--drops", nargs="+", type=float, default=[0.5, 0.1], help="of top-1")
    command.add_argument("--seeds", nargs="+", type=int, default=[1005])


def _configure_time(command: argparse.ArgumentParser) -> None:
    command.add_argument("--network", default="mobilenetv2_100")
    command.add_argument("--images", type=int, default=64)
    command.add_argument("--size", type=int, default=224)


def _configure_cells(command: argparse.ArgumentParser, steps: int) -> None:
    command.add_argument("--networks", nargs="+", choices=NETWORKS, default=OUR_NETWORKS)
    command.add_argument("--bits", nargs="+", default=["w3a8"])
    command.add_argument("--steps", type=int, default=steps)
    command.add_argument("--images", type=int, default=256)
    command.add_argument("--reference", type=Path, help="folder of the reference checkpoints")
    command.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="of the IDX files")
    command.add_argument("--device", default="cpu")


def _measure(arguments: argparse.Namespace) -> None:
    store = spreads_store(arguments.results)
    axes = (arguments.seeds, arguments.networks, arguments.bits, arguments.spreads)
    for values in itertools.product(*axes):
        cell = dict(zip(("seed", "network", "bits", "spread"), values, strict=True))
        cell |= {"steps": arguments.steps, "images": arguments.images}
        if cell in store:
            continue
        model = float_network(cell["network"], arguments.reference).to(arguments.device)
        result = measure_spread(model, arguments.data, cell)
        store.add(cell | result)
        print(*cell.values(), f"{result['divergence']:.5f}", result["bytes"], flush=True)


def _target(arguments: argparse.Namespace) -> None:
    store = targets_store(arguments.results)
    names = ("seed", "network", "bits", "budget", "drop")
    axes = (
        arguments.seeds,
        arguments.networks,
        arguments.bits,
        arguments.budgets,
        arguments.drops,
    )
    for values in itertools.product(*axes):
        cell = dict(zip(names, values, strict=True))
        cell |= {"steps": arguments.steps, "images": arguments.images}
        if cell in store:
            continue
        model = float_network(cell["network"], arguments.reference)
        result = measure_target(model, arguments.data, cell)
        store.add(cell | result)
        print(*cell.values(), result["held"], f"{result['cpu_seconds']:.0f} s", flush=True)


def _time(arguments: argparse.Namespace) -> None:
    cell = {
        "network": arguments.network,
        "images": arguments.images,
        "size": arguments.size,
        "threads": torch.get_num_threads(),
    }
    result = time_sensitivity(cell)
    timing_store(arguments.results).add(cell | result)
    print(*cell.values(), f"{result['seconds']:.0f} s", flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure, _measure),
        Command("target", _configure_target, _target),
        Command("time", _configure_time, _time),
        rendering("bits.md", write_bits),
    )
    run_command(__doc__, commands, given)


if __name__ == "__main__":
    main()
