"""Events that a run reports, and its clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mrecg.planning.estimate import Estimate

__all__ = ["PhaseClock", "Progress", "Report"]


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        phase: `plan` (the run that the metric `loss` needs), `tune`, or `network` (the whole after its groups).
        group: names of the units that are optimized.
        index, groups: the group's position, from 0, and their number.
        step, steps: steps of the group done, and planned: where a join is tried, those of its units alone, too.
        loss: reconstruction loss of the last step, or of the group when it is finished.
        finished: the group is done, its rounding hard.
    """

    phase: str
    group: tuple[str, ...]
    index: int
    groups: int
    step: int
    steps: int
    loss: float
    finished: bool = False


Report = Callable[[Progress | Estimate], None]
"""Called with an estimate before the reconstruction starts, and with where it is from there on."""


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
