"""One run is one folder: what was chosen, what was found out, and the quantized model.

recipe.yaml        every setting, defaults included
record.json        units, plan, losses, timings, versions
model.safetensors  integer codes packed to their bits, scales, zero points, and what stays in float
*.verification.json  what running an exported file of that name showed
graph.pt2          the structure, as torch.export writes it, without tensors, compressed
"""

import contextlib
import io
import platform
import shutil
import tempfile
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

import mrecg.quantizers  # noqa: F401 — registers the operators of a saved program
from mrecg.errors import RunError, expect
from mrecg.quantizers import kernels
from mrecg.quantizers.packing import pack, unpack
from mrecg.config.recipe import Recipe, read_recipe
from mrecg.records.record import Record

__all__ = ["QuantizedModel", "check_free", "environment", "load"]

RECIPE, RECORD, TENSORS, GRAPH = "recipe.yaml", "record.json", "model.safetensors", "graph.pt2"


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
        """The model as a module that evaluates in PyTorch."""
        exported = self.program.module(check_guards=False)
        assert isinstance(exported, fx.GraphModule)
        # The exported class forbids .eval() and .train(), which change nothing here: a plain one allows them.
        return fx.GraphModule(exported, exported.graph).eval()

    def with_found(self, **found: Any) -> "QuantizedModel":
        """The same model with more in its record."""
        return replace(self, record=self.record.model_copy(update=found))

    def save(self, folder: str | Path) -> Path:
        """Write the run into a new folder, all of it or nothing.

        Raises:
            RunError: the folder already holds a run or other files, or cannot be written.
        """
        expect(folder, (str, Path), "The run folder", "name a new one", RunError)
        target = Path(folder)
        check_free(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mrecg-") as scratch:
                draft = Path(scratch) / "run"
                draft.mkdir()
                (draft / RECIPE).write_text(self.recipe.to_yaml(), encoding="utf-8")
                # Not safetensors' own file, which nobody but its owner may read.
                (draft / TENSORS).write_bytes(save(_packed(self.program, self.record)))
                with _without_tensors(self.program) as structure:
                    _save_compressed(structure, draft / GRAPH)
                (draft / RECORD).write_text(self.record.to_json(), encoding="utf-8")
                if target.exists():
                    target.rmdir()
                shutil.move(draft, target)
        except OSError as error:
            raise RunError(f"The run folder {target} cannot be written: {error}.") from error
        return target


def check_free(folder: Path) -> None:
    """Refuse a folder that a run must not be written to; ask before hours of work, not after.

    Raises:
        RunError: the folder holds a run or other files, is a file, or cannot be made.
    """
    if is_finished(folder):
        raise RunError(
            f"The folder {folder} already holds a finished run; name another or remove it."
        )
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise RunError(f"The path {folder} is a file, expected a folder for the run.")
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"The folder {folder} is not empty; name another for the run.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".mrecg-"):
            pass
    except OSError as error:
        raise RunError(f"The run folder {folder} cannot be written: {error}.") from error


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run; runs are written whole or not at all."""
    return (folder / RECORD).is_file()


def record_of(folder: Path) -> Record:
    """The record of a finished run, without its model.

    Raises:
        RunError: it cannot be read.
    """
    return Record.read(folder / RECORD)


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a finished run.

    Raises:
        RecipeError: it cannot be read.
    """
    return read_recipe(folder / RECIPE)


def load(folder: str | Path) -> QuantizedModel:
    """Read a run that `QuantizedModel.save` wrote; the model gives equal outputs, bit for bit.

    Raises:
        RunError: the folder holds no run, or a file of it is damaged.
    """
    expect(folder, (str, Path), "The run folder", "name one that holds a run", RunError)
    source = Path(folder)
    missing = [name for name in (RECIPE, RECORD, TENSORS, GRAPH) if not (source / name).is_file()]
    if missing:
        raise RunError(f"The folder {source} holds no run: {', '.join(missing)} is missing.")
    record = record_of(source)
    recipe = recipe_of(source)
    try:
        tensors = load_file(source / TENSORS)
        program = _read_program(source / GRAPH)
    except (OSError, SafetensorError, RuntimeError, ValueError, BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"The run in {source} is damaged: {reason}.") from error
    if set(tensors) != set(program.state_dict):
        odd = sorted(set(tensors) ^ set(program.state_dict))[0]
        raise RunError(
            f"The run in {source} is damaged: {TENSORS} and {GRAPH} disagree on '{odd}'."
        )
    traced = _traced(program)
    try:
        tensors |= _unpacked(tensors, traced, record)
    except ValueError as error:
        raise RunError(f"The run in {source} is damaged: {error}.") from error
    for name, tensor in tensors.items():
        if name in traced and tensor.shape != traced[name].shape:
            raise RunError(
                f"The run in {source} is damaged: '{name}' has the shape {tuple(tensor.shape)} in {TENSORS}, "
                f"{tuple(traced[name].shape)} in {GRAPH}."
            )
    program.state_dict.update(
        {name: _as(program.state_dict[name], tensor) for name, tensor in tensors.items()}
    )
    return QuantizedModel(program, record, recipe)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for a record."""
    packages = ("mrecg", "torch", "torchao")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        **{name: _version(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": card or str(device),
        "threads": torch.get_num_threads(),
        "kernels": "native" if kernels.are_loaded() else "torch",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _grids(record: Record, tensors: Container[str]) -> dict[str, tuple[int, int]]:
    """The smallest and the largest code of what holds codes: every weight's, and its zero points if it has some."""
    found: dict[str, tuple[int, int]] = {}
    for quantizer in record.quantizers:
        if quantizer.kind == "weight":
            owner, _, attribute = quantizer.tensor.rpartition(".")
            prefix = f"{owner}." if owner else ""
            for buffer in ("codes", "zero_point"):
                name = f"{prefix}quantized_{attribute}.{buffer}"
                if name in tensors:
                    found[name] = (quantizer.low, quantizer.high)
    return found


def _packed(program: ExportedProgram, record: Record) -> dict[str, Tensor]:
    # A clone each: safetensors refuses tensors that share memory.
    state = program.state_dict.items()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state}
    packed = {name: pack(tensors[name], *grid) for name, grid in _grids(record, tensors).items()}
    return tensors | packed


