"""The axes and cells of the paper's table, and the recipe of each cell."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrecg.config.presets import METHODS, Schedule, check_schedule, preset
from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError, did_you_mean
from mrecg.paper.published import PAPER_NETWORKS

__all__ = ["TABLE_BITS", "TABLE_METHODS", "Cell", "TableAxes", "cells"]

TABLE_BITS = ("w4a4", "w2a4", "w3a3", "w2a2")
TABLE_METHODS = tuple(
    f"{method}{suffix}" for method in ("brecq", "qdrop") for suffix in ("", "-mrecg", "-scheme")
)
"""Each method with single blocks, with blocks joined automatically, and joined as in the authors' files."""


class Cell(NamedTuple):
    """Identify one figure of the table."""

    network: str
    bits: str
    method: str
    schedule: Schedule
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the cell, which is that of its run folder."""
        return f"{self.network}-{self.bits}-{self.method}-{self.schedule}-seed{self.seed}"

    def recipe(self, overrides: Mapping[str, Any]) -> Recipe:
        """Return the recipe of the cell, overridden by the caller's settings.

        λ is the authors' for the network; on the schedule `paper` so are the batch size and, where nothing is joined, the
        units.

        Raises:
            RecipeError: a setting cannot be used.
        """
        method = self.method.removesuffix("-scheme")
        paper = PAPER_NETWORKS[self.network]
        settings: dict[str, Any] = {"seed": self.seed, "reconstruct.penalty": paper.penalty}
        if self.schedule == "paper":
            settings["reconstruct.batch_size"] = paper.batch_size
            if method in ("brecq", "qdrop"):
                settings |= paper.without_joins
        if self.method.endswith("-scheme"):
            settings |= {"plan.join": "scheme", "plan.scheme": list(paper.scheme)}
        if method == "rtn":
            overrides = {k: v for k, v in overrides.items() if k != "reconstruct.steps"}
        return preset(f"{self.bits}-{method}", settings | dict(overrides), self.schedule)


class TableAxes(NamedTuple):
    """Name the values along each axis of the table."""

    networks: Sequence[str] = tuple(PAPER_NETWORKS)
    bits: Sequence[str] = TABLE_BITS
    methods: Sequence[str] = TABLE_METHODS
    schedules: Sequence[str] = ("paper",)
    seeds: Sequence[int] = (1005,)


def cells(axes: TableAxes) -> list[Cell]:
    """Return every combination, network by network.

    Raises:
        RecipeError: an axis is empty or has an unknown value.
    """
    methods = (*TABLE_METHODS, *(name for name in METHODS if name not in TABLE_METHODS))
    for values, known, what in (
        (axes.networks, tuple(PAPER_NETWORKS), "network of the paper's table"),
        (axes.methods, methods, "method"),
    ):
        for value in values:
            if value not in known:
                raise RecipeError(f"There is no {what} '{value}'{did_you_mean(value, known)}")
    if not all(axes):
        raise RecipeError(
            "The table has no cells; give at least one network, width, method, schedule and seed."
        )
    schedules = [check_schedule(name) for name in axes.schedules]
    found = [
        Cell(*values)
        for values in itertools.product(
            axes.networks, axes.bits, axes.methods, schedules, axes.seeds
        )
    ]
    for cell in found:
        cell.recipe({})  # a width that no preset has is refused before anything runs
    return found
