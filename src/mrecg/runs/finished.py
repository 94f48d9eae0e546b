"""Finished runs of a table or a sweep, taken again only for what they were made with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrecg.config.recipe import Recipe
from mrecg.errors import RunError
from mrecg.planning.budget import fit_record
from mrecg.records.record import Record
from mrecg.runs.files import is_finished, recipe_of, record_of

__all__ = ["finished_record"]


def finished_record(folder: Path, recipe: Recipe, options: Mapping[str, Any]) -> Record | None:
    """Return the record of the run in a folder, if there is a finished one.

    Args:
        folder: of the run.
        recipe: that is asked for.
        options: what is asked for besides, by names as in the record's `options` and `preprocessing`.

    Raises:
        RunError: it was made with another recipe or other options; what its record does not name is not compared.
    """
    if not is_finished(folder):
        return None
    record = record_of(folder)
    made = {**record.preprocessing, **record.options, "images": record.images}
    differences = {
        name: (made[name], asked)
        for name, asked in options.items()
        if name in made and made[name] != asked
    }
    differences |= recipe_of(folder).differences(fit_record(recipe, record))
    for name, (before, asked) in differences.items():
        raise RunError(
            f"The run in {folder} was made with {name} = {before}, not {asked}; remove it or name another output."
        )
    return record
