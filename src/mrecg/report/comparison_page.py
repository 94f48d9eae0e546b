"""The page about several runs: which is better, where they differ, what it takes, what was set differently."""

from collections.abc import Sequence

from mrecg.records.accuracy_difference import AccuracyDifference
from mrecg.report.comparison import ComparedGroup, Comparison, Mean
from mrecg.report.parts import Chapter, Section, Table
from mrecg.report.sections.loss import draw_losses
from mrecg.report.sections.verdict import draw_differences
from mrecg.report.wording import (
    bytes_as_text,
    counted,
    listed,
    percent,
    seconds_as_text,
    shorten,
    signed,
)

__all__ = ["comparison_as_text", "comparison_chapter", "describe_group_difference", "mean_as_text"]

_UNKNOWN = "not recorded"


def comparison_chapter(comparison: Comparison, key: str = "comparison") -> Chapter:
    """Return the sections that compare runs; `key` starts the ids in them."""
    runs, groups = len(comparison.runs), len(comparison.groups)
    subtitle = f"{counted(runs, 'run')} with {counted(groups, 'setting')}, seeds apart"
    sections = (
        _accuracy(comparison, key),
        _losses(comparison, key),
        _cost(comparison),
        _settings(comparison),
    )
    return Chapter("Comparison", subtitle, sections)


def comparison_as_text(comparison: Comparison) -> str:
    """Return what the sections say, a line for each sentence."""
    found = comparison_chapter(comparison).sections
    return "\n".join(line for one in found for line in (one.answer, *one.notes))


def mean_as_text(mean: Mean | None, unit: str = "", digits: int = 2) -> str:
    """Return a mean with its standard error, if it has one."""
    if mean is None:
        return _UNKNOWN
    error = "" if mean.error is None else f" ± {mean.error:.{digits}f}"
    return f"{mean.value:.{digits}f}{error}{unit}"


def describe_group_difference(
    first: ComparedGroup, group: ComparedGroup, found: AccuracyDifference | None
) -> str:
    """Return in a sentence how two groups differ in accuracy."""
    if found is None:
        return f"How {group.label} differs from {first.label} is not known: the accuracy of some run was not recorded, or they share no seed."
    source = {
        "seeds": "mean ± standard error, seed by seed",
        "answers": "from the answers to each image",
        "counts": "from counts of right answers alone",
    }[found.source]
    error = f" ± {found.standard_error:.2f}" if found.source == "seeds" else ""
    figures = f"{signed(found.points)}{error} points (95 % from {signed(found.low)} to {signed(found.high)}, {source})"
    if not found.is_certain:
        return f"Between {group.label} and {first.label} no difference can be seen: {figures}."
    better = "more" if found.points > 0 else "less"
    return f"{group.label} is {better} accurate than {first.label}: {figures}."


def _accuracy(comparison: Comparison, key: str) -> Section:
    first, *others = comparison.groups
    found = [(group, comparison.difference(group)) for group in others]
    if not others:
        answer = f"All runs differ in their seeds only: top-1 is {mean_as_text(first.top1, ' %')} (mean ± standard error)."
    else:
        answer = _best(comparison)
    notes = tuple(describe_group_difference(first, *pair) for pair in found)
    known = [(group.label, one) for group, one in found if one is not None]
    charts = (draw_differences(f"{key}-accuracy", known, first.label),) if known else ()
    rows = tuple(
        (
            run.name,
            group.label,
            str(run.recipe.seed),
            f"{run.before.top1:.2f} %" if run.before else _UNKNOWN,
            f"{run.after.top1:.2f} %" if run.after else _UNKNOWN,
            f"{run.after.count:,}" if run.after else _UNKNOWN,
        )
        for group in comparison.groups
        for run in group.runs
    )
    columns = ("run", "setting", "seed", "float top-1", "quantized top-1", "images")
    tables = (_overview(comparison), Table("Accuracy of every run", columns, rows))
    return Section("Which is better?", answer, charts=charts, tables=tables, notes=notes)


