"""Which cells the table has, and the recipe of each."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrecg.config.presets import METHODS as PRESET_METHODS
from mrecg.config.presets import preset
from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError, did_you_mean
from mrecg.paper.published import NETWORKS

__all__ = ["BITS", "METHODS", "Cell", "Grid", "cells"]

BITS = ("w4a4", "w2a4", "w3a3", "w2a2")
METHODS = tuple(
    f"{method}{suffix}" for method in ("brecq", "qdrop") for suffix in ("", "-mrecg", "-scheme")
)
"""Of each method: single blocks, blocks joined automatically, blocks joined as in the authors' files."""


class Cell(NamedTuple):
    """One figure of the table."""

    network: str
    bits: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Also of its run folder."""
        return f"{self.network}-{self.bits}-{self.method}-seed{self.seed}"

    def recipe(self, overrides: Mapping[str, Any]) -> Recipe:
        """The paper's settings for the network, with the caller's over them.

        Raises:
            RecipeError: a setting cannot be used.
        """
        method = self.method.removesuffix("-scheme")
        paper = NETWORKS[self.network]
        settings = {"seed": self.seed, "reconstruct.steps": 20000, **paper.overrides()}
        if self.method.endswith("-scheme"):
            settings |= {"plan.join": "scheme", "plan.scheme": list(paper.scheme)}
        if method == "rtn":
            settings["reconstruct.steps"] = 0
            overrides = {k: v for k, v in overrides.items() if k != "reconstruct.steps"}
        return preset(f"{self.bits}-{method}", settings | dict(overrides))


class Grid(NamedTuple):
    """The axes of the table."""

    networks: Sequence[str] = tuple(NETWORKS)
    bits: Sequence[str] = BITS
    methods: Sequence[str] = METHODS
    seeds: Sequence[int] = (1005,)


def cells(grid: Grid) -> list[Cell]:
    """Every combination, network by network.

    Raises:
        RecipeError: an axis is empty or has an unknown value.
    """
    methods = (*METHODS, *(name for name in PRESET_METHODS if name not in METHODS))
    for values, known, what in (
        (grid.networks, tuple(NETWORKS), "network of the paper's table"),
        (grid.methods, methods, "method"),
    ):
        for value in values:
            if value not in known:
                raise RecipeError(f"There is no {what} '{value}'{did_you_mean(value, known)}.")
    if not all(grid):
        raise RecipeError(
            "The grid has no cells; give at least one network, width, method and seed."
        )
    found = [Cell(*values) for values in itertools.product(*grid)]
    for cell in found:
        cell.recipe({})  # a width that no preset has is refused before anything runs
    return found
