"""How many steps, and images per step, a group gets, and in which precision, where the recipe leaves that to the size of the images.

A step sees a convolution's every position: a large image says in one step what many small ones say. On photographs of 224², steps of 8
images bring a network as near to float as steps of 32, and more steps bring it no nearer, from 4 bits on (docs/efficientnet-lite0.md). Weights of
fewer bits need all steps. On small images a step in bfloat16 is a sixth shorter at best, so results there are the same on all processors.
"""

import math

from mrecg.config.optimization import DEFAULT_BATCH_SIZE, DEFAULT_STEPS
from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ModelInputs, tensors_of
from mrecg.records.record import Record

__all__ = ["fit_budget", "fit_record", "positions_of"]

SMALL = 64 * 64
"""Positions of an image up to which the default budget is that of small images."""
FEWEST_STEPS, FEWEST_IMAGES = 125, 8
FEW_BITS = 4
"""Weights of fewer bits get all steps."""


def positions_of(images: ModelInputs) -> int:
    """Return the positions of the largest input of one image: height times width of an image, 1 of a vector."""
    return max(math.prod(one.shape[2:]) for one in tensors_of(images))


def fit_budget(recipe: Recipe, positions: int) -> Recipe:
    """Return the recipe with numbers in the place of an automatic budget; others stay as they are.

    For large images an automatic precision is the fastest one, which depends on the processor (`choose_precision`).

    Args:
        recipe: the choices.
        positions: of one image.
    """
    larger, settings = max(1.0, positions / SMALL), recipe.reconstruct
    automatic: dict[str, int | str] = {
        "steps": DEFAULT_STEPS
        if recipe.weight.bits < FEW_BITS
        else max(FEWEST_STEPS, round(DEFAULT_STEPS / math.sqrt(larger))),
        "batch_size": max(FEWEST_IMAGES, int(DEFAULT_BATCH_SIZE / larger)),
        "precision": "float32" if larger == 1 else "fastest",
    }
    chosen = {
        f"reconstruct.{name}": value
        for name, value in automatic.items()
        if getattr(settings, name) == "auto"
    }
    return recipe.override(chosen) if chosen else recipe


def fit_record(recipe: Recipe, record: Record) -> Recipe:
    """Return the recipe with numbers for the images that a record's run was given."""
    shapes = record.input_shapes.values() or [record.input_shape]
    return fit_budget(recipe, max(math.prod(shape[1:]) for shape in shapes))
