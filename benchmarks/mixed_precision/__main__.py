"""Compare spreads of the same weight bits over the layers; cells that have a result are skipped.

    python -m benchmarks.mixed_precision measure --networks mbv2s resnet18s --reference ../reference
    python -m benchmarks.mixed_precision render                # the table in docs/bits.md

Calibration images are the first 256 of a permutation of the training set, and networks are compared on the last 4,000 of it.
Test images decide nothing: top-1 is there to be read.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import float_network
from benchmarks.checkpoints import OUR_NETWORKS
from benchmarks.commands import Command, rendering, run_command
from benchmarks.mixed_precision.measure import SPREADS, measure_spread
from benchmarks.mixed_precision.render import spreads_store, write_bits
from mrecg.data.fashion_mnist import DEBIAN_FOLDER


def _configure(command: argparse.ArgumentParser) -> None:
    command.add_argument("--networks", nargs="+", choices=NETWORKS, default=OUR_NETWORKS)
    command.add_argument("--bits", nargs="+", default=["w3a8"])
    command.add_argument("--spreads", nargs="+", choices=SPREADS, default=[*SPREADS])
    command.add_argument("--seeds", nargs="+", type=int, default=[1005, 1006, 1007])
    command.add_argument("--steps", type=int, default=125)
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


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (Command("measure", _configure, _measure), rendering("bits.md", write_bits))
    run_command(__doc__, commands, given)


if __name__ == "__main__":
    main()
