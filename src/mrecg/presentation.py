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

from mrecg.demo import DemoRow
from mrecg.export.findings import RuntimeRecord, Verification
from mrecg.pipeline import Progress
from mrecg.record import Plan, Record, UnitRecord

__all__ = ["Reporter", "demo_as_json", "show_demo", "show_plan", "show_record", "show_verification"]

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
    console.print(f"The run is in {folder}.", markup=False)


def show_plan(console: Console, plan: Plan) -> None:
    """Every pair of neighbours with what the rule saw."""
    table = Table(title=escape(plan.rule))
    for column in ("unit", "metric", "difference to the next", "alike", "joined to the next"):
        table.add_column(column)
    for position, pair in enumerate(plan.neighbours):
        table.add_row(
            pair.first,
            f"{plan.metric[position]:.4g}" if plan.metric else "",
            "" if pair.difference is None else f"{pair.difference:.4g}",
            "yes" if pair.homogeneous else "",
            "yes" if pair.joined else "",
        )
    if plan.neighbours:
        last = f"{plan.metric[-1]:.4g}" if plan.metric else ""
        table.add_row(plan.neighbours[-1].second, last, "", "", "")
    console.print(table)
    console.print(str(plan), markup=False, highlight=False)


def show_verification(console: Console, result: Verification, file: Path) -> None:
    """Agreement, size and speed of an exported file."""
    ratio = result.file_bytes / result.ideal_bytes
    lines = [
        f"{file} computes the simulation: on {result.images} images top-1 agrees for "
        f"{result.top1_agreement:.2f} % ({result.top1_agreement_ties_apart:.2f} %, ties apart), the largest difference "
        f"is {result.largest_difference:.2g} output steps, {result.different_codes} of {result.codes} codes were ties.",
        f"size: {result.file_bytes} bytes, {ratio:.2f} times the ideal {result.ideal_bytes}",
        f"layers in integers: {len(result.integer_layers)}; in float: {', '.join(result.float_layers) or 'none'}",
        *(_speed_line(runtime) for runtime in result.runtimes),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _speed_line(runtime: RuntimeRecord) -> str:
    if runtime.speed is None or runtime.seconds is None or runtime.float_seconds is None:
        return f"{runtime.name}: {runtime.problem}"
    return (
        f"{runtime.name}: one image takes {1e3 * runtime.seconds:.2f} ms, in float "
        f"{1e3 * runtime.float_seconds:.2f} ms: {runtime.speed:.2f} times as fast; "
        f"top-1 agrees for {runtime.top1_agreement:.2f} %"
    )


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
