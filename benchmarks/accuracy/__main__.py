"""Accuracy of every method at every width; cells that have a result are skipped.

    python -m benchmarks.accuracy measure --networks mobilenetv2_small --bits w2a2 --methods brecq qdrop qdrop-mrecg
    python -m benchmarks.accuracy measure --reference ../reference --networks resnet18s mbv2s
    python -m benchmarks.accuracy measure --reference ../reference --networks mbv2s --schedule paper --methods brecq
    python -m benchmarks.accuracy measure --without early-stop --bits w2a2 --methods qdrop-mrecg
    python -m benchmarks.accuracy render                # docs/results.md and the table in the README

Images: 256 of the training set, `numpy.random.RandomState(1005).permutation(60000)`; test: all 10,000 test images.
Seeds decide batches and dropping, not the images. Several processes may share the work with `--part 1/2`, `2/2`.
What `--without` takes away is one of `choices.CHOICES`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablations import without
from benchmarks.accuracy.cells import BITS, NETWORKS, USUAL_METHODS, runs
from benchmarks.accuracy.choices import CHOICES
from benchmarks.accuracy.measure import float_network, measure
from benchmarks.accuracy.render import write_results
from benchmarks.accuracy.results import accuracy_store
from benchmarks.checkpoints import OUR_NETWORKS
from benchmarks.commands import Command, rendering, run_command
from mrecg.config.presets import SCHEDULES
from mrecg.data.fashion_mnist import DEBIAN_FOLDER


def _configure(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument("--networks", nargs="+", choices=NETWORKS, default=OUR_NETWORKS)
    measuring.add_argument("--bits", nargs="+", default=list(BITS))
    measuring.add_argument("--methods", nargs="+", default=list(USUAL_METHODS))
    measuring.add_argument("--seeds", nargs="+", type=int, default=[1005, 1006, 1007])
    measuring.add_argument("--schedule", choices=SCHEDULES, default="fast")
    measuring.add_argument("--steps", type=int, default=500)
    measuring.add_argument("--images", type=int, default=256)
    measuring.add_argument("--reference", type=Path, help="folder of the reference checkpoints")
    measuring.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="of the IDX files")
    measuring.add_argument("--without", choices=CHOICES, help="take away one of our choices")
    measuring.add_argument(
        "--codes", type=int, metavar="STEPS", help="the network as a whole learns codes, too"
    )
    measuring.add_argument("--device", default="cpu")
    measuring.add_argument("--part", default="1/1", help="this process's share, such as 2/2")
    measuring.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides")


def _measure(arguments: argparse.Namespace) -> None:
    store = accuracy_store(arguments.results)
    given = (item.split("=", 1) for item in arguments.overrides)
    overrides = CHOICES.get(arguments.without, {}) | {key: json.loads(v) for key, v in given}
    part, parts = map(int, arguments.part.split("/"))
    axes = (arguments.networks, arguments.bits, arguments.methods, arguments.seeds)
    budget = (arguments.steps, arguments.images, arguments.schedule, arguments.codes)
    for run in runs(*axes, *budget)[part - 1 :: parts]:
        key = {**run.fields(), "without": arguments.without}
        if key in store:
            continue
        model = float_network(run.network, arguments.reference).to(arguments.device)
        with without(arguments.without):
            result = measure(run, model, arguments.data, overrides)
        store.add(key | result)
        name = f"{run.network} {run.cell.bits} {run.cell.method}, seed {run.cell.seed}"
        print(f"{name}: {result['top1']:.2f} %", flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (Command("measure", _configure, _measure), rendering("results.md", write_results))
    run_command(__doc__, commands, given)


if __name__ == "__main__":
    main()
