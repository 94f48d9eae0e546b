"""Events that an optimization reports."""

from collections.abc import Callable
from dataclasses import dataclass

from mrecg.planning.estimate import Estimate

__all__ = ["Progress", "Report"]


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        phase: `plan` (the run that the metric `loss` needs), `tune`, or `network` (the whole after its groups).
        group: names of the group's units.
        index, groups: the group's position, from 0, and their number.
        step, steps: steps of the group done, and planned.
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
