"""Output about widths: the harm of each unit, what was chosen, and the tries for a target of accuracy."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrecg.cli.consoles import say
from mrecg.config.texts import size
from mrecg.records.accuracy_target import AccuracyTarget
from mrecg.records.bit_choice import BitChoice
from mrecg.records.sensitivity import QuantizedKind, Sensitivity, UnitHarms

__all__ = ["show_choice", "show_sensitivity", "show_target"]

_KINDS: tuple[QuantizedKind, ...] = ("weight", "activation")


def show_sensitivity(console: Console, found: Sensitivity, chosen: BitChoice | None = None) -> None:
    """Show a table of weights and one of activations, with what was chosen, and how well harms add up."""
    widths = {} if chosen is None else {(one.kind, one.name): one.bits for one in chosen.widths}
    for kind in _KINDS:
        units = found.of_kind(kind)
        if units:
            console.print(_table(found, kind, units, widths))
    how = f"after {found.after} steps" if found.after else "rounded to nearest"
    say(console, f"harm: {_distance(found)} from float on {found.images} images, {how}")
    for whole in found.wholes:
        say(
            console,
            f"all {whole.kind}s at {whole.bits} bits: {whole.measured:.3g}, the sum of each alone {whole.added:.3g}",
        )


def _distance(found: Sensitivity) -> str:
    return "KL divergence" if found.distance == "divergence" else found.distance


def _table(
    found: Sensitivity,
    kind: QuantizedKind,
    units: tuple[UnitHarms, ...],
    widths: dict[tuple[QuantizedKind, str], int],
) -> Table:
    table = Table(title=f"Harm of the {kind}s of each {found.granularity} alone")
    table.add_column(found.granularity, overflow="fold")
    for bits in found.widths(kind):
        table.add_column(f"{bits} bits", justify="right")
    scored = found.metric is not None
    if scored:
        table.add_column(f"{found.metric} at {found.widths(kind)[0]}", justify="right")
    if widths:
        table.add_column("chosen", justify="right")
    for unit in units:
        cells = [escape(unit.name), *(f"{one.harm:.2g}" for one in unit.harms)]
        if scored:
            cells.append(f"{unit.harms[0].score:.2f}")
        if widths:
            cells.append(str(widths.get((kind, unit.name), "")))
        table.add_row(*cells)
    return table


def show_choice(console: Console, chosen: BitChoice) -> None:
    """Show what a choice of widths costs, next to the widths that could be everywhere."""
    table = Table(title=f"Widths within {escape(chosen.budget)}")
    table.add_column("widths")
    for column in ("bits", "size", "GBOPs", "added harm"):
        table.add_column(column, justify="right")
    rows = [("chosen", chosen.cost, chosen.harm)]
    rows += [
        (f"{point.uniform} bits everywhere", point.cost, point.harm)
        for point in chosen.front
        if point.uniform is not None
    ]
    for name, cost, harm in rows:
        operations = f"{cost.bops / 1e9:.3g}"
        table.add_row(name, f"{cost.bits:.2f}", size(cost.bytes), operations, f"{harm:.3g}")
    console.print(table)


def show_target(console: Console, target: AccuracyTarget) -> None:
    """Show every try for a target of accuracy."""
    table = Table(
        title=f"Tries for a drop of at most {target.max_drop:g} ({escape(target.metric)})"
    )
    table.add_column("try", overflow="fold")
    for column in ("bits", "size", "drop", "seconds"):
        table.add_column(column, justify="right")
    for index, one in enumerate(target.attempts):
        name = f"{one.name}{' (kept)' if index == target.kept else ''}"
        table.add_row(
            escape(name),
            f"{one.bits:.2f}",
            size(one.bytes),
            f"{one.drop:.3g}",
            f"{one.seconds:.0f}",
        )
    console.print(table)
    say(console, target.verdict)
