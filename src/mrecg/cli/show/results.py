"""Output about runs: accuracy, plan, the loss along the network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrecg.data import name_some
from mrecg.demo import DemoRow
from mrecg.records.evaluation import Evaluation
from mrecg.records.plan import Plan
from mrecg.records.record import Record, UnitRecord

__all__ = [
    "demo_as_json",
    "show_accuracy",
    "show_demo",
    "show_plan",
    "show_record",
    "show_skipped",
]

_BAR_WIDTH = 30


def show_demo(console: Console, rows: Sequence[DemoRow], folder: Path | None) -> None:
    """Show the table, the joint groups, and the loss along the network without and with them."""
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
    """Return the demo's rows for a script."""
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
    """Show the plan, the loss of every unit, and the accuracy."""
    console.print(f"plan: {record.plan}", markup=False, highlight=False)
    _show_losses(console, [record.units])
    worst = record.oscillation
    console.print(
        f"{len(worst.jumps)} jumps of the loss, {100 * worst.total:.1f} % in all; "
        f"largest loss {100 * worst.largest_loss:.1f} % in {worst.largest_unit}",
        markup=False,
    )
    if record.network is not None:
        fate = "kept" if record.network.accepted else "rolled back"
        console.print(
            f"the network as a whole, {record.network.steps} steps: divergence on mirrored images "
            f"{record.network.divergence_before:.4g} → {record.network.divergence_after:.4g}, {fate}",
            highlight=False,
            soft_wrap=True,
        )
    if record.left_in_float:
        console.print(f"left in float: {', '.join(record.left_in_float)}", markup=False)
    for name, found in record.accuracy.items():
        show_accuracy(console, name, found)
    console.print(f"The run is in {folder}.", markup=False)


def show_accuracy(console: Console, name: str, found: Evaluation) -> None:
    """Show a line with the accuracy of a network."""
    console.print(
        f"{name}: top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} % of {found.count} images",
        highlight=False,
    )


def show_skipped(console: Console, skipped: Sequence[str]) -> None:
    """Show a line about the images that could not be read, if there are any."""
    if skipped:
        console.print(
            f"skipped {len(skipped)} unreadable images: {name_some(skipped)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def show_plan(console: Console, plan: Plan, published: frozenset[int] | None = None) -> None:
    """Show every pair of neighbors with what the rule compared, and where given which pairs the authors join."""
    table = Table(title=escape(plan.rule))
    columns = ["unit", "metric", "difference to the next", "alike", "joined to the next"]
    if published is not None:
        columns.append("joined by the authors")
    for column in columns:
        table.add_column(column)
    for position, pair in enumerate(plan.neighbors):
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
    if plan.neighbors:
        table.add_row(plan.neighbors[-1].second, f"{plan.metric[-1]:.4g}" if plan.metric else "")
    console.print(table)
    console.print(str(plan), markup=False, highlight=False)


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
