"""Cells of the accuracy table: those of the paper's table, on small networks and with a smaller budget."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrecg.config.presets import Schedule
from mrecg.config.recipe import Recipe
from mrecg.paper.reproduction import TABLE_BITS as BITS
from mrecg.paper.reproduction import TABLE_METHODS, Cell, TableAxes, cells

__all__ = ["BITS", "METHODS", "NETWORKS", "USUAL_METHODS", "Run", "runs"]

NETWORKS = {
    "mbv2s": "mobilenetv2_100",
    "mobilenetv2_small": "mobilenetv2_100",
    "regnetx_small": "regnetx_600m",
    "resnet18_small": "resnet18",
    "resnet18s": "resnet18",
}
"""The paper's network whose settings each network of ours is quantized with."""
METHODS = ("rtn", "adaround", *TABLE_METHODS)
USUAL_METHODS = tuple(name for name in METHODS if not name.endswith("-scheme"))
"""Those that are measured unless others are asked for."""
BATCH_SIZE = 32


class Run(NamedTuple):
    """One figure of the table.

    Attributes:
        network: of ours.
        cell: of the paper's table.
        steps: of each group.
        images: that calibrate.
    """

    network: str
    cell: Cell
    steps: int
    images: int

    def fields(self) -> dict[str, Any]:
        """Return what tells this run from others, as fields of its result; one without a schedule ran on `fast`."""
        cell = self.cell
        schedule = {} if cell.schedule == "fast" else {"schedule": cell.schedule}
        return {
            **schedule,
            "network": self.network,
            "bits": cell.bits,
            "method": cell.method,
            "steps": self.steps,
            "images": self.images,
            "seed": cell.seed,
        }

    def recipe(self, overrides: Mapping[str, Any]) -> Recipe:
        """Return the paper's settings at this run's budget, with `overrides` over them.

        The network as a whole learns scales alone: the table compares methods of reconstruction.
        """
        budget = {
            "reconstruct.batch_size": BATCH_SIZE,
            "reconstruct.steps": self.steps,
            "network.learn": "scales",
        }
        return self.cell.recipe({**budget, **overrides})


def runs(
    networks: Sequence[str],
    bits: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    images: int,
    schedule: Schedule = "fast",
) -> list[Run]:
    """Return every combination, seed by seed.

    Raises:
        RecipeError: an axis is empty or has an unknown value.
    """
    found = [
        Run(network, cell, steps, images)
        for network in networks
        for cell in cells(TableAxes([NETWORKS[network]], bits, methods, (schedule,), seeds))
    ]
    return sorted(found, key=lambda run: seeds.index(run.cell.seed))
