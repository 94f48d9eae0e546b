"""The recipe that options and configuration files ask for."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrecg.cli.options import NetworkOptions, RecipeOptions
from mrecg.config.presets import DEFAULT_PRESET, preset, read_widths
from mrecg.config.recipe import Recipe, read_recipe
from mrecg.config.width_rules import read_width_rules, with_width_rules
from mrecg.config.yaml_files import parse_value
from mrecg.errors import RecipeError, quoted
from mrecg.paper.mqbench import Experiment, is_mqbench, read_experiment

__all__ = ["choose_recipe", "named_recipe", "read_overrides"]


def read_overrides(overrides: Sequence[str] | None) -> dict[str, Any]:
    """Read the settings in `KEY=VALUE` options, with values written as in a recipe file.

    Raises:
        RecipeError: an option has no value, or one that cannot be read.
    """
    changes: dict[str, Any] = {}
    for item in overrides or []:
        key, separator, value = item.partition("=")
        if not separator:
            raise RecipeError(f"The setting {quoted(item)} has no value, expected KEY=VALUE.")
        changes[key] = parse_value(value, key)
    return changes


def choose_recipe(options: NetworkOptions, experiment: Experiment | None) -> Recipe:
    """Return the one recipe that the options ask for.

    Raises:
        RecipeError: there are two, or it cannot be used.
    """
    given = {"--preset": options.preset, "--recipe": options.recipe, "--config": experiment}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise RecipeError(f"A run has one recipe, got {' and '.join(named)}; leave one out.")
    if options.recipe is not None:
        recipe = _scheduled(read_recipe(options.recipe), options.recipe, None, options)
    elif experiment is not None:
        recipe = _scheduled(experiment.recipe, options.config, "paper", options)
    else:
        recipe = _of_preset(options.preset or DEFAULT_PRESET, options)
    recipe = _changed(recipe, options)
    if options.widths is not None:
        recipe = with_width_rules(recipe, read_width_rules(options.widths))
    return recipe


def named_recipe(source: str, options: RecipeOptions) -> tuple[Recipe, Experiment | None]:
    """Return the recipe in a file or under a preset's name, with the experiment if the file is MQBench's.

    Raises:
        RecipeError: there is none, or it cannot be used.
    """
    path, is_file = Path(source), False
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        is_file = path.exists()
    experiment = read_experiment(path) if is_file and is_mqbench(path) else None
    if experiment is not None:
        recipe = _scheduled(experiment.recipe, path, "paper", options)
    elif is_file or path.suffix in (".yaml", ".yml"):
        recipe = _scheduled(read_recipe(path), path, None, options)
    else:
        recipe = _of_preset(source, options)
    return _changed(recipe, options), experiment


def _scheduled(
    recipe: Recipe, path: Path | None, schedule: str | None, options: RecipeOptions
) -> Recipe:
    """Return the recipe of a file, whose schedule is its own; refuse an option that asks for another."""
    if options.schedule not in (None, schedule):
        meant = "the paper's schedule" if schedule == "paper" else "a schedule of its own"
        raise RecipeError(
            f"The file {path} has {meant}, so --schedule {options.schedule} does not fit; leave it out, or give a preset."
        )
    return recipe


def _of_preset(name: str, options: RecipeOptions) -> Recipe:
    """Return the recipe of a preset; other widths make it the preset of these widths."""
    if options.bits is not None:
        preset(name)  # refuses a name that is none
        read_widths(options.bits)
        name = f"{options.bits}-{name.partition('-')[2]}"
    return preset(name, schedule=options.schedule or "fast")


def _changed(recipe: Recipe, options: RecipeOptions) -> Recipe:
    """Return the recipe with what options of their own change, and then with what `--set` does."""
    changes: dict[str, Any] = {}
    if options.bits is not None:
        changes["weight.bits"], changes["activation.bits"] = read_widths(options.bits)
    if options.steps is not None:
        changes["reconstruct.steps"] = options.steps
    if options.seed is not None:
        changes["seed"] = options.seed
    recipe = recipe.override(changes)
    if options.backend is not None:
        recipe = recipe.for_backend(options.backend)
    return recipe.override(read_overrides(options.overrides))