def _best(comparison: Comparison) -> str:
    """Return which group has the best accuracy, as measured."""
    known = [(group.top1.value, group) for group in comparison.groups if group.top1 is not None]
    if not known:
        return "The accuracy of these runs was not recorded."
    _, best = max(known, key=lambda pair: pair[0])
    return f"The highest top-1 has {best.label}, {mean_as_text(best.top1)} %."


def _overview(comparison: Comparison) -> Table:
    rows = []
    for group in comparison.groups:
        difference = None if group is comparison.groups[0] else comparison.difference(group)
        rows.append(
            (
                group.label,
                mean_as_text(group.float_top1),
                mean_as_text(group.top1),
                "" if difference is None else signed(difference.points),
            )
        )
    columns = ("setting", "float top-1, %", "quantized top-1, %", "difference to the first, points")
    caption = "Accuracy of every setting, ± standard error over seeds"
    return Table(caption, columns, tuple(rows), is_open=True)


def _losses(comparison: Comparison, key: str) -> Section:
    question, ends = "Where do they differ?", comparison.ends
    if not ends:
        answer = "Their losses cannot be compared: their units are not the same, or no groups end at the same unit."
        return Section(question, answer)
    series = [(group.label, group.losses(ends)) for group in comparison.groups]
    means = [group.mean_losses(ends) for group in comparison.groups]
    rows = tuple(
        (name, *(percent(losses[place]) for losses in means)) for place, name in enumerate(ends)
    )
    columns = ("unit", *(group.label for group in comparison.groups))
    return Section(
        question,
        _about_losses(comparison, means),
        charts=(draw_losses(f"{key}-losses", ends, series),),
        tables=(Table("Mean loss where groups of all runs end", columns, rows),),
    )


def _about_losses(comparison: Comparison, means: Sequence[Sequence[float]]) -> str:
    labels = [group.label for group in comparison.groups]
    last = min(range(len(labels)), key=lambda place: means[place][-1])
    largest = min(range(len(labels)), key=lambda place: max(means[place]))
    if len(labels) == 1:
        return f"At the last end the loss is {percent(means[0][-1])} of the signal's power."
    return (
        f"At the last end, the loss is least with {labels[last]}, {percent(means[last][-1])} of the signal's power; the largest loss "
        f"along the network is least with {labels[largest]}, {percent(max(means[largest]))}."
    )


def _cost(comparison: Comparison) -> Section:
    fastest = min(comparison.groups, key=lambda group: group.seconds.value)
    answer = f"A run of {fastest.label} took least time, {seconds_as_text(fastest.seconds.value)}."
    sizes = {group.label: group.size.value for group in comparison.groups if group.size}
    if len(set(sizes.values())) == 1:
        answer += f" The parameters take {bytes_as_text(round(min(sizes.values())))} in each."
    elif sizes:
        smallest = min(sizes, key=sizes.__getitem__)
        answer += (
            f" The parameters of {smallest} take least, {bytes_as_text(round(sizes[smallest]))}."
        )
    rows = tuple(
        (
            group.label,
            seconds_as_text(group.seconds.value),
            _UNKNOWN if group.size is None else bytes_as_text(round(group.size.value)),
        )
        for group in comparison.groups
    )
    table = Table("Mean time and size", ("setting", "time", "parameters"), rows, is_open=True)
    return Section("What does it take?", answer, tables=(table,))


def _settings(comparison: Comparison) -> Section:
    found = comparison.settings
    answer = (
        f"{counted(len(found), 'setting')} {'differs' if len(found) == 1 else 'differ'}: {listed([key for key, _ in found])}."
        if found
        else "Nothing but the seeds, as far as the recipes tell."
    )
    columns = ("setting", *(group.label for group in comparison.groups))
    rows = tuple((key, *(shorten(value, 60) for value in values)) for key, values in found)
    tables = (Table("Settings that differ", columns, rows, is_open=True),) if rows else ()
    return Section("What was set differently?", answer, tables=tables)
