"""Where does the error arise? The loss along the network, where groups end."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mrecg.report.drawing import (
    ACCENT,
    BAD,
    FAINT,
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
from mrecg.report.wording import counted, decibels, number, percent, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_loss", "draw_losses", "loss_section"]


def loss_section(run: ReportedRun, key: str) -> Section:
    """Return the section; `key` starts the ids in it."""
    found = run.record.oscillation
    answer = (
        f"The loss is largest in {found.largest_unit}, where it is {percent(found.largest_loss)} of the signal's power "
        f"({_snr(found.largest_loss)} dB). {_about_jumps(run)}"
    )
    return Section(
        "Where does the error arise?",
        answer,
        charts=(draw_loss(run, f"{key}-loss"),),
        tables=(_table(run),),
    )


def _about_jumps(run: ReportedRun) -> str:
    found = run.record.oscillation
    if not found.jumps:
        return "It does not oscillate: nowhere does it rise and fall again."
    largest = max(found.jumps, key=lambda jump: jump.size)
    return (
        f"It oscillates: it rises and falls again at {counted(len(found.jumps), 'place')}, by {percent(found.total)} of the "
        f"signal's power in all, most of it at {largest.unit} ({percent(largest.size)})."
    )


def draw_loss(run: ReportedRun, name: str) -> Chart:
    """Return the loss and the signal-to-noise ratio where the groups of a run end, with jumps and joins."""
    names = list(run.units)
    place = {unit: index for index, unit in enumerate(names)}
    ends = [place[unit] for unit in run.ends]
    losses = [run.units[unit].relative_loss for unit in run.ends]

    def paint(axes: Sequence["Axes"]) -> None:
        upper, lower = axes
        for group in run.record.plan.joined:
            for axis in axes:
                axis.axvspan(place[group[0]] - 0.4, place[group[-1]] + 0.4, color=FAINT, zorder=0)
        shown = [100 * _finite(loss) for loss in losses]
        upper.plot(ends, shown, "o-", color=ACCENT, label="end of a group")
        _paint_jumps(upper, run, place)
        _paint_joins(upper, run, place)
        upper.set_ylim(bottom=0)
        write_numbers(upper, " %")
        put_legend(upper)
        upper.set_xticks([])
        upper.set_xlim(-0.7, len(names) - 0.3)
        lower.plot(
            ends, [_finite(decibels(loss)) for loss in losses], "o-", color=ACCENT, markersize=3
        )
        lower.set_title("signal to noise, dB")
        label_units(lower, names)

    said = f"From {names[0]} to {names[-1]}: " + ", ".join(
        f"{unit} {percent(loss)}" for unit, loss in zip(run.ends, losses, strict=True)
    )
    return draw(
        name,
        "Loss as a fraction of the signal's power, where groups end; joined units are shaded",
        said,
        paint,
        heights=(2.1, 0.8),
        below=room_for(names, 20),
    )


def _paint_jumps(axis: "Axes", run: ReportedRun, place: Mapping[str, int]) -> None:
    jumps = run.record.oscillation.jumps
    if not jumps:
        return
    units = run.units
    peaks = [(place[jump.unit], 100 * _finite(units[jump.unit].relative_loss)) for jump in jumps]
    axis.plot(*zip(*peaks, strict=True), "o", color=BAD, markersize=5.5, zorder=3, label="a jump")
    for jump, (x, y) in zip(jumps, peaks, strict=True):
        if math.isfinite(y) and jump in sorted(jumps, key=lambda one: -one.size)[:3]:
            axis.annotate(
                f"+{percent(jump.size)}",
                (x, y),
                (6, -9),
                textcoords="offset points",
                color=BAD,
                fontsize=NAME_SIZE,
            )


def _paint_joins(axis: "Axes", run: ReportedRun, place: Mapping[str, int]) -> None:
    joins = run.record.plan.joins
    if not joins:
        return
    x = [place[join.units[-1]] for join in joins]
    alone = [100 * _finite(join.separate_loss) for join in joins]
    joint = [100 * _finite(join.joint_loss) for join in joins]
    axis.vlines(x, alone, joint, color=MUTED, linewidth=0.8)
    axis.plot(x, alone, "o", markerfacecolor="none", color=MUTED, label="one by one")
    axis.plot(x, joint, "D", color=INK, markersize=3, label="jointly")


def draw_losses(
    name: str, ends: Sequence[str], series: Sequence[tuple[str, Sequence[Sequence[float]]]]
) -> Chart:
    """Return the losses of several settings at the same places of the network.

    Args:
        name: starts the ids.
        ends: units where groups of all runs end.
        series: of each setting its label, and of each of its runs the relative losses at `ends`.
    """

    def paint(axes: Sequence["Axes"]) -> None:
        axis = axes[0]
        for index, (label, losses) in enumerate(series):
            color = SERIES[index % len(SERIES)]
            columns = [
                [100 * _finite(loss) for loss in column] for column in zip(*losses, strict=True)
            ]
            means = [math.fsum(column) / len(column) for column in columns]
            if len(losses) > 1:
                low, high = map(min, columns), map(max, columns)
                axis.fill_between(range(len(ends)), list(low), list(high), color=color, alpha=0.18)
            axis.plot(range(len(ends)), means, "o-", color=color, label=shorten(label, 30))
        axis.set_ylim(bottom=0)
        write_numbers(axis, " %")
        put_legend(axis)
        label_units(axis, ends)

    said = "; ".join(
        f"{label}: {percent(math.fsum(one[-1] for one in losses) / len(losses))} at the end"
        for label, losses in series
    )
    caption = "Loss as a fraction of the signal's power, where groups of all runs end"
    if any(len(losses) > 1 for _, losses in series):
        caption += "; bands reach from the smallest to the largest of the seeds"
    return draw(name, caption, said, paint, heights=(2.4,), below=room_for(ends, 20))


def _table(run: ReportedRun) -> Table:
    jumps = {jump.unit: jump.size for jump in run.record.oscillation.jumps}
    rows = []
    for unit in run.record.units:
        at_end = unit.name in run.ends
        rows.append(
            (
                unit.name,
                percent(unit.relative_loss) if at_end else f"({percent(unit.relative_loss)})",
                _snr(unit.relative_loss),
                f"+{percent(jumps[unit.name])}" if unit.name in jumps else "",
                number(unit.loss),
                number(unit.nearest_loss),
                " + ".join(run.record.groups[unit.group].units) if not at_end else "",
            )
        )
    columns = (
        "unit",
        "loss",
        "SNR, dB",
        "jump",
        "absolute",
        "rounded to nearest",
        "ends later, with",
    )
    return Table(
        "Loss of every unit; in brackets inside of a joined group, where nothing is compared with the float network",
        columns,
        tuple(rows),
    )


def _snr(loss: float) -> str:
    return f"{decibels(loss):.1f}"


def _finite(value: float) -> float:
    """Return a value that can be drawn: infinity leaves a gap."""
    return value if math.isfinite(value) else math.nan
