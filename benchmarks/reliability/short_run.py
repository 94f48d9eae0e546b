"""A short run that has everything: joins that are tried, a run ahead of them, and the network as a whole with its codes."""

import hashlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrecg
import toys
from mrecg.config.recipe import Recipe
from mrecg.optimize.progress import Progress, Report
from mrecg.runs.files import GRAPH, TENSORS, is_finished
from mrecg.runs.places import RunPlace

__all__ = ["bits", "finished_groups", "go_on", "in_child", "optimized_into", "recipe"]


def recipe(steps: int, network_steps: int, method: str = "qdrop-mrecg") -> Recipe:
    """Return the recipe, with so many steps."""
    return mrecg.preset(
        f"w2a4-{method}",
        {
            "reconstruct.steps": steps,
            "reconstruct.batch_size": 8,
            "reconstruct.early_stop": False,
            "network.steps": network_steps,
        },
    )


def go_on(folder: Path, chosen: Recipe, report: Report) -> None:
    """Do what a user does: start the run, or go on with it, or nothing where it is finished."""
    if is_finished(folder):
        return
    model, images = toys.make("chain"), toys.images(16)
    if RunPlace(folder).is_started:
        mrecg.resume(folder, model, images, progress=report)
    else:
        mrecg.quantize(model, images, recipe=chosen, folder=folder, progress=report)


def optimized_into(log: Path) -> Report:
    """Return a report that writes the phase of every event into a file, and the group where one is optimized."""

    def report(event: Any) -> None:
        if isinstance(event, Progress):
            of_group = event.phase in ("plan", "tune") and event.step and not event.finished
            with log.open("a") as file:
                file.write(f"{event.phase}-{event.index:04d}\n" if of_group else f"{event.phase}\n")

    return report


def finished_groups(folder: Path) -> set[str]:
    """Return the groups that an unfinished run has kept, as `optimized_into` names them."""
    return {path.stem for path in RunPlace(folder).unfinished.glob("*-[0-9][0-9][0-9][0-9].*")}


def bits(folder: Path) -> str:
    """Return a hash of a run's codes, scales and structure."""
    found = hashlib.sha256()
    for name in (TENSORS, GRAPH):
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def in_child(work: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    """Start a function in a copy of this process, in which everything is imported already."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process  # type: ignore[return-value]
