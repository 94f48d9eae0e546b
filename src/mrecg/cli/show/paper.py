"""Output about the paper's configuration files and its table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrecg.paper.mqbench import Experiment
from mrecg.paper.reproduction import Cell, Outcome, Row
from mrecg.paper.reproduction.table import COLUMNS
from mrecg.pipeline import Estimate

__all__ = ["estimates_as_json", "show_estimates", "show_notes", "show_outcome", "show_rows"]


def show_notes(console: Console, experiment: Experiment) -> None:
    """Show what became of every key of a configuration file."""
    table = Table(title="Keys of the configuration file")
    for column in ("key", "value", "here"):
        table.add_column(column, overflow="fold")
    for note in experiment.mapped:
        table.add_row(escape(note.key), escape(str(note.value)), escape(note.remark))
    for note in experiment.ignored:
        remark = f"[yellow]ignored:[/yellow] {escape(note.remark)}"
        table.add_row(escape(note.key), escape(str(note.value)), remark)
    console.print(table)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Show a line for a cell that is finished, was finished before, or failed."""
    line = f"{outcome.cell.name}: {outcome.status}"
    if outcome.record is not None and outcome.record.accuracy:
        line += f", {outcome.record.accuracy['quantized'].top1:.2f} %"
    if outcome.reason:
        line += f": {outcome.reason}"
    style = "red" if outcome.status == "failed" else None
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def show_rows(console: Console, rows: Sequence[Row]) -> None:
    """Show the reproduced table."""
    table = Table(title="ImageNet top-1 in percent")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.texts())
    console.print(table)


def estimates_as_json(estimates: Sequence[tuple[Cell, Estimate | str]]) -> list[dict[str, Any]]:
    """Return seconds and bytes of every cell, or why it cannot run, for a script."""
    return [
        {"cell": cell.name, "problem": found}
        if isinstance(found, str)
        else {"cell": cell.name, "seconds": found.seconds, "memory": found.memory}
        for cell, found in estimates
    ]


def show_estimates(console: Console, estimates: Sequence[tuple[Cell, Estimate | str]]) -> None:
    """Show what every cell will take, or why it cannot run."""
    table = Table(title="Cells to run, with time and memory to within a factor of about two")
    for column in ("cell", "minutes", "GiB"):
        table.add_column(column)
    total = 0.0
    for cell, found in estimates:
        if isinstance(found, str):
            table.add_row(cell.name, escape(found))
        else:
            total += found.seconds
            table.add_row(cell.name, f"{found.seconds / 60:.1f}", f"{found.memory / 2**30:.1f}")
    console.print(table)
    console.print(f"{len(estimates)} cells, {total / 3600:.1f} hours in all", markup=False)
