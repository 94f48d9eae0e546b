"""Bars on a terminal and in a notebook: one line per phase, with a counter, the time left, and the loss."""

import io
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from mrecg.config.texts import printable
from mrecg.monitoring.reporter import Reporter, finding, line_of, phase_name
from mrecg.optimize.progress import Progress
from mrecg.planning.estimate import Estimate

__all__ = ["BarReporter", "NotebookReporter"]

_WIDE = 100
"""Columns from which on bars are long."""
_LONGEST_LABEL = 28
_NOTEBOOK_WIDTH = 100
_REDRAWN_EVERY = 0.2
"""Seconds between two pictures in a notebook."""


class _Time(ProgressColumn):
    """The time left, from the time that the part done took; of a finished phase, the time that it took."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        if task.finished or elapsed is None or not task.total or not task.completed:
            return Text(f"{_clock(elapsed or 0.0)}     ")
        left = elapsed * (task.total - task.completed) / task.completed
        return Text(f"{_clock(left)} left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class BarReporter(Reporter):
    """Show bars on a terminal; the lines of a finished run make room for the next run's.

    Args:
        console: whose last lines the bars are.
        live: redraws itself; else somebody draws `picture`.
        clock: returns seconds.
    """

    def __init__(
        self, console: Console, live: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._live = console, live
        self._tasks: dict[str, TaskID] = {}
        self._name = ""
        one_line: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}
        self.picture = Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(**one_line)),
            BarColumn(30 if console.width >= _WIDE else 14),
            TextColumn("{task.fields[count]}", justify="right", table_column=Column(no_wrap=True)),
            _Time(table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[detail]}", markup=False, table_column=Column(ratio=1, **one_line)
            ),
            console=console,
            disable=not live,
            redirect_stdout=False,  # what is printed there is a result, and may go to a file
            expand=True,
            get_time=clock,
        )

    def start(self) -> None:
        """Draw, and draw anew now and then."""
        self.picture.start()

    def stop(self) -> None:
        """Leave the last picture where it is."""
        self.picture.stop()

    def named(self, name: str, event: Progress | Estimate) -> None:
        """Move the bar of the event's phase."""
        if name != self._name:
            for task in self._tasks.values():
                self.picture.remove_task(task)
            self._tasks.clear()
            self._name = name
        if isinstance(event, Estimate) or event.note:
            self.note(line_of(name, event))
        else:
            self._move(phase_name(name, event), event)

    def note(self, text: str) -> None:
        """Print the text above the bars."""
        self._console.print(printable(text), markup=False, highlight=False)

    def _move(self, label: str, event: Progress) -> None:
        counts = event.groups > 1 or event.steps > 0
        if label not in self._tasks:
            shown = label if len(label) <= _LONGEST_LABEL else f"…{label[1 - _LONGEST_LABEL :]}"
            self._tasks[label] = self.picture.add_task(shown, total=None, count="", detail="")
        ended = event.finished and event.index + 1 == event.groups
        self.picture.update(
            self._tasks[label],
            total=1.0 if counts or ended else None,
            completed=1.0 if ended else event.done,
            count=_count(event),
            detail=f"{finding(event)}  {' + '.join(event.group)}".strip(),
        )


def _count(event: Progress) -> str:
    """Return how many groups, or else steps or images, are done."""
    if event.groups > 1:
        return f"{event.index + event.finished}/{event.groups}"
    return f"{event.step}/{event.steps}" if event.steps else ""


class NotebookReporter(BarReporter):
    """Show bars in a notebook, as text in an output that is replaced; widgets are not needed.

    Args:
        display: shows HTML and returns a handle whose `update` replaces it, as IPython's does.
        html: makes what `display` takes.
    """

    def __init__(self, display: Callable[..., Any], html: Callable[[str], Any]) -> None:
        self._paper = io.StringIO()
        width = _NOTEBOOK_WIDTH
        console = Console(file=self._paper, width=width, record=True, force_jupyter=False)
        super().__init__(console, live=False)
        self._display, self._html = display, html
        self._handle: Any = None
        self._notes: list[str] = []
        self._drawn = 0.0

    def stop(self) -> None:
        """Draw the last picture."""
        self._draw()

    def named(self, name: str, event: Progress | Estimate) -> None:
        """Move the bar, and draw anew unless that was just done."""
        super().named(name, event)
        if time.monotonic() - self._drawn >= _REDRAWN_EVERY:
            self._draw()

    def note(self, text: str) -> None:
        """Keep the text above the bars."""
        self._notes.append(printable(text))

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        notes = map(Text, self._notes)
        self._console.print(Group(*notes, self.picture.get_renderable()))
        page = self._console.export_html(
            inline_styles=True, code_format='<pre style="line-height: 1.3">{code}</pre>'
        )
        self._paper.seek(0)  # else all pictures of a run stay
        self._paper.truncate()
        if self._handle is None:
            self._handle = self._display(self._html(page), display_id=True)
        else:
            self._handle.update(self._html(page))
