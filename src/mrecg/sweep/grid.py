"""A grid of runs in a YAML file: every key is an option of `mrecg quantize` or a setting of the recipe.

    network: [resnet18, resnet50]          a list is an axis
    data: imagenet:/data/imagenet          anything else is the same in every cell
    preset: [w2a4-qdrop, w2a4-qdrop-mrecg]
    seed: [1, 2, 3]
    length:                                an axis of cases: each sets several keys
      - {reconstruct.steps: 250}
      - {reconstruct.steps: 1000, network.steps: 3000}

A list that is meant as one value is written in a list of its own.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mrecg.config.yaml_files import read_mapping
from mrecg.errors import RecipeError, quoted

__all__ = ["GridCell", "read_grid"]

_MOST = 10_000


class GridCell(NamedTuple):
    """One run of a grid.

    Attributes:
        name: of the cell and of its folder: its place on every axis.
        place: the same as a value for each axis, as text.
        settings: options under their names in Python, and settings of the recipe.
    """

    name: str
    place: Mapping[str, str]
    settings: Mapping[str, Any]


def read_grid(path: Path) -> list[GridCell]:
    """Return the cells of a grid, the first axis slowest.

    Raises:
        RecipeError: the file cannot be read, has no cells or very many, a key that is no text, or a case that sets what
            something else sets, too.
    """
    grid = _named(read_mapping(path, "grid"), path)
    axes = {key: value for key, value in grid.items() if isinstance(value, list)}
    same = {key: value for key, value in grid.items() if key not in axes}
    count = 1
    for key, values in axes.items():
        count *= len(values)
        if not values:
            raise RecipeError(
                f"The axis {quoted(key)} of {path} is empty; give a value, or leave it out."
            )
    if not grid or count > _MOST:
        raise RecipeError(
            f"The grid {path} has {count if grid else 0:,} cells, expected 1 to {_MOST:,}."
        )
    cells = [
        _cell(dict(zip(axes, values, strict=True)), same, path)
        for values in itertools.product(*axes.values())
    ]
    names = [cell.name for cell in cells]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise RecipeError(
            f"Two cells of {path} are called {quoted(doubled)}; name each value once."
        )
    return cells


def _cell(chosen: Mapping[str, Any], same: Mapping[str, Any], path: Path) -> GridCell:
    settings, place = dict(same), {}
    for axis, value in chosen.items():
        case = _named(value, path) if isinstance(value, dict) else {axis: value}
        for key in case.keys() & settings.keys():
            raise RecipeError(
                f"The axis {quoted(axis)} of {path} sets {quoted(key)}, which is set already."
            )
        settings |= case
        place[axis] = ",".join(map(_text, case.values()))
    name = "-".join(_part(axis, text) for axis, text in place.items()) or "run"
    return GridCell(name, place, settings)


def _named(given: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Return settings under their names in Python; an option may be written as on the command line."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise RecipeError(
                f"The key {quoted(key)} of {path} is no text, expected an option or a setting of the recipe."
            )
        name = key.replace("-", "_")
        if name in found:
            raise RecipeError(f"The key {quoted(key)} of {path} is there twice; leave one out.")
        found[name] = value
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _part(axis: str, text: str) -> str:
    """Return a part of a folder's name; numbers need the axis to mean something."""
    text = re.sub(r"[^\w.,+-]+", "_", text.rpartition("/")[2]).strip("_")
    return text if re.match("[a-z]", text) else f"{axis.rpartition('.')[2]}{text}"
