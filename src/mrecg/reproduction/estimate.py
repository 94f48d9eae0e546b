"""What a cell will cost, before it runs."""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from mrecg.data import evaluation_batches
from mrecg.errors import MrecgError
from mrecg.pipeline import outline
from mrecg.recipe import Recipe
from mrecg.reproduction.grid import Cell
from mrecg.reproduction.published import find_checkpoint
from mrecg.reproduction.running import Budget, Sources
from mrecg.runs import is_finished
from mrecg.zoo import build

__all__ = ["Estimate", "estimate", "estimates"]

_STEP = {False: 1.2, True: 1.5}
"""Quantized step ÷ float forward and backward, without and with dropping."""
_PROBE = 2
_BYTES = 4


class Estimate(NamedTuple):
    """Seconds and bytes, to within a factor of about two."""

    seconds: float
    memory: int


def estimate(
    model: nn.Module, image_shape: tuple[int, ...], images: int, evaluated: int, recipe: Recipe
) -> Estimate:
    """Time and memory of quantizing and evaluating `model` on this machine.

    Every step passes forward and backward through one group, so that a step of all groups is one of the network.

    Args:
        model: the float network.
        image_shape: of one image.
        images: for calibration.
        evaluated: for evaluation.
        recipe: steps, batch size and plan.

    Raises:
        MrecgError: the model cannot be captured.
    """
    probe = torch.zeros(_PROBE, *image_shape)
    forward, both = _seconds_per_image(model, probe)
    tuning = recipe.reconstruct
    passes = tuning.steps * tuning.batch_size * _STEP[tuning.keep_quantized_probability < 1]
    if recipe.plan.join == "loss":
        passes *= 1 + recipe.plan.loss_steps
    seconds = passes * both + (3 * images + 2 * evaluated) * forward
    sizes = [probe[0].numel(), *(math.prod(unit.shape) for unit in outline(model, probe, recipe))]
    # Of one group the float and the quantized inputs are held, and the outputs that are being made.
    largest = max(2 * (first + second) for first, second in itertools.pairwise(sizes))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Estimate(seconds, _BYTES * (images * (sizes[0] + largest) + 6 * parameters))


def estimates(
    cells: Sequence[Cell], sources: Sources, budget: Budget, output: Path
) -> list[tuple[Cell, Estimate | str]]:
    """What every cell that has no run in `output` yet will cost, or why it cannot run; nothing is loaded."""
    models: dict[str, nn.Module] = {}
    evaluated = sources.evaluation_images or evaluation_batches(sources.data).count
    found: list[tuple[Cell, Estimate | str]] = []
    for cell in cells:
        if is_finished(output / cell.name):
            continue
        try:
            find_checkpoint(sources.checkpoints, cell.network)
            if cell.network not in models:
                models = {cell.network: build(cell.network)}
            usual = sources.preprocessing(cell.network)
            shape = (usual.channels, usual.crop, usual.crop)
            images, recipe = budget.images_for(cell.network), cell.recipe(budget.overrides)
            found.append((cell, estimate(models[cell.network], shape, images, evaluated, recipe)))
        except MrecgError as error:
            found.append((cell, str(error)))
    return found


def _seconds_per_image(model: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Of a forward pass, and of a forward and backward pass."""
    marks = []
    for _ in range(2):  # the first pass warms up
        marks = [time.perf_counter()]
        output = model(images.requires_grad_())
        marks.append(time.perf_counter())
        output.sum().backward()
        marks.append(time.perf_counter())
    model.zero_grad(set_to_none=True)
    return (marks[1] - marks[0]) / len(images), (marks[2] - marks[0]) / len(images)
