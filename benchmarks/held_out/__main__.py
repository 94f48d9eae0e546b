"""Compare choices of ours on training images that calibrated nothing; cells that have a result are skipped.

    python -m benchmarks.held_out measure --variants joins
    python -m benchmarks.held_out measure --variants network --networks mbv2s --reference ../reference
    python -m benchmarks.held_out judges                # which images tell best whether a join helps
    python -m benchmarks.held_out render                # docs/choices.md

Test images are not read. Images: 256 of the training set, the first of `numpy.random.RandomState(1005).permutation(60000)`;
compared on the last 4,000 of it. Several processes may share the work with `--part 1/2`, `2/2`.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import NETWORKS
from benchmarks.accuracy.measure import float_network
from benchmarks.checkpoints import OUR_NETWORKS
from benchmarks.commands import Command, rendering, run_command
from benchmarks.held_out.measure import judge_joins, measure_variant, recipe_of
from benchmarks.held_out.render import write_choices
from benchmarks.held_out.results import held_out_store, judges_store
from benchmarks.held_out.variants import GROUPS, VARIANTS
from benchmarks.provenance import commit
from mrecg.data.fashion_mnist import DEBIAN_FOLDER


def _configure_cells(command: argparse.ArgumentParser) -> None:
    command.add_argument("--networks", nargs="+", choices=NETWORKS, default=OUR_NETWORKS)
    command.add_argument("--bits", nargs="+", default=["w2a2"])
    command.add_argument("--seeds", nargs="+", type=int, default=[1005, 1006, 1007])
    command.add_argument("--steps", type=int, default=125)
    command.add_argument("--images", type=int, default=256)
    command.add_argument("--reference", type=Path, help="folder of the reference checkpoints")
    command.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="of the IDX files")
    command.add_argument("--device", default="cpu")
    command.add_argument("--part", default="1/1", help="this process's share, such as 2/2")


def _configure_measure(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--variants", nargs="+", choices=[*GROUPS, *VARIANTS], default=[*GROUPS], metavar="NAME"
    )
    _configure_cells(command)


def _cells(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    part, parts = map(int, arguments.part.split("/"))
    axes = (arguments.seeds, arguments.networks, arguments.bits, names)
    fields = ("seed", "network", "bits", "variant")
    for values in list(itertools.product(*axes))[part - 1 :: parts]:
        cell = dict(zip(fields, values, strict=True))
        yield cell | {"steps": arguments.steps, "images": arguments.images}


def _measure(arguments: argparse.Namespace) -> None:
    store = held_out_store(arguments.results)
    names = [name for given in arguments.variants for name in GROUPS.get(given, [given])]
    for cell in _cells(arguments, list(dict.fromkeys(names))):
        if cell in store:
            continue
        model = float_network(cell["network"], arguments.reference).to(arguments.device)
        recipe = recipe_of(
            cell["network"], cell["bits"], cell["variant"], cell["steps"], cell["seed"]
        )
        variant = VARIANTS[cell["variant"]]
        result = measure_variant(model, arguments.data, cell["images"], recipe, variant)
        store.add(cell | result)
        print(*cell.values(), f"{result['divergence']:.4f}", flush=True)


def _judge(arguments: argparse.Namespace) -> None:
    store = judges_store(arguments.results)
    for cell in _cells(arguments, ["gain"]):
        if cell in store:
            continue
        model = float_network(cell["network"], arguments.reference).to(arguments.device)
        recipe = recipe_of(cell["network"], cell["bits"], "gain", cell["steps"], cell["seed"])
        joins = judge_joins(model, arguments.data, cell["images"], recipe)
        stored = {"recipe": recipe.model_dump(mode="json"), "commit": commit(), "joins": joins}
        store.add(cell | stored)
        print(*cell.values(), len(joins), "joins", flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    commands = (
        Command("measure", _configure_measure, _measure),
        Command("judges", _configure_cells, _judge),
        rendering("choices.md", write_choices),
    )
    run_command(__doc__, commands, given)


if __name__ == "__main__":
    main()
