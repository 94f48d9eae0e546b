"""Commands around the paper: its configuration files and its table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrecg.cli.consoles import app, console, error_console
from mrecg.cli.inputs import changes_of, recipe_from, workers_or_usual
from mrecg.cli.options import AsJson, Backend, Overrides, Workers
from mrecg.errors import MrecgError, RecipeError
from mrecg.paper.mqbench import is_mqbench, read_experiment

if TYPE_CHECKING:
    from mrecg.paper.reproduction import Outcome

__all__ = ["recipe", "reproduce"]


@app.command()
def recipe(
    source: Annotated[
        str,
        typer.Argument(help="A preset, a recipe file, or a file of MQBench or the paper's code."),
    ],
    backend: Backend = None,
    overrides: Overrides = None,
) -> None:
    """Print a resolved recipe; of a foreign file also what became of every key."""
    from mrecg.cli.show import show_notes

    path = Path(source)
    experiment = None
    if path.is_file() and is_mqbench(path):
        experiment = read_experiment(path)
        show_notes(error_console, experiment)
    is_file = path.is_file() or path.suffix in (".yaml", ".yml")
    found = recipe_from(
        None if is_file else source,
        path if is_file and experiment is None else None,
        experiment,
        backend,
        overrides,
    )
    console.print(found.to_yaml(), markup=False, highlight=False, end="")


@app.command()
def reproduce(
    output: Annotated[
        Path, typer.Option(help="A folder for one run per cell; runs in it are kept.")
    ],
    data: Annotated[str, typer.Option(help="A source with labels, such as imagenet:PATH.")],
    checkpoints: Annotated[
        Path, typer.Option(help="A folder with one checkpoint per network, named as published.")
    ],
    networks: Annotated[
        str, typer.Option(help="Names between commas; all seven of the paper by default.")
    ] = "",
    bits: Annotated[str, typer.Option(help="Widths between commas, such as w4a4,w2a4.")] = "",
    methods: Annotated[
        str,
        typer.Option(
            help="brecq, qdrop, and either with -mrecg (automatic) or -scheme (published)."
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds between commas.")] = "1005",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Per group; 20,000 in the paper.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="For calibration; 4,096 or 2,048 in the paper.")
    ] = None,
    evaluation_images: Annotated[
        int | None, typer.Option(min=1, help="Evaluate on so many images, spread evenly.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images; 224 in the paper.")
    ] = None,
    overrides: Overrides = None,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the cells with their time and memory.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the paper's table, or a part of it, and print it beside the published numbers."""
    from mrecg.cli.show import (
        Reporter,
        estimates_as_json,
        show_estimates,
        show_outcome,
        show_rows,
    )
    from mrecg.distributed import is_first
    from mrecg.paper import reproduction

    changes = changes_of(overrides) | ({} if steps is None else {"reconstruct.steps": steps})
    chosen = {"networks": networks, "bits": bits, "methods": methods, "seeds": seeds}
    axes = {name: _split(text) for name, text in chosen.items() if text}
    grid = reproduction.Grid(**axes | {"seeds": _integers(seeds)})  # type: ignore[arg-type]
    cells = reproduction.cells(grid)
    budget = reproduction.Budget(images, changes)
    sources = reproduction.Sources(
        data,
        checkpoints,
        workers=workers_or_usual(workers),
        evaluation_images=evaluation_images,
        size=size,
    )
    if dry_run:
        estimates = reproduction.estimates(cells, sources, budget, output)
        if as_json:
            console.print_json(data=estimates_as_json(estimates))
        else:
            show_estimates(console, estimates)
        impossible = sum(isinstance(found, str) for _, found in estimates)
        if impossible:
            raise MrecgError(f"{impossible} of {len(estimates)} cells cannot run, as listed.")
        return
    outcomes = []
    with Reporter(error_console) as reporter:
        for outcome in reproduction.reproduce(cells, sources, budget, output, reporter.named):
            show_outcome(error_console, outcome)
            outcomes.append(outcome)
            _warn_once(outcomes)
    rows = reproduction.rows(outcomes)
    if is_first() and any(outcome.record is not None for outcome in outcomes):
        (output / "table.md").write_text(reproduction.as_markdown(rows), encoding="utf-8")
    if as_json:
        console.print_json(json.dumps([row.as_dict() for row in rows]))
    else:
        show_rows(console, rows)
    failed = [outcome.cell.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise MrecgError(
            f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}; run the command again to repeat them."
        )


def _warn_once(outcomes: Sequence["Outcome"]) -> None:
    """Of a float network that is worse than published, when its first cell is finished."""
    from mrecg.evaluation import below_published
    from mrecg.paper.networks import published_top1

    *before, last = outcomes
    if last.record is None or any(o.cell.network == last.cell.network for o in before):
        return
    measured = last.record.accuracy.get("float")
    found = measured and below_published(measured, published_top1(last.cell.network))
    if found:
        error_console.print(
            f"warning: {last.cell.network}: {found}", style="yellow", markup=False, soft_wrap=True
        )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _split(text))
    except ValueError:
        raise RecipeError(f"Seeds are integers between commas, got '{text}'.") from None
