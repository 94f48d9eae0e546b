"""Did tuning converge? The loss against steps, and roundings that stayed undecided."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrecg.records.record import Curve, GroupRecord
from mrecg.report.drawing import ACCENT, MUTED, SERIES, draw, put_legend, write_numbers
from mrecg.report.parts import Chart, Section, Table
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import counted, number, percent, seconds_as_text, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["convergence_section"]

_FALLING = 0.05
"""By so much more than in the part before, a loss may be called falling at its end."""
_UNDECIDED = 0.01
"""Fraction of undecided roundings that is worth a warning."""


def convergence_section(run: ReportedRun, key: str) -> Section:
    """Return the section; `key` starts the ids in it."""
    groups, network = run.record.groups, run.record.network
    drawn = [group for group in groups if len(_finite(group.curve)) > 1]
    charts = [_draw_groups(drawn, f"{key}-steps")] if drawn else []
    if network is not None and len(_finite(network.curve)) > 1:
        charts.append(_draw_network(_finite(network.curve), f"{key}-network"))
    return Section(
        "Did tuning converge?",
        _answer(run, drawn),
        charts=tuple(charts),
        tables=(_table(groups),) if any(group.steps for group in groups) else (),
        notes=_about_network(run),
    )


def _answer(run: ReportedRun, drawn: Sequence[GroupRecord]) -> str:
    groups = [group for group in run.record.groups if group.steps]
    if not groups:
        how = "to nearest"
        if run.recipe.reconstruct.rounding != "learned":
            how = "in closed form, or to nearest where that is better"
        return f"Nothing was tuned: every weight is rounded {how}."
    worst = max(groups, key=lambda group: group.undecided)
    undecided = (
        f"Almost all roundings are decided: at most {percent(worst.undecided)} of a group's were not"
        if worst.undecided <= _UNDECIDED
        else f"Many roundings were not decided when they were made hard: {percent(worst.undecided)} in {worst.units[-1]}"
    )
    if not drawn:
        return f"{undecided}. The loss against steps was not recorded."
    falling = [group for group in drawn if _falls(_finite(group.curve))]
    if not falling:
        return f"Yes: the loss is flat at the end of every group. {undecided}."
    named = ", ".join(group.units[-1] for group in falling[:3])
    return (
        f"The loss of {counted(len(falling), 'group')} of {len(drawn)} still fell at the end ({named}): "
        f"more steps may help. {undecided}."
    )


def _finite(curve: Curve) -> list[tuple[int, float]]:
    return [(step, loss) for step, loss in curve if math.isfinite(loss) and loss > 0]


def _falls(curve: Sequence[tuple[int, float]]) -> bool:
    """Return whether the loss of the last quarter is clearly below that of the quarter before; batches differ."""
    size = len(curve) // 4
    if size < 2:
        return False
    now, before = ([loss for _, loss in part] for part in (curve[-size:], curve[-2 * size : -size]))
    return math.fsum(now) < (1 - _FALLING) * math.fsum(before)


def _draw_groups(groups: Sequence[GroupRecord], name: str) -> Chart:
    """Return the curves of groups, each relative to its start; those that fell least stand out."""
    curves = [_finite(group.curve) for group in groups]
    falls = [curve[-1][1] / curve[0][1] for curve in curves]
    least = sorted(range(len(groups)), key=lambda index: -falls[index])[:3]

    def paint(axes: Sequence["Axes"]) -> None:
        upper = axes[0]
        for index in sorted(range(len(groups)), key=lambda one: one in least):
            steps, losses = zip(*curves[index], strict=True)
            shown = [loss / losses[0] for loss in losses]
            chosen = index in least
            upper.plot(
                steps,
                shown,
                color=SERIES[least.index(index)] if chosen else MUTED,
                linewidth=1.6 if chosen else 0.7,
                alpha=1.0 if chosen else 0.45,
                label=shorten(groups[index].units[-1], 24) if chosen else None,
            )
        drawn = [loss / curve[0][1] for curve in curves for _, loss in curve]
        if max(drawn) > 10 * min(drawn):
            upper.set_yscale("log")
        else:
            upper.set_ylim(bottom=0)
        upper.set_xlim(left=0)
        upper.set_xlabel("steps of a group")
        write_numbers(upper)
        put_legend(upper)

    said = "Loss at the last step as a fraction of the first: " + "; ".join(
        f"{group.units[-1]} {percent(fall)}" for group, fall in zip(groups, falls, strict=True)
    )
    caption = "Loss against steps of every group, as a fraction of its first; those that fell least are named"
    return draw(name, caption, said, paint, heights=(1.9,), below=0.42)


def _draw_network(curve: Sequence[tuple[int, float]], name: str) -> Chart:
    def paint(axes: Sequence["Axes"]) -> None:
        axes[0].plot(*zip(*curve, strict=True), "o-", color=ACCENT, markersize=3)
        axes[0].set_ylim(bottom=0)
        axes[0].set_xlim(left=0)
        axes[0].set_xlabel("steps of the network as a whole")

    said = f"From {number(curve[0][1])} at step {curve[0][0]} to {number(curve[-1][1])} at step {curve[-1][0]}."
    caption = "The network as a whole: divergence of the outputs plus the units' errors, of single batches"
    return draw(name, caption, said, paint, heights=(1.2,), above=0.08, below=0.42)


def _about_network(run: ReportedRun) -> tuple[str, ...]:
    network = run.record.network
    if network is None:
        return ("The network as a whole was not tuned after its groups.",)
    fate = "which was kept" if network.accepted else "so that it was left as it was"
    return (
        f"The network as a whole, {counted(network.steps, 'step')}: the divergence from the float network went from "
        f"{number(network.divergence_before)} to {number(network.divergence_after)} on images that tuned nothing, {fate}.",
        *(
            f"The output '{name}' was taken for {kind} (reconstruct.answer)."
            for name, kind in network.taken_for.items()
        ),
    )


def _table(groups: Sequence[GroupRecord]) -> Table:
    rows = tuple(
        (
            " + ".join(group.units),
            f"{group.steps:,}",
            number(group.first_loss),
            number(group.last_loss),
            percent(group.undecided),
            "yes" if group.accepted else "no",
            seconds_as_text(group.seconds),
        )
        for group in groups
    )
    columns = (
        "group",
        "steps",
        "first loss",
        "last loss",
        "undecided",
        "better than nearest",
        "time",
    )
    return Table("Every group", columns, rows)
