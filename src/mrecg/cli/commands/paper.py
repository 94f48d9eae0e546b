"""Commands for the paper: its configuration files as recipes, and its table."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrecg.cli.cluster import ClusterOptions, chosen, finished, print_array, refuse_failed
from mrecg.cli.consoles import console, error_console, interrupted
from mrecg.cli.float_accuracy import warn_below_published
from mrecg.cli.option_groups import command
from mrecg.cli.options import (
    EvaluationImages,
    Overrides,
    ProgressOptions,
    RecipeOptions,
    Workers,
    worker_count,
)
from mrecg.cli.recipe_choice import named_recipe, read_overrides
from mrecg.cli.resumption import given_command
from mrecg.errors import MrecgError, RecipeError, RunError, quoted
from mrecg.sweep.engines import Work
from mrecg.writing import write_file

if TYPE_CHECKING:
    from mrecg.paper.reproduction import Budget, Cell, Outcome, Sources

__all__ = ["recipe", "reproduce"]


@command
def recipe(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_FILE",
            help="A preset, a recipe file, or a file of MQBench or the paper's code.",
        ),
    ],
    options: RecipeOptions,
) -> None:
    """Print a resolved recipe; of a foreign file also what became of every key.

    Example: mrecg recipe w2a4-qdrop-mrecg --steps 250 > mine.yaml
    """
    found, experiment = named_recipe(source, options)
    if experiment is not None:
        from mrecg.cli.show import show_notes

        show_notes(error_console, experiment)
    console.print(found.to_yaml(), markup=False, highlight=False, end="")


@command
def reproduce(
    context: typer.Context,
    shown: ProgressOptions,
    where: ClusterOptions,
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A folder for one run per cell; runs in it are kept."),
    ],
    data: Annotated[
        str, typer.Option(metavar="SOURCE", help="A source with labels, such as imagenet:PATH.")
    ],
    checkpoints: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="A folder with one checkpoint per network, named as published."
        ),
    ],
    networks: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Between commas; all seven of the paper by default."),
    ] = "",
    bits: Annotated[
        str, typer.Option(metavar="WIDTHS", help="Between commas, such as w4a4,w2a4.")
    ] = "",
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="brecq, qdrop, and either with -mrecg (automatic) or -scheme (published).",
        ),
    ] = "",
    schedule: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="paper, the authors' settings, or fast, ours; both between commas.",
        ),
    ] = "paper",
    seeds: Annotated[str, typer.Option(metavar="NUMBERS", help="Between commas.")] = "1005",
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Per group; 20,000 in the paper.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="For calibration; 4,096 or 2,048 in the paper."),
    ] = None,
    evaluation_images: EvaluationImages = None,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Side of the images; 224 in the paper.")
    ] = None,
    overrides: Overrides = None,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the cells with their time and memory.")
    ] = False,
) -> None:
    """Run the paper's table, or a part of it, and print it next to the published figures; given again, it goes on.

    Example: mrecg reproduce --data imagenet:images --checkpoints models \\
                             --output runs/table --dry-run
    """
    from mrecg.paper.reproduction import Budget, Sources, TableAxes, cells

    changes = read_overrides(overrides) | ({} if steps is None else {"reconstruct.steps": steps})
    whole = TableAxes()
    axes = TableAxes(
        _split(networks) if networks else whole.networks,
        _split(bits) if bits else whole.bits,
        _split(methods) if methods else whole.methods,
        _split(schedule),
        _integers(seeds),
    )
    sources = Sources(
        data,
        checkpoints,
        workers=worker_count(workers),
        evaluation_images=evaluation_images,
        size=size,
    )
    found, budget = cells(axes), Budget(images, changes)
    if where.slurm:
        print_array(given_command(context), len(found), where)
        return
    if dry_run:
        _estimate(chosen(found, where), sources, budget, output, shown)
        return
    try:
        _reproduce(chosen(found, where), sources, budget, output, shown, where)
    except KeyboardInterrupt:
        left = "finished cells and groups are kept; give the command again to go on"
        raise interrupted(left) from None


def _estimate(
    cells: Sequence["Cell"],
    sources: "Sources",
    budget: "Budget",
    output: Path,
    shown: ProgressOptions,
) -> None:
    """List what the cells will take, one after the other; fail if one of them cannot run."""
    from mrecg.cli.show import estimates_as_json, show_estimate, show_total
    from mrecg.paper.reproduction import estimate_cells

    estimates = []
    for found in estimate_cells(cells, sources, budget, output):
        estimates.append(found)
        if not shown.as_json:
            show_estimate(console, found)
    if shown.as_json:
        console.print_json(data=estimates_as_json(estimates))
    else:
        show_total(console, estimates)
    impossible = sum(len(one.cells) for one in estimates if isinstance(one.found, str))
    if impossible:
        listed = sum(len(one.cells) for one in estimates)
        raise MrecgError(f"{impossible} of {listed} cells cannot run, as listed.")


def _reproduce(
    cells: Sequence["Cell"],
    sources: "Sources",
    budget: "Budget",
    output: Path,
    shown: ProgressOptions,
    where: ClusterOptions,
) -> None:
    """Run the cells and print the table; fail if one of them failed."""
    from mrecg.cli.show import show_outcome, show_rows
    from mrecg.cli.watching import reporting
    from mrecg.distributed import is_first
    from mrecg.paper import reproduction

    outcomes: list[Outcome] = []
    budgets = reproduction.budget_lines(cells, budget)
    with reporting(shown) as reporter:
        if where.ray is None:
            found = reproduction.reproduce(cells, sources, budget, output, reporter.named)
        else:
            found = _on_cluster(cells, sources, budget, output, where)
        for outcome in found:
            is_new = outcome.reason and outcome.reason not in {one.reason for one in outcomes}
            if is_new or not (outcome.reason or shown.quiet):
                show_outcome(error_console, outcome)  # what several cells lack is said once
            outcomes.append(outcome)
            outcomes.sort(key=lambda one: cells.index(one.cell))
            _warn_once(outcomes, outcome)
            if is_first() and outcome.record is not None and where.cell is None:
                table = reproduction.as_markdown(reproduction.rows(outcomes), budgets)
                write_file(output / "table.md", table.encode(errors="replace"), RunError)
    rows = reproduction.rows(outcomes)
    if shown.as_json:
        console.print_json(json.dumps([row.as_dict() for row in rows]))
    else:
        show_rows(console, rows, budgets)
    failed = [outcome.cell.name for outcome in outcomes if outcome.status == "failed"]
    refuse_failed(failed, len(cells))


def _on_cluster(
    cells: Sequence["Cell"],
    sources: "Sources",
    budget: "Budget",
    output: Path,
    where: ClusterOptions,
) -> Iterator["Outcome"]:
    """Yield what becomes of the cells on a cluster; each reads its network and its images itself."""
    from mrecg.paper.reproduction import Outcome, run_alone

    known = {cell.name: cell for cell in cells}
    work = [Work(cell.name, partial(run_alone, cell, sources, budget, output)) for cell in cells]
    for one in finished(work, where):
        yield one.result or Outcome(known[one.name], "failed", None, one.reason)


def _warn_once(outcomes: Sequence["Outcome"], last: "Outcome") -> None:
    """Warn of a float network that is worse than published, when its first cell is finished."""
    others = (one for one in outcomes if one is not last)
    if last.record is None or any(one.cell.network == last.cell.network for one in others):
        return
    measured = last.record.accuracy.get("float")
    if measured is not None:
        warn_below_published(measured, last.cell.network, f"{last.cell.network}: ")


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _split(text))
    except ValueError:
        raise RecipeError(f"Seeds are integers between commas, got {quoted(text)}.") from None
