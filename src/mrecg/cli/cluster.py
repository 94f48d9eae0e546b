"""Where the cells of a table or a sweep are carried out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

import typer

from mrecg.cli.consoles import console
from mrecg.errors import MrecgError, RecipeError
from mrecg.sweep.engines import Finished, RayCluster, Work, run_in_series
from mrecg.sweep.slurm import array_script

__all__ = ["ClusterOptions", "chosen", "finished", "print_array", "refuse_failed"]

_NAMED = 3
"""How many failed cells a message names."""

_Cell = TypeVar("_Cell")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ClusterOptions:
    """Say where cells run; by default one after the other in this process."""

    panel: ClassVar[str] = "Where the cells run"
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="local|auto|ADDRESS",
            help="On a Ray cluster: one of this machine's CPUs, the one it belongs to, or at an address.",
        ),
    ] = None
    cpus: Annotated[int, typer.Option(min=1, metavar="N", help="CPUs of a cell on a cluster.")] = 1
    gpus: Annotated[
        float,
        typer.Option(min=0, metavar="N", help="GPUs of a cell on a cluster, such as 1 or 0.5."),
    ] = 0
    retries: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="How often a cell goes on whose process or machine was lost."
        ),
    ] = 3
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Only print the script of a Slurm array.")
    ] = False
    cell: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Run only this cell, counted from 1.")
    ] = None


def chosen(cells: Sequence[_Cell], options: ClusterOptions) -> Sequence[_Cell]:
    """Return all cells, or the one that was asked for.

    Raises:
        RecipeError: there are not so many.
    """
    if options.cell is None:
        return cells
    if options.cell > len(cells):
        raise RecipeError(f"There are {len(cells)} cells, got --cell {options.cell}.")
    return cells[options.cell - 1 : options.cell]


def finished(work: Sequence[Work[_Result]], options: ClusterOptions) -> Iterator[Finished[_Result]]:
    """Yield what is finished, in the order in which it is.

    Raises:
        MrecgError: there is no such cluster.
    """
    if options.ray is None:
        return run_in_series(work)
    from mrecg.distributed import count

    if count() > 1:
        raise MrecgError("A cluster is asked for from one process; leave out torchrun or --ray.")
    cluster = RayCluster(options.ray, options.cpus, options.gpus, options.retries)
    return cluster.run(work)


def print_array(command: Sequence[str], count: int, options: ClusterOptions) -> None:
    """Print the script of an array that runs the cells of a command."""
    own = [one for one in command if one != "--slurm"]
    script = array_script(own, count, options.cpus, options.gpus)
    console.print(script, markup=False, highlight=False, soft_wrap=True, end="")


def refuse_failed(names: Sequence[str], count: int) -> None:
    """Name the cells that failed; why each did was said before.

    Args:
        names: of those cells.
        count: of all cells.

    Raises:
        MrecgError: there are some.
    """
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise MrecgError(
            f"{len(names)} of {count} cells failed: {', '.join(names[:_NAMED])}{more}; "
            "do what the reasons above say, then run the command again; it repeats only these."
        )
