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
        code_steps: in which the network as a whole learns codes; it learns scales alone where it is `None`.
    """

    network: str
    cell: Cell
    steps: int
    images: int
    code_steps: int | None = None

    def fields(self) -> dict[str, Any]:
        """Return what tells this run from others, as fields of its result; one without a schedule ran on `fast`."""
        cell = self.cell
        optional: dict[str, Any] = {}
        if cell.schedule != "fast":
            optional["schedule"] = cell.schedule
        if self.code_steps is not None:
            optional["code_steps"] = self.code_steps
        return {
            **optional,
            "network": self.network,
            "bits": cell.bits,
            "method": cell.method,
            "steps": self.steps,
            "images": self.images,
            "seed": cell.seed,
        }

    def recipe(self, overrides: Mapping[str, Any]) -> Recipe:
        """Return the paper's settings at this run's budget, with `overrides` over them."""
        budget = {"reconstruct.batch_size": BATCH_SIZE, "reconstruct.steps": self.steps}
        stage: dict[str, Any] = {"network.learn": "scales"}
        if self.code_steps is not None:
            stage = {"network.learn": "codes", "network.steps": self.code_steps}
        return self.cell.recipe({**budget, **stage, **overrides})


def runs(
    networks: Sequence[str],
    bits: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    images: int,
    schedule: Schedule = "fast",
    code_steps: int | None = None,
) -> list[Run]:
    """Return every combination, seed by seed.

    Raises:
        RecipeError: an axis is empty or has an unknown value.
    """
    found = [
        Run(network, cell, steps, images, code_steps)
        for network in networks
        for cell in cells(TableAxes([NETWORKS[network]], bits, methods, (schedule,), seeds))
    ]
    return sorted(found, key=lambda run: seeds.index(run.cell.seed))
