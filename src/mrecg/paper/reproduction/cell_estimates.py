"""Estimates of time and memory for the cells of the table, before they run."""

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from mrecg.config.recipe import Recipe
from mrecg.errors import MrecgError
from mrecg.paper.networks import build
from mrecg.paper.published import find_checkpoint
from mrecg.paper.reproduction.cell_runs import Budget, Sources, finished_run
from mrecg.paper.reproduction.table_axes import Cell
from mrecg.pipeline import PreparedModel, prepare
from mrecg.planning.estimate import Estimate
from mrecg.shortage import require_memory

__all__ = ["Expectation", "estimate_cells"]

_PROBED = 4
"""Images that the forward passes of an estimate are timed on."""


_WITHOUT_COST = {
    "name": "",
    "seed": 0,
    "weight.bits": 4,
    "activation.bits": 4,
    "weight.ranges.method": "minmax",
}
"""Settings that time and memory do not depend on; the method of the ranges spares the estimate a search."""


class Expectation(NamedTuple):
    """Say what to expect of cells: of one what it takes, or of one or more why they cannot run."""

    cells: tuple[Cell, ...]
    found: Estimate | str


def estimate_cells(
    cells: Sequence[Cell], sources: Sources, budget: Budget, output: Path
) -> Iterator[Expectation]:
    """Estimate every cell that has no run in `output` yet, or say why it cannot run; what several lack is said once.

    Time and memory are those of the quantization, to within a third. Each network is captured once; weights
    and images are not read.
    """
    pending: list[Cell] = []
    for cell in cells:
        try:
            if finished_run(cell, sources, budget, output / cell.name) is None:
                pending.append(cell)
        except MrecgError as error:
            yield Expectation((cell,), str(error))
    if not pending:
        return
    try:
        sources.evaluation(pending[0].network)
    except MrecgError as error:
        yield Expectation(tuple(pending), str(error))
        return
    for network, group in itertools.groupby(pending, lambda cell: cell.network):
        yield from _estimate_network(network, tuple(group), sources, budget)


def _estimate_network(
    network: str, cells: tuple[Cell, ...], sources: Sources, budget: Budget
) -> Iterator[Expectation]:
    try:
        find_checkpoint(sources.checkpoints, network)
    except MrecgError as error:
        yield Expectation(cells, str(error))
        return
    try:
        estimates = _Estimates(network, sources, budget)
    except MrecgError as error:
        yield Expectation(cells, str(error))
        return
    for cell in cells:
        try:
            yield Expectation((cell,), estimates.of(cell.recipe(budget.overrides)))
        except MrecgError as error:
            yield Expectation((cell,), str(error))


class _Estimates:
    """Estimate the cells of one network; what cells have in common is found once."""

    def __init__(self, network: str, sources: Sources, budget: Budget) -> None:
        usual = sources.preprocessing(network)
        self._model = build(network)
        require_memory(_PROBED, usual.shape)
        self._probe = torch.zeros(_PROBED, *usual.shape)
        self._images = budget.images_for(network)
        self._prepared: dict[Hashable, PreparedModel] = {}
        self._found: dict[Recipe, Estimate] = {}

    def of(self, recipe: Recipe) -> Estimate:
        recipe = recipe.override(_WITHOUT_COST)
        if recipe not in self._found:
            self._found[recipe] = self._prepare(recipe).estimate(images=self._images)
        return self._found[recipe]

    def _prepare(self, recipe: Recipe) -> PreparedModel:
        """Return the network under a recipe; recipes that only optimize or join otherwise share its graph."""
        plan, excluded = recipe.plan, recipe.reconstruct.exclude
        graph = (
            *(recipe.weight, recipe.activation, recipe.placement),
            *(excluded, plan.granularity, plan.cut),
        )
        if graph not in self._prepared:
            self._prepared[graph] = prepare(self._model, self._probe, recipe=recipe)
        return replace(self._prepared[graph], recipe=recipe)
