"""The cells of `mrecg sweep`: what `mrecg quantize` does with the options of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrecg.cli.inputs import Inputs
from mrecg.cli.jobs import QuantizeJob
from mrecg.cli.options import NetworkOptions
from mrecg.cli.recipe_choice import choose_recipe
from mrecg.config.recipe import Recipe
from mrecg.config.texts import bytes_of
from mrecg.errors import RecipeError, RunError, expect, quoted
from mrecg.paper.mqbench import Experiment, read_experiment
from mrecg.sweep.grid import GridCell

if TYPE_CHECKING:
    from mrecg.monitoring import Reporter
    from mrecg.records.record import Record

__all__ = ["GridRun"]

_PATHS = ("weights", "recipe", "config")
_TEXTS = {
    "network",
    "data",
    "validation",
    "preset",
    "bits",
    "backend",
    "schedule",
    "crops",
    *_PATHS,
}
_COUNTS = {"steps", "seed", "images", "size", "channels", "workers", "evaluation_images"}
_OPTIONS = {one.name for one in fields(NetworkOptions)} - {"overrides"}


@dataclass(frozen=True)
class GridRun:
    """A cell with the folder of its run; it can be sent to another process.

    Attributes:
        cell: of the grid.
        folder: of its run.
    """

    cell: GridCell
    folder: Path

    def check(self) -> Recipe:
        """Return the recipe of the cell.

        Raises:
            RecipeError: something that it sets is unknown or cannot be used.
        """
        return choose_recipe(*self._options())

    def finished(self) -> "Record | None":
        """Return the record of the cell's run, if it is finished.

        Raises:
            RunError: it was made with other settings or images.
        """
        from mrecg.planning.budget import fit_record
        from mrecg.runs.files import is_finished, recipe_of, record_of

        if not is_finished(self.folder):
            return None
        record = record_of(self.folder)
        differences = recipe_of(self.folder).differences(fit_record(self.check(), record))
        asked = self._inputs().images
        if record.images != asked:
            differences.append(("images", (record.images, asked)))
        for name, (made, wanted) in differences:
            raise RunError(
                f"The run in {self.folder} was made with {name} = {made}, not {wanted}; remove it or name another output."
            )
        return record

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
        inputs, settings = self._inputs(), self._settings()
        inputs.named_data()
        going_on = RunPlace(self.folder).is_started
        with reserve(self.folder, resume=going_on, together=True) as place:
            memory = settings.get("memory")
            job = QuantizeJob(
                inputs,
                self.check(),
                plan=None,
                evaluation_images=settings.get("evaluation_images"),
                memory=None if memory is None else bytes_of(str(memory)),
                place=place,
                tensorboard=None,
                command=(),
            )
            return job.run(reporter or SilentReporter()).record

    def _inputs(self) -> Inputs:
        return Inputs.resolve(*self._options(), self._settings().get("validation"))

    def _settings(self) -> dict[str, Any]:
        """Return what the cell sets, each under its name in Python."""
        return {key.replace("-", "_"): one for key, one in self.cell.settings.items()}

    def _options(self) -> tuple[NetworkOptions, Experiment | None]:
        settings = _checked(self._settings())
        method = settings.pop("method", None)
        if method is not None:
            settings["preset"] = f"{settings.pop('bits', 'w4a4')}-{method}"
        known = {key: settings.pop(key) for key in _OPTIONS & settings.keys()}
        known |= {key: Path(known[key]) for key in _PATHS if key in known}
        for key in ("validation", "evaluation_images", "memory"):
            settings.pop(key, None)
        overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        config = known.get("config")
        experiment = None if config is None else read_experiment(config)
        return replace(NetworkOptions(), **known, overrides=overrides), experiment


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings; refuse an option whose value is of another kind."""
    for key, value in settings.items():
        kind = str if key in _TEXTS else int if key in _COUNTS else None
        if kind is not None:
            what = f"The value of {quoted(key)} in the grid"
            expect(value, kind, what, "write another", RecipeError)
    return dict(settings)
