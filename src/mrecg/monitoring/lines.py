"""A line of text per finished group and phase, for pipes, files and terminals that cannot move the cursor."""

import time

from rich.console import Console

from mrecg.config.texts import duration, printable
from mrecg.monitoring.reporter import Reporter, finding, line_of, phase_name
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate

__all__ = ["LineReporter"]


class LineReporter(Reporter):
    """Print lines without control characters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: dict[str, float] = {}

    def start(self) -> None:
        """Do nothing: the first line comes when something is finished."""

    def stop(self) -> None:
        """Do nothing: nothing is unfinished."""

    def named(self, name: str, event: Progress | Estimate) -> None:
        """Print a line where something is finished."""
        if isinstance(event, Estimate) or event.note:
            self.note(line_of(name, event))
            return
        label = phase_name(name, event)
        started = self._started.setdefault(label, time.perf_counter())
        if not event.finished:
            return
        took = time.perf_counter() - started
        if event.group:
            count = f"{event.index + 1}/{event.groups} " if event.groups > 1 else ""
            found = finding(event)
            said = f": {found}" if found else ""
            self.note(f"{label}: {count}{' + '.join(event.group)}{said}")
        elif event.steps:
            self.note(f"{label}: {event.step} images in {duration(took)}")
        else:
            self.note(f"{label}: {duration(took)}")

    def note(self, text: str) -> None:
        """Print the text on one line."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
