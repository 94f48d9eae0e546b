"""Events that a run reports, and its clock."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mrecg.planning.estimate import Estimate
from mrecg.quantizers.losses import SMALLEST_POWER

__all__ = ["PhaseClock", "Progress", "Report", "ignore", "phase"]


@dataclass(frozen=True)
class Progress:
    """Where a run is, or a note about it.

    Attributes:
        phase: `capture`, `plan` (the run that the metric `loss` needs), `estimate`, `tune`, `network` (the whole after its
            groups) or `freeze`; where widths are measured, `weights` and `activations`; in cells of a table, `images`, `float` and
            `quantized`, too.
        group: names of the units that are optimized; empty where none is.
        index, groups: the group's position, from 0, and their number.
        step, steps: steps of the group done, and planned: where a join is tried, those of its units alone, too. Before the
            first step, ranges are searched.
        note: a line about something that happened, in a phase `memory`; there is nothing else then.
        loss: reconstruction loss of the last step, or of the group when it is finished; in `network` the stage's objective,
            and the divergence when it is finished. `None` before the first step.
        relative_loss: the reconstruction loss as a fraction of the signal's power; `None` where there is none.
        finished: the group is done, its rounding hard; where there is no group, the phase is.
    """

    phase: str
    group: tuple[str, ...] = ()
    index: int = 0
    groups: int = 1
    step: int = 0
    steps: int = 0
    loss: float | None = None
    relative_loss: float | None = None
    finished: bool = False
    note: str = ""

    @property
    def done(self) -> float:
        """Return the fraction of the phase that is done; groups count alike."""
        part = 1.0 if self.finished else self.step / self.steps if self.steps else 0.0
        return (self.index + part) / self.groups

    def at(self, step: int, loss: float, power: float) -> "Progress":
        """Return where the run is after a step, or after its group; `power` is that of the signal."""
        return replace(self, step=step, loss=loss, relative_loss=loss / max(power, SMALLEST_POWER))


Report = Callable[[Progress | Estimate], None]
"""Called with where a run is, and once with an estimate, before the groups are optimized."""


def ignore(event: Progress | Estimate) -> None:
    """Report to nobody."""


@contextmanager
def phase(report: Report, name: str) -> Iterator[None]:
    """Report the beginning and the end of a phase of which only the time is known; the end of none that fails."""
    report(Progress(name))
    yield
    report(Progress(name, finished=True))


class PhaseClock:
    """Measures wall time by phase.

    Args:
        before: seconds of phases that are over, by name.

    Attributes:
        laps: seconds by phase.
    """

    def __init__(self, **before: float) -> None:
        self.laps: dict[str, float] = before
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Give the time since the last call to a phase."""
        now = time.perf_counter()
        self.laps[phase] = now - self._last
        self._last = now
