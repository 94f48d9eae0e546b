"""The cells of `mrecg sweep`: what `mrecg quantize` does with the options of each."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from mrecg.cli.commands import quantization
from mrecg.cli.consoles import app
from mrecg.cli.inputs import Inputs
from mrecg.cli.jobs import QuantizeJob
from mrecg.cli.options import NetworkOptions
from mrecg.cli.recipe_choice import choose_recipe
from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError, expect, quoted, reason_of
from mrecg.paper.mqbench import read_experiment
from mrecg.sweep.grid import GridCell

if TYPE_CHECKING:
    from mrecg.monitoring import Reporter
    from mrecg.records.record import Record

__all__ = ["GridRun"]

_NETWORK = {one.name for one in fields(NetworkOptions)} - {"overrides"}
_OPTIONS = _NETWORK | {"validation", "evaluation_images", "memory"}


class _Asked(NamedTuple):
    """Recipe, images and options of a cell, as `mrecg quantize` reads them."""

    recipe: Recipe
    inputs: Inputs
    evaluation_images: int | None
    memory: int | None


@dataclass(frozen=True)
class GridRun:
    """A cell with the folder of its run; it can be sent to another process.

    Attributes:
        cell: of the grid.
        folder: of its run.
    """

    cell: GridCell
    folder: Path

    def check(self) -> None:
        """Refuse what can be refused before any cell runs.

        Raises:
            MrecgError: something that the cell sets is unknown or cannot be used.
        """
        self._asked().inputs.named_data()

    def finished(self) -> "Record | None":
        """Return the record of the cell's run, if it is finished.

        Raises:
            RunError: it was made with other settings, another network or other images.
        """
        from mrecg.runs.finished import finished_record

        asked = self._asked()
        preprocessing = asked.inputs.preprocessing.described()
        options = asked.inputs.described(asked.evaluation_images)
        return finished_record(self.folder, asked.recipe, preprocessing | options)

    def run(self, reporter: "Reporter | None" = None) -> "Record":
        """Return the record of the cell's run; do what is not done yet, and go on behind what is.

        Raises:
            MrecgError: it cannot be done; the message says why in a sentence.
        """
        from mrecg import distributed
        from mrecg.monitoring import SilentReporter
        from mrecg.runs.places import RunPlace, reserve

        found = self.finished()
        distributed.wait()
        if found is not None:
            return found
        going_on = RunPlace(self.folder).is_started
        with reserve(self.folder, resume=going_on, together=True) as place:
            asked = self._asked()
            job = QuantizeJob(
                asked.inputs,
                asked.recipe,
                plan=None,
                evaluation_images=asked.evaluation_images,
                memory=asked.memory,
                place=place,
                tensorboard=None,
                command=(),
            )
            return job.run(reporter or SilentReporter()).record

    def _asked(self) -> _Asked:
        given = _parsed(_with_preset(self.cell.settings))
        options = NetworkOptions(**{name: given[name] for name in (*_NETWORK, "overrides")})
        experiment = None if options.config is None else read_experiment(options.config)
        inputs = Inputs.resolve(options, experiment, given["validation"])
        recipe = choose_recipe(options, experiment)
        return _Asked(recipe, inputs, given["evaluation_images"], given["memory"])


def _with_preset(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings with a preset in the place of a method and its widths."""
    if "method" not in settings:
        return settings
    if "preset" in settings:
        raise RecipeError("A cell has one method, got 'method' and 'preset'; leave one out.")
    others = {key: value for key, value in settings.items() if key not in ("method", "bits")}
    return others | {"preset": f"{settings.get('bits', 'w4a4')}-{settings['method']}"}


def _parsed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of `mrecg quantize` by name, as it reads them from a command line that sets the same.

    Raises:
        RecipeError: it would not take one of the values.
    """
    try:
        context = _quantize().make_context("quantize", list(_arguments(settings)))
    except typer.BadParameter as error:
        name = str(error.param and error.param.name)
        raise RecipeError(
            f"The value {quoted(settings.get(name))} of {quoted(name)} in the grid does not fit: {reason_of(error)}."
        ) from error
    return dict(context.params)


@functools.cache
def _quantize() -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands[quantization.quantize.__name__]


def _arguments(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        if key in _OPTIONS:
            what = f"The value of {quoted(key)} in the grid"
            expect(value, (str, int, float), what, "write one, or leave the key out", RecipeError)
            yield f"--{key.replace('_', '-')}={value}"
        else:
            yield f"--set={key}={json.dumps(value)}"
