"""One run is one folder: what was chosen, what was found out, and the quantized model.

recipe.yaml        every setting, defaults included
record.json        units, plan, losses, timings, versions, and the SHA-256 of the other files
model.safetensors  integer codes packed to their bits, scales, zero points, and what stays in float
graph.json         the structure: operators by name, their arguments, shapes of the tensors
report.html        a page about the run, made from recipe and record; it is read by people only
*.verification.json  what running an exported file of that name showed

Opening a run executes nothing that its files say: every file is data, and is compared with the record first.
"""

import platform
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from mrecg.config.recipe import Recipe, parse_recipe
from mrecg.errors import RecipeError, RunError, expect, reason_of
from mrecg.graph.captures import forget_captures
from mrecg.quantizers import kernels
from mrecg.records.record import Record
from mrecg.runs.bounds import check_sizes
from mrecg.runs.files import (
    GRAPH,
    RECIPE,
    RECORD,
    REPORT,
    TENSORS,
    checked_record,
    read_file,
    require_files,
    require_small,
    with_hashes,
)
from mrecg.runs.graph_reader import rebuild
from mrecg.runs.graph_writer import store_graph
from mrecg.runs.places import RunPlace, check_free, reserve
from mrecg.runs.sizes import code_grids
from mrecg.runs.stored_graph import StoredGraph
from mrecg.runs.stored_tensors import largest_file, read_tensors, write_tensors

if TYPE_CHECKING:
    from mrecg.report.comparison import Comparison
    from mrecg.report.page import Page
    from mrecg.report.reported_run import ReportedRun
    from mrecg.runs.trainable import TrainableModel

