"""Output about several runs: accuracy, loss along the network, time, size, and what was set differently."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrecg.report.comparison import ComparedGroup, Comparison
from mrecg.report.comparison_page import describe_group_difference, mean_as_text
from mrecg.report.wording import bytes_as_text, percent, seconds_as_text, shorten

__all__ = ["show_comparison"]

_AT_ONCE, _NAME, _KEY = 4, 26, 34
"""Columns of settings, and letters of a name and of a key, that fit 80 characters."""


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Show runs side by side."""
    groups = comparison.groups
    labels = [f"{place}" for place in range(1, len(groups) + 1)]
    console.print(_overview(comparison, labels))
    for label, group in zip(labels[1:], groups[1:], strict=True):
        said = describe_group_difference(groups[0], group, comparison.difference(group))
        console.print(Text(f"\n{label}: {said}"))
    _show_parts(console, "loss where groups of all runs end", labels, _losses(comparison))
    _show_parts(console, "settings that differ", labels, comparison.settings)


def _overview(comparison: Comparison, labels: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("", "runs", "top-1, %", "worst\nloss", "last\nloss", "time", "size"):
        words = column in ("", "runs")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    for label, group in zip(labels, comparison.groups, strict=True):
        name = Text(shorten(group.label, _NAME))
        table.add_row(label, name, *_numbers(comparison, group))
    return table


def _numbers(comparison: Comparison, group: ComparedGroup) -> list[str]:
    most, end = group.largest_loss(comparison.ends), group.last_loss(comparison.ends)
    return [
        "–" if group.top1 is None else mean_as_text(group.top1),
        "–" if most is None else percent(most.value),
        "–" if end is None else percent(end.value),
        seconds_as_text(group.seconds.value),
        "–" if group.size is None else bytes_as_text(round(group.size.value)),
    ]


def _losses(comparison: Comparison) -> list[tuple[str, tuple[str, ...]]]:
    """Return the mean loss of every group at the ends of groups."""
    found = [group.mean_losses(comparison.ends) for group in comparison.groups]
    return [
        (name, tuple(percent(losses[place]) for losses in found))
        for place, name in enumerate(comparison.ends)
    ]


def _show_parts(
    console: Console,
    title: str,
    labels: Sequence[str],
    rows: Sequence[tuple[str, tuple[str, ...]]],
) -> None:
    """Show a table whose columns are groups, some of them at once."""
    if not rows:
        return
    for first in range(0, len(labels), _AT_ONCE):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(title, no_wrap=True)
        for label in labels[first : first + _AT_ONCE]:
            table.add_column(label, justify="right", no_wrap=True)
        for name, values in rows:
            cells = values[first : first + _AT_ONCE]
            table.add_row(Text(shorten(name, _KEY)), *(Text(shorten(cell, 9)) for cell in cells))
        console.print()
        console.print(table)
