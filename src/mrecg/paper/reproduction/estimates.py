"""What the cells will cost, before they run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mrecg.errors import MrecgError
from mrecg.paper.networks import build
from mrecg.paper.published import find_checkpoint
from mrecg.paper.reproduction.grid import Cell
from mrecg.paper.reproduction.running import Budget, Sources, finished_run
from mrecg.pipeline import Estimate, foresee

__all__ = ["estimates"]

_PROBED = 4


def estimates(
    cells: Sequence[Cell], sources: Sources, budget: Budget, output: Path
) -> list[tuple[Cell, Estimate | str]]:
    """What every cell that has no run in `output` yet will cost, or why it cannot run.

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
            usual = sources.preprocessing(cell.network)
            probe = torch.zeros(_PROBED, usual.channels, usual.crop, usual.crop)
            recipe = cell.recipe(budget.overrides)
            model, count = models[cell.network], budget.images_for(cell.network)
            found.append((cell, foresee(model, probe, count, recipe)))
        except MrecgError as error:
            found.append((cell, str(error)))
    return found