def _unpacked(
    tensors: Mapping[str, Tensor], traced: Mapping[str, Tensor], record: Record
) -> dict[str, Tensor]:
    return {
        name: unpack(tensors[name], *grid, tuple(traced[name].shape), traced[name].dtype)
        for name, grid in _grids(record, traced).items()
    }


def _traced(program: ExportedProgram) -> dict[str, Tensor]:
    """What the graph knows of its parameters and buffers: their shapes and types."""
    signature = program.graph_signature
    names = signature.inputs_to_parameters | signature.inputs_to_buffers
    return {
        names[node.name]: node.meta["val"] for node in program.graph.nodes if node.name in names
    }


def _read_program(path: Path) -> ExportedProgram:
    """The structure; an archive that is damaged is refused before torch logs what it thinks of it.

    Raises:
        BadZipFile: it cannot be read, or is not what was written.
    """
    try:
        with ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # damaged archives fail in every way there is
        raise BadZipFile(f"{path.name} is no archive that can be read ({error})") from error
    if broken is not None:
        raise BadZipFile(f"{broken} in {path.name} is not what was written")
    return torch.export.load(path)


def _save_compressed(program: ExportedProgram, path: Path) -> None:
    """Deflate the archive that torch.export writes without compression: it is text, mostly."""
    archive = io.BytesIO()
    torch.export.save(program, archive)
    with ZipFile(archive) as source, ZipFile(path, "w", ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


@contextlib.contextmanager
def _without_tensors(program: ExportedProgram) -> Iterator[ExportedProgram]:
    """The program with empty tensors under the same names; their shapes are part of its graph."""
    tensors = dict(program.state_dict)
    program.state_dict.update(
        {name: _as(tensor, torch.empty(0, dtype=tensor.dtype)) for name, tensor in tensors.items()}
    )
    try:
        yield program
    finally:
        program.state_dict.update(tensors)


def _as(like: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` as a parameter if `like` is one."""
    return nn.Parameter(tensor, requires_grad=False) if isinstance(like, nn.Parameter) else tensor
