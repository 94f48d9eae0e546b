"""Check the arguments of a run before anything is read or captured."""

from collections.abc import Iterable

from mrecg.config.recipe import Recipe
from mrecg.errors import DataError, RecipeError, StorageError, expect
from mrecg.graph.insert import Quantizer
from mrecg.preparation.calibration import CalibrationImages, is_dataset
from mrecg.preparation.models import check_model

__all__ = ["check_arguments"]


def check_arguments(
    model: object, calibration: object, recipe: object, quantizer: object, memory: object
) -> None:
    """Refuse arguments of other kinds than `mrecg.prepare` takes.

    Raises:
        MrecgError: naming the argument, what it is, and what to give.
    """
    check_model(model)
    advice = "give images as a tensor, or an iterable of image tensors, batches or (images, labels)"
    if not is_dataset(calibration):
        expect(calibration, (CalibrationImages, Iterable), "The calibration set", advice, DataError)
    advice = "make one with mrecg.preset('w4a4-qdrop-mrecg')"
    expect(recipe, Recipe, "The recipe", advice, RecipeError)
    if quantizer is not None:
        expect(quantizer, Quantizer, "The quantizer", "give one of torchao's PT2E", RecipeError)
    if memory is not None:
        expect(memory, int, "The memory budget", "give bytes, such as 4 * 2**30", StorageError)
        if isinstance(memory, int) and memory < 0:
            raise StorageError(f"The memory budget is {memory} bytes, expected 0 or more.")
