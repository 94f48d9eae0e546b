"""Output about the paper's configuration files and its table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrecg.cli.consoles import say
from mrecg.paper.mqbench import Experiment
from mrecg.paper.reproduction import Expectation, Outcome, Row, columns, texts

__all__ = [
    "estimates_as_json",
    "show_estimate",
    "show_notes",
    "show_outcome",
    "show_rows",
    "show_table",
    "show_total",
]


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
    say(console, line, style)


def show_rows(console: Console, rows: Sequence[Row], budgets: Sequence[str]) -> None:
    """Show the reproduced table, and below it what each schedule took."""
    table = Table(title="ImageNet top-1 in percent")
    for column in columns(rows):
        table.add_column(column)
    for line in texts(rows):
        table.add_row(*line)
    console.print(table)
    for budget in budgets:
        say(console, budget)


def show_table(console: Console, lines: Sequence[Sequence[str]]) -> None:
    """Show a table whose first line are its heads."""
    heads, *others = lines
    table = Table()
    for head in heads:
        table.add_column(head, overflow="fold")
    for line in others:
        table.add_row(*map(escape, line))
    console.print(table)


def estimates_as_json(estimates: Sequence[Expectation]) -> list[dict[str, Any]]:
    """Return seconds and bytes of every cell, or why some cannot run, for a script."""
    return [
        {"cells": [cell.name for cell in cells], "problem": found}
        if isinstance(found, str)
        else {"cell": cells[0].name, "seconds": found.seconds, "memory": found.memory}
        for cells, found in estimates
    ]


def show_estimate(console: Console, expectation: Expectation) -> None:
    """Show in a line what a cell will take, or why some cannot run."""
    (first, *more), found = expectation
    if isinstance(found, str):
        others = f" and {len(more)} more cells" if more else ""
        line, style = f"{first.name}{others}: {found}", "red"
    else:
        line = f"{first.name}: {found.seconds / 60:.1f} minutes, {found.memory / 2**30:.1f} GiB"
        style = None
    say(console, line, style)


def show_total(console: Console, estimates: Sequence[Expectation]) -> None:
    """Show what all cells will take together."""
    possible = [one.found for one in estimates if not isinstance(one.found, str)]
    hours = sum(found.seconds for found in possible) / 3600
    say(console, f"{len(possible)} cells, {hours:.1f} hours in all, to within a third")
