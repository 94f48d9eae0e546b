"""Check the arguments of a run before anything is read or captured."""

from collections.abc import Iterable
from pathlib import Path

from mrecg.config.presets import preset
from mrecg.config.recipe import Recipe, read_recipe
from mrecg.config.texts import bytes_of
from mrecg.errors import DataError, RecipeError, StorageError, expect
from mrecg.graph.insert import Quantizer
from mrecg.preparation.calibration import CalibrationImages, is_dataset
from mrecg.preparation.models import check_model

__all__ = ["check_arguments", "resolve_memory", "resolve_recipe"]


def check_arguments(model: object, calibration: object, quantizer: object) -> None:
    """Refuse arguments of other kinds than `mrecg.prepare` takes.

    Raises:
        MrecgError: naming the argument, what it is, and what to give.
    """
    check_model(model)
    advice = "give images as a tensor, or an iterable of image tensors, batches or (images, labels)"
    if not is_dataset(calibration):
        expect(
            calibration,
            (CalibrationImages, Iterable),
            "The calibration set",
            advice,
            DataError,
        )
    if quantizer is not None:
        expect(quantizer, Quantizer, "The quantizer", "give one of torchao's PT2E", RecipeError)


def resolve_recipe(recipe: object) -> Recipe:
    """Return a recipe, that of a preset's name, or that in a file whose name ends in .yaml or .yml.

    Raises:
        RecipeError: it is neither, or there is none of that name.
    """
    advice = "make one with mrecg.preset, or name a preset such as 'w4a4-qdrop-mrecg'"
    expect(recipe, (Recipe, str), "The recipe", advice, RecipeError)
    if isinstance(recipe, Recipe):
        return recipe
    assert isinstance(recipe, str)
    return read_recipe(recipe) if Path(recipe).suffix in (".yaml", ".yml") else preset(recipe)


def resolve_memory(memory: object) -> int | None:
    """Return a budget in bytes; `None` is no limit.

    Raises:
        StorageError: it is no number of bytes and no size such as `2GiB`.
    """
    if memory is None:
        return None
    advice = "give bytes, or a size such as '2GiB'"
    expect(memory, (int, str), "The memory budget", advice, StorageError)
    assert isinstance(memory, int | str)
    budget = bytes_of(memory) if isinstance(memory, str) else memory
    if budget < 0:
        raise StorageError(f"The memory budget is {budget} bytes, expected 0 or more.")
    return budget
