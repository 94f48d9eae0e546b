"""What a terminal shows: progress, tables, the loss along the network."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table

from mrecg.data import name_some
from mrecg.demo import DemoRow
from mrecg.mqbench import Experiment
from mrecg.pipeline import Progress
from mrecg.record import Evaluation, Plan, Record, UnitRecord
from mrecg.reproduction import Cell, Estimate, Outcome, Row
from mrecg.reproduction.table import COLUMNS

__all__ = [
    "Reporter",
    "demo_as_json",
    "show_accuracy",
    "show_demo",
    "show_estimates",
    "show_notes",
    "show_outcome",
    "show_plan",
    "show_record",
    "show_rows",
    "show_skipped",
]

_BAR_WIDTH = 30


class Reporter:
    """Progress bars on a terminal, one plain line per finished group elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Progress) -> None:
        self.named("", event)

    def named(self, name: str, event: Progress) -> None:
        """Show `event` under the name of a run."""
        label = f"{name} {event.phase}".strip()
        units = " + ".join(event.group)
        per_group = max(1, event.steps)
        if self._console.is_terminal:
            if label not in self._tasks:
                total = event.groups * per_group
                self._tasks[label] = self._bars.add_task(label, total=total, detail="")
            done = event.index * per_group + (event.step if event.steps else 1)
            detail = f"{units}: loss {event.loss:.4g}"
            self._bars.update(self._tasks[label], completed=done, detail=escape(detail))
        elif event.finished:
            self._console.print(
                f"{label}: {event.index + 1}/{event.groups} {units}: loss {event.loss:.4g}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def show_demo(console: Console, rows: Sequence[DemoRow], folder: Path | None) -> None:
    """The table, the joins and the loss along the network without and with them."""
    table = Table(title="Fashion-MNIST, packaged test images")
    for column in ("network", "bits W/A", "top-1", "largest unit loss", "oscillation", "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, evaluation, quantized in rows:
        if quantized is None:
            table.add_row(name, "32/32", f"{evaluation.top1:.2f} %", "", "", "")
            continue
        record, recipe = quantized.record, quantized.recipe
        table.add_row(
            name,
            f"{recipe.weight.bits}/{recipe.activation.bits}",
            f"{evaluation.top1:.2f} %",
            f"{100 * record.oscillation.largest_loss:.1f} %",
            f"{100 * record.oscillation.total:.1f} %",
            f"{sum(record.seconds.values()):.0f}",
        )
    console.print(table)
    records = [row.quantized.record for row in rows if row.quantized is not None]
    console.print(f"MRECG plan: {records[-1].plan}", markup=False, highlight=False)
    console.print("\nLoss of each unit as a fraction of its signal, blocks and then MRECG:")
    _show_losses(console, [record.units for record in records[-2:]])
    if folder is not None:
        console.print(f"\nThe run is in {folder}.", markup=False)


def demo_as_json(rows: Sequence[DemoRow]) -> list[dict[str, Any]]:
    """The demo's rows for a script."""
    return [
        {
            "name": name,
            "count": evaluation.count,
            "top1": evaluation.top1,
            "record": None if quantized is None else quantized.record.model_dump(mode="json"),
        }
        for name, evaluation, quantized in rows
    ]


def show_record(console: Console, record: Record, folder: Path) -> None:
    """The plan and the loss of every unit."""
    console.print(f"plan: {record.plan}", markup=False, highlight=False)
    _show_losses(console, [record.units])
    worst = record.oscillation
    console.print(
        f"{len(worst.jumps)} jumps of the loss, {100 * worst.total:.1f} % in all; "
        f"largest loss {100 * worst.largest_loss:.1f} % in {worst.largest_unit}",
        markup=False,
    )
    if record.left_in_float:
        console.print(f"left in float: {', '.join(record.left_in_float)}", markup=False)
    for name, found in record.accuracy.items():
        show_accuracy(console, name, found)
    console.print(f"The run is in {folder}.", markup=False)


def show_accuracy(console: Console, name: str, found: Evaluation) -> None:
    """One line."""
    console.print(
        f"{name}: top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} % of {found.count} images",
        highlight=False,
    )


def show_skipped(console: Console, skipped: Sequence[str]) -> None:
    """One line about the images that could not be read; nothing where there are none."""
    if skipped:
        console.print(
            f"skipped {len(skipped)} unreadable images: {name_some(skipped)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def show_plan(console: Console, plan: Plan, published: frozenset[int] | None = None) -> None:
    """Every pair of neighbours with what the rule saw, and beside it what the authors join."""
    table = Table(title=escape(plan.rule))
    columns = ["unit", "metric", "difference to the next", "alike", "joined to the next"]
    if published is not None:
        columns.append("joined by the authors")
    for column in columns:
        table.add_column(column)
    for position, pair in enumerate(plan.neighbours):
        cells = [
            pair.first,
            f"{plan.metric[position]:.4g}" if plan.metric else "",
            "" if pair.difference is None else f"{pair.difference:.4g}",
            "yes" if pair.homogeneous else "",
            "yes" if pair.joined else "",
        ]
        if published is not None:
            cells.append("yes" if position in published else "")
        table.add_row(*cells)
    if plan.neighbours:
        table.add_row(plan.neighbours[-1].second, f"{plan.metric[-1]:.4g}" if plan.metric else "")
    console.print(table)
    console.print(str(plan), markup=False, highlight=False)


def show_notes(console: Console, experiment: Experiment) -> None:
    """What became of every key of a configuration file."""
    table = Table(title="What the configuration became")
    for column in ("key", "value", "here"):
        table.add_column(column, overflow="fold")
    for note in experiment.mapped:
        table.add_row(escape(note.key), escape(str(note.value)), escape(note.remark))
    for note in experiment.ignored:
        remark = f"[yellow]ignored:[/yellow] {escape(note.remark)}"
        table.add_row(escape(note.key), escape(str(note.value)), remark)
    console.print(table)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """One line for a cell that is finished, was finished before, or failed."""
    line = f"{outcome.cell.name}: {outcome.status}"
    if outcome.record is not None and outcome.record.accuracy:
        line += f", {outcome.record.accuracy['quantized'].top1:.2f} %"
    if outcome.reason:
        line += f": {outcome.reason}"
    style = "red" if outcome.status == "failed" else None
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def show_rows(console: Console, rows: Sequence[Row]) -> None:
    """The reproduced table."""
    table = Table(title="ImageNet top-1 in percent")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.texts())
    console.print(table)


def show_estimates(console: Console, estimates: Sequence[tuple[Cell, Estimate | str]]) -> None:
    """What every cell will cost, or why it cannot run."""
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


def _show_losses(console: Console, runs: Sequence[Sequence[UnitRecord]]) -> None:
    largest = max(unit.relative_loss for units in runs for unit in units) or 1.0
    table = Table(show_header=False, box=None, padding=(0, 1))
    for units in zip(*runs, strict=True):
        cells = [units[0].name]
        for unit in units:
            length = round(_BAR_WIDTH * unit.relative_loss / largest)
            cells.append(f"{100 * unit.relative_loss:5.1f} % {'█' * length:<{_BAR_WIDTH}}")
        table.add_row(*cells)
    console.print(table)
