"""Estimates of time and memory for the cells of the table, before they run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mrecg.errors import MrecgError
from mrecg.paper.networks import build
from mrecg.paper.published import find_checkpoint
from mrecg.paper.reproduction.cell_runs import Budget, Sources, finished_run
from mrecg.paper.reproduction.table_axes import Cell
from mrecg.pipeline import Estimate, prepare

__all__ = ["estimate_cells"]

_PROBED = 4
"""Images that the forward passes of an estimate are timed on."""


def estimate_cells(
    cells: Sequence[Cell], sources: Sources, budget: Budget, output: Path
) -> list[tuple[Cell, Estimate | str]]:
    """Estimate every cell that has no run in `output` yet, or say why it cannot run.

    Time and memory are those of the quantization, to within a factor of about two; weights and images are not read.
    """
    models: dict[str, nn.Module] = {}
    found: list[tuple[Cell, Estimate | str]] = []
    for cell in cells:
        try:
            if finished_run(cell, sources, budget, output / cell.name) is not None:
                continue
            find_checkpoint(sources.checkpoints, cell.network)
            if cell.network not in models:
                models = {cell.network: build(cell.network)}
            found.append((cell, _estimate(cell, models[cell.network], sources, budget)))
        except MrecgError as error:
            found.append((cell, str(error)))
    return found


def _estimate(cell: Cell, model: nn.Module, sources: Sources, budget: Budget) -> Estimate:
    usual = sources.preprocessing(cell.network)
    probe = torch.zeros(_PROBED, usual.channels, usual.crop, usual.crop)
    prepared = prepare(model, probe, recipe=cell.recipe(budget.overrides))
    return prepared.estimate(images=budget.images_for(cell.network))
