"""Which reporter suits where a run is watched from."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mrecg import distributed
from mrecg.errors import MrecgError, expect
from mrecg.monitoring.bars import BarReporter, NotebookReporter
from mrecg.monitoring.lines import LineReporter
from mrecg.monitoring.reporter import Reporter
from mrecg.optimize.progress import Report, ignore

__all__ = ["reporter_for", "watched"]


def reporter_for(console: Console) -> Reporter:
    """Return bars where the console is a notebook or a terminal that can move its cursor, else lines."""
    if console.is_jupyter:
        shown = importlib.import_module("IPython.display")
        return NotebookReporter(shown.display, shown.HTML)
    if console.is_terminal and not console.is_dumb_terminal:
        return BarReporter(console)
    return LineReporter(console)


@contextmanager
def watched(progress: Report | bool | None) -> Iterator[Report]:
    """Return what a run reports to.

    Args:
        progress: called with events; or whether bars are shown. `None` shows them where there is a terminal or a notebook; of
            several processes the first one does.

    Raises:
        MrecgError: it is something else.
    """
    if callable(progress):
        yield progress
        return
    if progress is not None:
        advice = "or give a function of one event"
        expect(progress, bool, "What shows the progress", advice, MrecgError)
    console = Console(stderr=True)
    seen = console.is_jupyter or console.is_terminal
    if progress is False or not distributed.is_first() or (progress is None and not seen):
        yield ignore
        return
    with reporter_for(console) as reporter:
        yield reporter
