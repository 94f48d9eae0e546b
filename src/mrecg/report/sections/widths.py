"""Which layers need bits: harm of each unit at each width, the front of cost and harm, the tries for a target."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrecg.records.accuracy_target import AccuracyTarget
from mrecg.records.bit_choice import BitChoice, Cost
from mrecg.records.sensitivity import QuantizedKind, Sensitivity, UnitHarms
from mrecg.report.drawing import (
    ACCENT,
    INK,
    MUTED,
    NAME_SIZE,
    SERIES,
    draw,
    label_units,
    put_legend,
    room_for,
    write_numbers,
)
from mrecg.report.parts import Chart, Section, Table
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import bytes_as_text, counted, number, seconds_as_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["widths_section"]

_KINDS: tuple[QuantizedKind, ...] = ("weight", "activation")
_LEAST = 1e-12
"""Harm below which a chart of logarithms draws nothing."""


def widths_section(run: ReportedRun, key: str) -> Section | None:
    """Return the section; `None` where neither widths nor a target were chosen. `key` starts the ids in it."""
    record = run.record
    found, chosen, target = record.sensitivity, record.bits, record.target
    charts: list[Chart] = []
    tables: list[Table] = []
    said: list[str] = []
    if target is not None:
        said.append(target.verdict)
        tables.append(_attempts(target))
    if found is not None:
        said.append(_most_harmful(found))
        charts += [
            _draw_harms(found, kind, f"{key}-{kind}-harm") for kind in _KINDS if found.of_kind(kind)
        ]
        tables += [_harms(found, kind) for kind in _KINDS if found.of_kind(kind)]
        tables.append(_additions(found))
    if chosen is not None:
        said.insert(0, _choice(chosen))
        charts.append(_draw_front(chosen, f"{key}-front"))
        tables.append(_front(chosen))
    if not said:
        return None
    return Section(
        "Which layers need bits?", " ".join(said), charts=tuple(charts), tables=tuple(tables)
    )


def _choice(chosen: BitChoice) -> str:
    cost = chosen.cost
    return (
        f"Widths were chosen within {chosen.budget}: {cost.bits:.2f} bits for a weight on average, {bytes_as_text(cost.bytes)}, "
        f"{number(cost.bops / 1e9)} GBOPs for an image."
    )


def _most_harmful(found: Sensitivity) -> str:
    worst = max(found.units, key=lambda unit: unit.harms[0].harm)
    least = worst.harms[0]
    how = f"after {found.after} steps alone" if found.after else "rounded to nearest alone"
    return (
        f"Of {counted(len(found.units), 'unit')}, the {worst.kind}s of {worst.name} do the most harm: {number(least.harm)} at "
        f"{least.bits} bits ({_distance(found)}, {how})."
    )


def _distance(found: Sensitivity) -> str:
    return "KL divergence from float" if found.distance == "divergence" else found.distance


def _draw_harms(found: Sensitivity, kind: QuantizedKind, name: str) -> Chart:
    """Return the harm of each unit, a row of marks for each width."""
    units, widths = found.of_kind(kind), found.widths(kind)
    names = [unit.name for unit in units]

    def paint(axes: Sequence["Axes"]) -> None:
        axis = axes[0]
        for place, bits in enumerate(widths):
            harms = [_harm_at(unit, bits) for unit in units]
            drawn = [harm if _LEAST < harm < math.inf else math.nan for harm in harms]
            axis.plot(
                range(len(names)),
                drawn,
                "o",
                color=SERIES[place % len(SERIES)],
                label=f"{bits} bits",
            )
        axis.set_yscale("log")
        write_numbers(axis)
        put_legend(axis)
        label_units(axis, names)

    worst = max(units, key=lambda unit: unit.harms[0].harm)
    caption = f"Harm of the {kind}s of each {found.granularity} alone ({_distance(found)})"
    said = f"At {widths[0]} bits it is largest in {worst.name}, {number(worst.harms[0].harm)}."
    return draw(name, caption, said, paint, heights=(1.9,), below=room_for(names, 20))


def _harm_at(unit: UnitHarms, bits: int) -> float:
    """Return the harm at a width; NaN where it was not measured."""
    return next((one.harm for one in unit.harms if one.bits == bits), math.nan)


def _draw_front(chosen: BitChoice, name: str) -> Chart:
    """Return the least harm against the cost, with the widths that could be everywhere and what was chosen."""
    of_operations = "bop" in chosen.budget.lower()

    def across(cost: Cost) -> float:
        return cost.bops / 1e9 if of_operations else cost.bytes / 1e6

    mixed = [point for point in chosen.front if point.uniform is None]
    uniform = [point for point in chosen.front if point.uniform is not None]

    def paint(axes: Sequence["Axes"]) -> None:
        axis = axes[0]
        axis.plot(
            [across(point.cost) for point in mixed],
            [point.harm for point in mixed],
            "o-",
            color=ACCENT,
            label="mixed",
        )
        axis.plot(
            [across(point.cost) for point in uniform],
            [point.harm for point in uniform],
            "s",
            color=SERIES[1],
            label="one width everywhere",
        )
        for point in uniform:
            axis.annotate(
                f"{point.uniform} bits",
                (across(point.cost), point.harm),
                (5, 4),
                textcoords="offset points",
                fontsize=NAME_SIZE,
                color=MUTED,
            )
        axis.plot([across(chosen.cost)], [chosen.harm], "D", color=INK, label="chosen")
        axis.set_yscale("log")
        write_numbers(axis)
        axis.margins(x=0.1)
        axis.set_xlabel("billions of bit operations" if of_operations else "MB of parameters")
        axis.set_title("added harm")
        axis.legend(loc="upper right")

    said = f"Chosen: {number(across(chosen.cost))} with an added harm of {number(chosen.harm)}."
    return draw(name, "The least harm at each cost", said, paint, heights=(2.1,), below=0.45)


def _harms(found: Sensitivity, kind: QuantizedKind) -> Table:
    widths = found.widths(kind)
    rows = tuple(
        (unit.name, *(number(_harm_at(unit, bits)) for bits in widths))
        for unit in found.of_kind(kind)
    )
    columns = (found.granularity, *(f"{bits} bits" for bits in widths))
    return Table(f"Harm of the {kind}s of each {found.granularity} alone", columns, rows)


def _additions(found: Sensitivity) -> Table:
    rows = tuple(
        (f"{one.kind}s at {one.bits} bits", number(one.added), number(one.measured))
        for one in found.wholes
    )
    columns = ("quantized", "sum of each alone", "all at once")
    return Table("How well harms add up", columns, rows)


def _front(chosen: BitChoice) -> Table:
    rows = tuple(
        (
            "mixed" if point.uniform is None else f"{point.uniform} bits",
            f"{point.cost.bits:.2f}",
            bytes_as_text(point.cost.bytes),
            number(point.cost.bops / 1e9),
            number(point.harm),
        )
        for point in chosen.front
    )
    columns = ("widths", "bits for a weight", "parameters", "GBOPs", "added harm")
    return Table("Costs and harms", columns, rows)


def _attempts(target: AccuracyTarget) -> Table:
    rows = tuple(
        (
            f"{one.name}{', kept' if index == target.kept else ''}",
            f"{one.bits:.2f}",
            str(one.left_in_float),
            bytes_as_text(one.bytes),
            number(one.drop),
            seconds_as_text(one.seconds),
        )
        for index, one in enumerate(target.attempts)
    )
    columns = ("try", "bits for a weight", "layers in float", "parameters", "drop", "time")
    return Table(
        f"Tries for a drop of at most {target.max_drop:g} ({target.metric})",
        columns,
        rows,
        is_open=True,
    )
