"""Compare rounding in closed form with few steps at equal CPU seconds; cells that have a result are skipped.

    python -m benchmarks.closed_form measure --networks resnet18s mbv2s --reference ../reference
    python -m benchmarks.closed_form render               # the table in docs/closed-form.md

Rounding in closed form draws nothing, so that not the seed varies but the images: set 0 is the first 256 of a permutation of the
training set, set 1 the next 256. Networks are compared on the last 4,000 of it. Test images decide nothing.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import float_network
from benchmarks.closed_form.measure import VARIANTS, measure_variant
from benchmarks.closed_form.render import closed_form_store, write_closed_form
from benchmarks.commands import Command, rendering, run_command
from mrecg.data.fashion_mnist import DEBIAN_FOLDER

_BITS = ("w4a8", "w3a8", "w4a4", "w2a4")


def _configure(command: argparse.ArgumentParser) -> None:
    command.add_argument("--networks", nargs="+", choices=NETWORKS, required=True)
    command.add_argument("--bits", nargs="+", default=[*_BITS])
    command.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    command.add_argument("--sets", nargs="+", type=int, default=[0, 1, 2])
    command.add_argument("--images", type=int, default=256)
    command.add_argument("--reference", type=Path, help="folder of the reference checkpoints")
    command.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="of the IDX files")


def _measure(arguments: argparse.Namespace) -> None:
    store = closed_form_store(arguments.results)
    axes = (arguments.sets, arguments.networks, arguments.bits, arguments.variants)
    for values in itertools.product(*axes):
        cell = dict(zip(("set", "network", "bits", "variant"), values, strict=True))
        cell |= {"images": arguments.images}
        if cell in store:
            continue
        model = float_network(cell["network"], arguments.reference)
        result = measure_variant(model, arguments.data, cell)
        store.add(cell | result)
        shown = f"{result['divergence']:.5f}", f"{result['cpu_seconds']:.1f} s"
        print(*cell.values(), *shown, flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure, _measure),
        rendering("closed-form.md", write_closed_form),
    )
    run_command(__doc__, commands, given, threads=1)


if __name__ == "__main__":
    main()
