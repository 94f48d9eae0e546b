"""Rules for the widths of single layers, in a file of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrecg.config.recipe import Recipe
from mrecg.config.settings import LayerOverride
from mrecg.config.yaml_files import read_mapping
from mrecg.errors import RecipeError, expect

__all__ = ["read_width_rules", "with_width_rules"]

_RULES = "overrides"


def read_width_rules(path: str | Path) -> list[Any]:
    """Return the rules in a YAML file, `overrides` with a list as `placement.overrides` has it; a recipe checks them.

    Raises:
        RecipeError: the file cannot be read, or holds something else.
    """
    expect(path, (str, Path), "The widths' path", "name a YAML file", RecipeError)
    found = read_mapping(Path(path), "widths file")
    rules = found.get(_RULES)
    if set(found) != {_RULES} or not isinstance(rules, list):
        raise RecipeError(
            f"The widths file {path} holds {', '.join(map(str, found)) or 'nothing'}, expected one list called '{_RULES}'; write it "
            "with mrecg sensitivity --budget."
        )
    return rules


def with_width_rules(recipe: Recipe, rules: Sequence[Any]) -> Recipe:
    """Return a recipe with rules for layers behind its own, so that they win.

    Raises:
        RecipeError: a rule does not fit.
    """
    own = recipe.model_dump(mode="json")["placement"]["overrides"]
    given = [one.model_dump() if isinstance(one, LayerOverride) else one for one in rules]
    return recipe.override({"placement.overrides": [*own, *given]})
