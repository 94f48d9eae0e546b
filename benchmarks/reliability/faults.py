"""Let the disk fail at every operation on a file, one after the other, of all that writes files."""

import hashlib
import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import onnx
import safetensors.torch
import torch
import yaml
from torch import nn

import mrecg
import pictures
import toys
from benchmarks.reliability.short_run import bits, finished_groups, go_on, optimized_into, recipe
from faults import failing_at
from mrecg.errors import MrecgError, RunError
from mrecg.export.pt2 import export_program
from mrecg.optimize.progress import Progress, Report
from mrecg.paper.reproduction import Budget, Sources, TableAxes, cell_runs, cells, reproduce
from mrecg.runs.files import is_finished
from mrecg.runs.places import RunPlace
from run_folders import copy, quantized

__all__ = ["BLOCK", "OPERATIONS", "inject"]

RECIPE = recipe(steps=2, network_steps=2, method="qdrop")
BLOCK = 25
"""Faults of a result."""
INTERRUPTED_AT = 2
"""The group in which a run is interrupted that an operation goes on with."""


class Operation(NamedTuple):
    """One thing that writes files.

    Attributes:
        run: does it in a folder, and reports.
        prepare: puts into the folder what has to be there before.
        place: of its run in the folder, where it is one.
    """

    run: Callable[[Path, Report], object]
    prepare: Callable[[Path], object] = Path.mkdir
    place: str | None = None


class _Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Stands for an interruption."""


def _interrupting(event: Any) -> None:
    if isinstance(event, Progress) and event.phase == "tune" and event.index == INTERRUPTED_AT:
        raise _Stopped


def _interrupted(run: Callable[[Path, Report], object]) -> Callable[[Path], object]:
    """Return what leaves an unfinished run in a folder."""

    @cache
    def made() -> Path:
        folder = Path(tempfile.mkdtemp()) / "folder"
        folder.mkdir()
        try:
            run(folder, _interrupting)
        except _Stopped:
            return folder
        raise AssertionError("the run was not interrupted")

    return lambda folder: Path(copy(made(), folder))


def _run(folder: Path, report: Report) -> None:
    go_on(folder / "run", RECIPE, report)


def _save(folder: Path, report: Report) -> None:
    if not is_finished(folder / "run"):
        quantized().save(folder / "run")


@cache
def _images() -> Path:
    return Path(pictures.imagenet(Path(tempfile.mkdtemp()), classes=5, images=2))


def _small(*_: object) -> nn.Module:
    """Return a network that takes a hundredth of the paper's time."""
    chain = toys.make("chain")
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 1), *chain.children())


def _reproduce(folder: Path, report: Report) -> None:
    checkpoints = folder.parent / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / "resnet18_imagenet.pth.tar").touch()
    wanted = cells(TableAxes(("resnet18",), ("w2a4",), ("qdrop",), ("fast",)))
    sources = Sources(f"imagenet:{_images()}", checkpoints, evaluation_images=10, size=8)
    budget = Budget(
        8,
        {"reconstruct.steps": 2, "reconstruct.batch_size": 4, "network.steps": 2},
    )
    with mock.patch.object(cell_runs, "make_network", _small):
        for outcome in reproduce(wanted, sources, budget, folder, lambda _, event: report(event)):
            if outcome.status == "failed":
                raise RunError(outcome.reason)


OPERATIONS = {
    "save": Operation(_save),
    "export to ONNX": Operation(
        lambda folder, _: mrecg.export_onnx(quantized(), folder / "m.onnx", runtime=None)
    ),
    "export to PyTorch": Operation(lambda folder, _: export_program(quantized(), folder / "m.pt2")),
    "resume": Operation(_run, _interrupted(_run), "run"),
    "reproduce": Operation(
        _reproduce, _interrupted(_reproduce), "resnet18-w2a4-qdrop-fast-seed1005"
    ),
}


def inject(name: str, first: int) -> dict[str, Any]:
    """Let an operation fail in some places, repeat it without a fault each time, and count what went wrong.

    Args:
        name: of the operation.
        first: the first touch of the disk that fails; `BLOCK` others follow, as far as there are so many.
    """
    operation, expected = OPERATIONS[name], _expected(name)
    by: Counter[str] = Counter()
    wrong: Counter[str] = Counter(tracebacks=0, half_files=0, lost_groups=0, different=0)
    for number in range(first, first + BLOCK):
        with tempfile.TemporaryDirectory() as scratch:
            folder, log = Path(scratch) / "folder", Path(scratch) / "log"
            operation.prepare(folder)
            log.touch()
            with failing_at(number, folder) as failed:
                try:
                    operation.run(folder, lambda event: None)
                except MrecgError as error:
                    wrong["tracebacks"] += "\n" in str(error)
                except Exception:
                    wrong["tracebacks"] += 1
            if not failed():
                break
            by[str(failed())] += 1
            kept = finished_groups(folder / operation.place) if operation.place else set()
            wrong["half_files"] += sum(map(_is_half, _files(folder)))
            operation.run(folder, optimized_into(log))
            wrong["lost_groups"] += len(kept & set(log.read_text().split()))
            wrong["different"] += _result(folder, operation) != expected
    return {"operation": name, "first": first, "faults": by.total(), "by": by, **wrong}


@cache
def _expected(name: str) -> str:
    """Return what an operation makes where nothing fails."""
    operation = OPERATIONS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        operation.prepare(folder)
        operation.run(folder, lambda event: None)
        return _result(folder, operation)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _is_half(path: Path) -> bool:
    """Return whether a file is a draft, or cannot be read as what its name says."""
    contents = path.read_bytes()
    try:
        match path.suffix:
            case ".json":
                json.loads(contents)
            case ".yaml":
                return not yaml.safe_load(contents)
            case ".safetensors":
                safetensors.torch.load(contents)
            case ".html":
                return not contents.rstrip().endswith(b"</html>")
            case ".onnx":
                onnx.checker.check_model(contents)
            case ".pt2":
                return zipfile.ZipFile(io.BytesIO(contents)).testzip() is not None
            case ".draft":
                return True
    except Exception:
        return True
    return False


def _result(folder: Path, operation: Operation) -> str:
    """Return a hash of what an operation made; files for PyTorch hold a time, so only that there is one."""
    if operation.place:
        assert not RunPlace(folder / operation.place).unfinished.exists()
        return bits(folder / operation.place)
    (made,) = folder.iterdir()
    if made.is_dir():
        return bits(made)
    return hashlib.sha256(made.read_bytes()).hexdigest() if made.suffix == ".onnx" else made.name