__all__ = ["QuantizedModel", "environment", "load"]


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized model and how it came about.

    Attributes:
        program: the model as `torch.export` program; weights are integer codes and scales.
        record: what the run found out.
        recipe: what was chosen.
    """

    program: ExportedProgram
    record: Record
    recipe: Recipe

    @cached_property
    def model(self) -> nn.Module:
        """Return the model as a module that evaluates in PyTorch."""
        with forget_captures():
            exported = self.program.module(check_guards=False)
        assert isinstance(exported, fx.GraphModule)
        # The exported class forbids .eval() and .train(), which change nothing here: a plain one allows them.
        return fx.GraphModule(exported, exported.graph).eval()

    def with_found(self, **found: Any) -> "QuantizedModel":
        """Return the same model with more in its record."""
        return replace(self, record=self.record.model_copy(update=found))

    def trainable(self) -> "TrainableModel":
        """Return the model as a module with parameters that any PyTorch loop trains; `mrecg.from_trained` takes it back.

        Raises:
            ModelError: the model has logarithmic codes.
            RunError: it holds something that a run cannot store.
        """
        from mrecg.runs.trainable import make_trainable

        return make_trainable(self)

    @property
    def units(self) -> Any:
        """Return a table of the units: a `pandas.DataFrame`, or, where that is not installed, rows that show themselves."""
        from mrecg.report.unit_table import units_as_table

        return units_as_table(self.record)

    def report(self, path: str | Path | None = None) -> "Page":
        """Return a page about the run: whether it worked, where the error arises, what was joined, and how to repeat it.

        Args:
            path: a new file to write it into.

        Raises:
            RunError: the file exists or cannot be written, or the record was edited and contradicts itself.
        """
        page = self._page(self.recipe.name)
        if path is not None:
            page.write(path)
        return page

    def compare(self, other: "QuantizedModel") -> "Comparison":
        """Compare with another quantized model: accuracy, loss along the network, time, size and settings.

        Raises:
            RunError: `other` is no quantized model.
        """
        from mrecg.report.comparison import ComparedGroup, Comparison

        expect(other, QuantizedModel, "The other model", "load its run with mrecg.load", RunError)
        names = [f"{one.recipe.name}, seed {one.recipe.seed}" for one in (self, other)]
        if names[0] == names[1]:
            names = [
                f"{name} ({which})" for name, which in zip(names, ("this", "other"), strict=True)
            ]
        runs = [one._reported(name) for one, name in zip((self, other), names, strict=True)]
        return Comparison(tuple(ComparedGroup(run.name, (run,)) for run in runs))

    def __repr__(self) -> str:
        from mrecg.report.notebook import run_as_text

        return run_as_text(self._reported(self.recipe.name))

    def _repr_html_(self) -> str:
        from mrecg.report.notebook import run_as_html

        return run_as_html(self._reported(self.recipe.name))

    def _reported(self, name: str) -> "ReportedRun":
        from mrecg.report.reported_run import ReportedRun

        return ReportedRun(name, self.record, self.recipe)

    def _page(self, name: str) -> "Page":
        from mrecg.report.page import make_page, run_chapter

        return make_page(name, [run_chapter(self._reported(name))])

    def save(self, folder: str | Path) -> Path:
        """Write the run into a new folder, all of it or nothing, with a page about it.

        Raises:
            RunError: the folder already holds a run or other files, or cannot be written; or the model holds or
                returns something that cannot be stored.
        """
        expect(folder, (str, Path), "The run folder", "name a new one", RunError)
        target = Path(folder)
        check_free(target)
        contents = self._contents()
        with reserve(target) as place:
            place.finish(contents | self._page_of(target.name))
        return target

    def finish(self, place: RunPlace) -> Path:
        """Write the run into its reserved place; the unfinished run that was there is over.

        Raises:
            RunError: it cannot be written, or the model holds or returns something that cannot be stored.
        """
        place.finish(self._contents() | self._page_of(place.folder.name))
        return place.folder

    def _page_of(self, name: str) -> dict[str, bytes]:
        """Return the page about the run as a file; the result of hours is saved without it rather than not at all."""
        try:
            return {REPORT: self._page(name).html.encode(errors="replace")}
        except Exception as error:
            warnings.warn(
                f"The run is saved without its {REPORT}: {reason_of(error)}", stacklevel=3
            )
            return {}

    def _contents(self) -> dict[str, bytes]:
        """Return the files of the run."""
        grids = code_grids(self.record.quantizers, self.program.state_dict)
        graph = store_graph(self.program, grids)
        tensors = self.program.state_dict | self.program.constants
        files = {
            RECIPE: self.recipe.to_yaml().encode(),
            TENSORS: write_tensors(graph.tensors, tensors),
            GRAPH: graph.to_json().encode(),
        }
        contents = files | {RECORD: with_hashes(self.record, files).to_json().encode()}
        _require_readable(contents)
        require_small({name: text for name, text in contents.items() if name != TENSORS})
        return contents


def _require_readable(contents: dict[str, bytes]) -> None:
    """Refuse to write what `load` would not read; the tensors were made from the graph.

    Raises:
        RunError: naming the file.
    """
    Record.parse(contents[RECORD], RECORD)
    check_sizes(StoredGraph.parse(contents[GRAPH], GRAPH))
    try:
        parse_recipe(contents[RECIPE], Path(RECIPE))
    except RecipeError as error:
        raise RunError(f"The run cannot be saved: {error}") from error


def load(folder: str | Path) -> QuantizedModel:
    """Read a run that `QuantizedModel.save` wrote; the model gives equal outputs, bit for bit.

    Nothing in the folder is executed, and every file must be the one that was written.

    Raises:
        RunError: the folder holds no run, or a file of it is damaged.
    """
    expect(folder, (str, Path), "The run folder", "name one that holds a run", RunError)
    source = Path(folder)
    require_files(source)
    record = checked_record(source)
    settings = read_file(source / RECIPE, record.files[RECIPE])
    try:
        recipe = parse_recipe(settings, source / RECIPE)
    except RecipeError as error:
        raise RunError(f"The run in {source} is damaged: {error}") from error
    graph = StoredGraph.parse(read_file(source / GRAPH, record.files[GRAPH]), source / GRAPH)
    limit = largest_file(graph.tensors)
    packed = read_file(source / TENSORS, record.files[TENSORS], limit)
    try:
        check_sizes(graph)
        program = rebuild(graph, read_tensors(graph.tensors, packed))
    except RunError as error:
        raise RunError(f"The run in {source} is damaged: {error}.") from error
    return QuantizedModel(program, record.model_copy(update={"files": {}}), recipe)


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions and machine, for a record."""
    packages = ("mrecg", "torch", "torchao", "numpy", "pillow")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        **{name: _version(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "device": gpu or str(device),
        "threads": torch.get_num_threads(),
        "kernels": kernels.computed_by(device),
    }


def _processor() -> str:
    """Return the processor's name and its instructions that torch uses: both decide about speed, and about the last bits."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown"
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
