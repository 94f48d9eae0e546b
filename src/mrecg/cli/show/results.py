"""Output about runs: accuracy, plan, the loss along the network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrecg.cli.consoles import say
from mrecg.data import name_some
from mrecg.demo import DemoRow, JoiningEffect, joining_effect
from mrecg.records.evaluation import Evaluation
from mrecg.records.plan import Plan
from mrecg.records.record import Record, UnitRecord

__all__ = [
    "accuracy_text",
    "demo_as_json",
    "joining_verdict",
    "show_demo",
    "show_plan",
    "show_record",
    "show_skipped",
]

_BAR_WIDTH = 30
_END_WIDTH = 20


def show_demo(console: Console, rows: Sequence[DemoRow], folder: Path | None) -> None:
    """Show the table, the loss where joined groups end, without and with joining, and what that says."""
    table = Table(title="Fashion-MNIST, packaged test images")
    for column in ("network", "bits W/A", "top-1", "KL from float", "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, evaluation, divergence, quantized in rows:
        top1, distance = f"{evaluation.top1:.2f} %", f"{float(divergence.mean()):.3f}"
        if quantized is None:
            table.add_row(name, "32/32", top1, "", "")
            continue
        record, recipe = quantized.record, quantized.recipe
        bits = f"{recipe.weight.bits}/{recipe.activation.bits}"
        table.add_row(name, bits, top1, distance, f"{sum(record.seconds.values()):.0f}")
    console.print(table)
    _show_effect(console, joining_effect(rows))
    if folder is not None:
        say(console, f"\nThe run is in {folder}.")


def _show_effect(console: Console, effect: JoiningEffect) -> None:
    """Show what joining changed, and a verdict in words."""
    console.print(
        "\nLoss: squared difference from float, as a fraction of float's power, where a"
        "\njoined group ends; its blocks optimized alone, and then together:",
        highlight=False,
    )
    largest = max((max(end.alone, end.joined) for end in effect.ends), default=0.0) or 1.0
    ends = Table(show_header=False, box=None, padding=(0, 1))
    for end in effect.ends:
        cells = [end.units[-1]]
        for loss in (end.alone, end.joined):
            length = round(_END_WIDTH * loss / largest)
            cells.append(f"{100 * loss:5.1f} % {'█' * length:<{_END_WIDTH}}")
        ends.add_row(*cells)
    console.print(ends)
    console.print("\n" + joining_verdict(effect), highlight=False)


def joining_verdict(effect: JoiningEffect) -> str:
    """Return what joining did in a sentence; a difference counts from two standard errors on."""
    gain, error = effect.gain, effect.standard_error
    change = f"{'falls' if gain > 0 else 'rises'} by {abs(gain):.3f} ± {error:.3f}"
    figures = f"KL {change} (standard error over the test images)"
    if abs(gain) <= 2 * error:
        said = "Joining makes no difference that these images can show"
    else:
        said = f"Joining brings the answers {'nearer to' if gain > 0 else 'further from'} float"
    lower = sum(end.joined < end.alone for end in effect.ends)
    return (
        f"{said}: {figures}; the loss is lower at {lower} of {len(effect.ends)} group ends, at equal "
        "steps for every block."
    )


def demo_as_json(rows: Sequence[DemoRow]) -> dict[str, Any]:
    """Return the demo's rows, and what joining changed, for a script."""
    effect = joining_effect(rows)
    return {
        "rows": [
            {
                "name": name,
                "count": evaluation.count,
                "top1": evaluation.top1,
                "divergence": float(divergence.mean()),
                "record": None if quantized is None else quantized.record.model_dump(mode="json"),
            }
            for name, evaluation, divergence, quantized in rows
        ],
        "joining": {
            "gain": effect.gain,
            "standard_error": effect.standard_error,
            "ends": [end._asdict() for end in effect.ends],
        },
    }


def show_record(console: Console, record: Record) -> None:
    """Show the plan, the joins that were tried, the loss of every unit, and what became of the network as a whole."""
    say(console, f"plan: {record.plan}")
    _show_joins(console, record.plan)
    _show_losses(console, [record.units])
    worst = record.oscillation
    say(
        console,
        f"{len(worst.jumps)} jumps of the loss, {100 * worst.total:.1f} % in all; "
        f"largest loss {100 * worst.largest_loss:.1f} % in {worst.largest_unit}",
    )
    if record.network is not None:
        fate = "kept" if record.network.accepted else "rolled back"
        say(
            console,
            f"the network as a whole, {record.network.steps} steps: divergence on images that tuned nothing "
            f"{record.network.divergence_before:.4g} → {record.network.divergence_after:.4g}, {fate}",
        )
        for name, kind in record.network.taken_for.items():
            other = "values" if kind == "logits" else "logits"
            text = f"the output '{name}' was taken for {kind}; if it is {other}: --set reconstruct.answer={other}"
            say(console, text)
    if record.left_in_float:
        say(console, f"left in float: {', '.join(record.left_in_float)}")


def _show_joins(console: Console, plan: Plan) -> None:
    """Show the joins that a run tried, and what each gained."""
    for join in plan.joins:
        say(
            console,
            f"{' + '.join(join.units)}: loss at the end {100 * join.separate_loss:.1f} % one by one, "
            f"{100 * join.joint_loss:.1f} % jointly, {'kept' if join.kept else 'not kept'}",
        )


def accuracy_text(name: str, found: Evaluation) -> str:
    """Return a line with the accuracy of a network."""
    return f"{name}: top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} % of {found.count} images"


def show_skipped(console: Console, skipped: Sequence[str]) -> None:
    """Show a line about the images that could not be read, if there are any."""
    if skipped:
        say(console, f"skipped {len(skipped)} unreadable images: {name_some(skipped)}")


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
    say(console, str(plan))


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
