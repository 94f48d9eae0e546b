"""Reporters show a run: its phases, and what is counted in them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Self

from torch import Tensor

from mrecg.config.texts import duration, size
from mrecg.optimize.progress import Progress, phase
from mrecg.planning.estimate import Estimate

__all__ = ["Reporter", "SilentReporter", "estimate_text", "finding", "line_of", "phase_name"]

_SHOWN = {"tune": "optimize"}
"""Phases with another name for readers; the one in events is part of the seeds."""


class Reporter(ABC):
    """Show a run while the context lasts; call it with events."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __call__(self, event: Progress | Estimate) -> None:
        self.named("", event)

    @abstractmethod
    def start(self) -> None:
        """Begin to show."""

    @abstractmethod
    def stop(self) -> None:
        """Show nothing any more; what is finished stays."""

    @abstractmethod
    def named(self, name: str, event: Progress | Estimate) -> None:
        """Show an event of one of several runs."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a line that is no result."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Show a phase of which only the time is known; one that fails is not shown as finished."""
        return phase(self, name)

    def counted(
        self, name: str, batches: Iterable[tuple[Tensor, Tensor]], count: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images and labels, and show how many of all images have been used."""
        done = 0
        self(Progress(name, steps=count))
        for batch in batches:
            yield batch
            done += len(batch[0])
            self(Progress(name, step=done, steps=count))
        self(Progress(name, step=done, steps=count, finished=True))


class SilentReporter(Reporter):
    """Show nothing."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def named(self, name: str, event: Progress | Estimate) -> None:
        """Ignore the event."""

    def note(self, text: str) -> None:
        """Ignore the text."""


def phase_name(name: str, event: Progress) -> str:
    """Return a phase as readers see it, behind the name of the run where it has one."""
    return f"{name} {_SHOWN.get(event.phase, event.phase)}".strip()


def finding(event: Progress) -> str:
    """Return what was found so far: the loss in percent of the signal's power, or the distance from float."""
    if event.relative_loss is not None:
        percent = 100 * event.relative_loss
        return f"loss {percent:.1f} %" if percent >= 0.1 else f"loss {percent:.2g} %"
    if event.loss is None:
        return "ranges" if event.group and event.steps and not event.finished else ""
    return f"{'divergence' if event.finished else 'objective'} {event.loss:.3g}"


def line_of(name: str, event: Progress | Estimate) -> str:
    """Return an estimate or a note as a line, behind the name of the run where it has one."""
    text = estimate_text(event) if isinstance(event, Estimate) else event.note
    return f"{name}: {text}" if name else text


def estimate_text(estimate: Estimate) -> str:
    """Return what a run will take, in a sentence."""
    files = f" and {size(estimate.files)} of files" if estimate.files else ""
    return (
        f"about {size(estimate.memory)} of memory{files} besides the model and the images, "
        f"about {duration(estimate.seconds)}"
    )
