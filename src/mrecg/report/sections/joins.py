"""Which units were joined, and why: the metric of each unit, its difference to the next, and the gain of each join."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mrecg.report.drawing import (
    ACCENT,
    BAD,
    INK,
    MUTED,
    NAME_SIZE,
    draw,
    label_units,
    room_for,
    write_numbers,
)
from mrecg.report.parts import Chart, Section, Table
from mrecg.report.reported_run import ReportedRun
from mrecg.report.wording import counted, number, percent, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["joins_section"]


def joins_section(run: ReportedRun, key: str) -> Section:
    """Return the section; `key` starts the ids in it."""
    charts = []
    if run.record.plan.metric:
        charts.append(_draw_metric(run, f"{key}-metric"))
    if run.record.plan.joins:
        charts.append(_draw_gains(run, f"{key}-gains"))
    tables = [one for one in (_neighbors(run), _joins(run)) if one.rows]
    return Section(
        "What was joined, and why?", _answer(run), charts=tuple(charts), tables=tuple(tables)
    )


def _answer(run: ReportedRun) -> str:
    plan = run.record.plan
    rule = f"The rule: {plan.rule}."
    if not plan.joined and not plan.joins:
        return f"Nothing was joined: each unit was reconstructed alone. {rule}"
    joined = "; ".join(" + ".join(group) for group in plan.joined[:4])
    more = len(plan.joined) - 4
    said = (
        f"Joined: {joined}{f' and {more} more' if more > 0 else ''}."
        if joined
        else "Nothing stayed joined."
    )
    if not plan.joins:
        return f"{said} No join was tried against its units one by one. {rule}"
    kept = [join for join in plan.joins if join.kept]
    gain = (
        f"{percent(math.fsum(join.gain for join in kept) / len(kept))} of the loss on average"
        if kept
        else "nothing"
    )
    return (
        f"{said} Of {counted(len(plan.joins), 'join')} that were tried, {len(kept)} lowered the loss at the group's end on "
        f"images that tuned nothing and were kept; they took away {gain}. {rule}"
    )


def _metric_name(run: ReportedRun) -> str:
    rule = run.recipe.plan.join
    return rule if rule in ("capacity", "loss") else "metric"


def _draw_metric(run: ReportedRun, name: str) -> Chart:
    """Return the metric of each unit, with joins as brackets, and the differences between neighbors."""
    plan, names = run.record.plan, list(run.units)
    place = {unit: index for index, unit in enumerate(names)}
    metric = [value if math.isfinite(value) else math.nan for value in plan.metric]
    known = [
        (index + 0.5, pair.difference, pair.joined)
        for index, pair in enumerate(plan.neighbors)
        if pair.difference is not None and math.isfinite(pair.difference)
    ]

    def paint(axes: Sequence["Axes"]) -> None:
        upper = axes[0]
        upper.bar(range(len(names)), metric, width=0.55, color=ACCENT)
        upper.set_title(f"{_metric_name(run)} of a unit; brackets are joins")
        positive = [value for value in metric if value > 0]
        if positive and max(positive) > 50 * min(positive):
            upper.set_yscale("log")
        write_numbers(upper)
        _paint_brackets(upper, plan.joined, place)
        if known:
            lower = axes[1]
            for wanted, color, label in ((True, INK, "joined"), (False, MUTED, "not joined")):
                of_kind = [(x, found) for x, found, joined in known if joined is wanted]
                x, heights = [x for x, _ in of_kind], [found for _, found in of_kind]
                lower.bar(x, heights, width=0.3, color=color, label=label)
            lower.set_title(f"difference of {_metric_name(run)} to the next")
            lower.legend(loc="upper right", ncols=2)
            upper.set_xticks([])
            upper.set_xlim(-0.7, len(names) - 0.3)
        label_units(axes[-1], names)

    largest = max(range(len(names)), key=lambda index: plan.metric[index])
    said = (
        f"The {_metric_name(run)} is largest in {names[largest]} ({number(plan.metric[largest])})."
    )
    said += f" Joined are {'; '.join(' and '.join(group) for group in plan.joined) or 'none'}."
    heights = (1.3, 0.9) if known else (1.5,)
    caption = f"{_metric_name(run).capitalize()} of each unit, and what was joined"
    return draw(name, caption, said, paint, heights=heights, below=room_for(names, 20))


def _paint_brackets(
    axis: "Axes", groups: Sequence[Sequence[str]], place: Mapping[str, int]
) -> None:
    """Draw a bracket above each group; heights are fractions of the axes."""
    across = axis.get_xaxis_transform()
    for group in groups:
        first, last = place[group[0]] - 0.3, place[group[-1]] + 0.3
        axis.plot(
            [first, first, last, last],
            [0.97, 1.01, 1.01, 0.97],
            transform=across,
            color=INK,
            linewidth=1.1,
            clip_on=False,
        )


def _draw_gains(run: ReportedRun, name: str) -> Chart:
    """Return how much of the loss at its end each join took away."""
    joins = run.record.plan.joins
    gains = [100 * join.gain if math.isfinite(join.gain) else math.nan for join in joins]
    labels = [f"{shorten(join.units[0], 18)} to {shorten(join.units[-1], 18)}" for join in joins]

    def paint(axes: Sequence["Axes"]) -> None:
        axis = axes[0]
        colors = [ACCENT if join.kept else BAD for join in joins]
        axis.barh(range(len(joins)), gains, height=0.55, color=colors)
        for index, (join, gain) in enumerate(zip(joins, gains, strict=True)):
            if math.isfinite(gain):
                axis.annotate(
                    f"{gain:.1f} %{'' if join.kept else ' · not kept'}",
                    (max(gain, 0), index),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=NAME_SIZE,
                )
        axis.axvline(0, color=MUTED, linewidth=0.8)
        axis.set_yticks(range(len(joins)))
        axis.set_yticklabels(labels, fontsize=NAME_SIZE, family="monospace")
        axis.set_ylim(len(joins) - 0.4, -0.6)
        axis.set_xlabel("% of the loss at the group's end that joining took away")
        axis.grid(visible=True, axis="x")
        axis.grid(visible=False, axis="y")
        axis.margins(x=0.14)

    said = "; ".join(
        f"{' + '.join(join.units)}: {percent(join.gain)}{'' if join.kept else ', not kept'}"
        for join in joins
    )
    return draw(
        name,
        "Gain of each join, on images that tuned nothing",
        said,
        paint,
        heights=(0.21 * len(joins) + 0.15,),
        above=0.08,
        below=0.42,
        left=room_for(labels, 40),
    )


def _neighbors(run: ReportedRun) -> Table:
    plan = run.record.plan
    rows = []
    for index, pair in enumerate(plan.neighbors):
        metric = number(plan.metric[index]) if plan.metric else ""
        difference = "" if pair.difference is None else number(pair.difference)
        marks = ("yes" if flag else "" for flag in (pair.homogeneous, pair.joined))
        rows.append((pair.first, metric, difference, *marks))
    if plan.neighbors:
        rows.append(
            (plan.neighbors[-1].second, number(plan.metric[-1]) if plan.metric else "", "", "", "")
        )
    columns = ("unit", _metric_name(run), "difference to the next", "alike", "joined to the next")
    return Table("Every unit and its neighbor", columns, tuple(rows))


def _joins(run: ReportedRun) -> Table:
    rows = tuple(
        (
            " + ".join(join.units),
            percent(join.separate_loss),
            percent(join.joint_loss),
            percent(join.gain),
            "yes" if join.kept else "no",
        )
        for join in run.record.plan.joins
    )
    columns = ("join", "loss one by one", "jointly", "gain", "kept")
    return Table("Every join that was tried", columns, rows)
