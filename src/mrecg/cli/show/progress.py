"""Output while a run goes on."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

from mrecg.pipeline import Estimate, Progress

__all__ = ["Reporter"]

_SHOWN = {"tune": "optimize"}
"""Phases with another name on the terminal; the one in events is part of the seeds."""


class Reporter:
    """Show progress bars on a terminal, elsewhere a line per finished group."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Progress | Estimate) -> None:
        self.named("", event)

    def named(self, name: str, event: Progress | Estimate) -> None:
        """Show an event under the name of a run."""
        if isinstance(event, Estimate):
            self._show_estimate(name, event)
        else:
            self._show_progress(name, event)

    def _show_estimate(self, name: str, estimate: Estimate) -> None:
        label = f"{name}: " if name else ""
        files = f" and {_size(estimate.files)} of files" if estimate.files else ""
        self._console.print(
            f"{label}about {_size(estimate.memory)} of memory{files} besides the model and the images, "
            f"about {estimate.seconds / 60:.0f} minutes",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _show_progress(self, name: str, event: Progress) -> None:
        label = f"{name} {_SHOWN.get(event.phase, event.phase)}".strip()
        units = " + ".join(event.group)
        if self._console.is_terminal:
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(label, total=event.groups, detail="")
            # Groups take different numbers of steps.
            done = event.index + (event.step / event.steps if event.steps else 1)
            detail = f"{units}: loss {event.loss:.4g}"
            self._bars.update(self._tasks[label], completed=done, detail=escape(detail))
        elif event.finished:
            self._console.print(
                f"{label}: {event.index + 1}/{event.groups} {units}: loss {event.loss:.4g}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _size(number: float) -> str:
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"
