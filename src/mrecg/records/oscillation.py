"""Rises and falls of the loss along the network."""

from collections.abc import Sequence
from typing import Protocol

from mrecg.records.json_model import JsonModel

__all__ = ["Jump", "Oscillation"]


class Jump(JsonModel):
    """A rise of the relative loss along the chain that is followed by a fall.

    Attributes:
        unit: where the loss peaks.
        size: from the lowest point before to the peak.
    """

    unit: str
    size: float


class Measured(Protocol):
    """The part of a unit's record that oscillation reads."""

    @property
    def name(self) -> str: ...
    @property
    def relative_loss(self) -> float: ...


class Oscillation(JsonModel):
    """How unsteadily the relative loss develops along the chain (MRECG, section 3); none if it only rises.

    It is read where groups end: inside of a joined group nothing is compared with the float network, so a loss there says nothing.

    Attributes:
        jumps: every rise that is followed by a fall.
        total: the sizes of the jumps, added.
        largest_loss: the largest relative loss, which governs the final error.
        largest_unit: where it is.
    """

    jumps: tuple[Jump, ...]
    total: float
    largest_loss: float
    largest_unit: str

    @classmethod
    def at_ends(cls, units: Sequence[Measured], groups: Sequence[Sequence[str]]) -> "Oscillation":
        """Return the oscillation along the ends of groups; those of another run compare two runs at the same positions."""
        losses = {unit.name: unit.relative_loss for unit in units}
        ends = [group[-1] for group in groups]
        return cls.along(ends, [losses[name] for name in ends])

    @classmethod
    def along(cls, names: Sequence[str], losses: Sequence[float]) -> "Oscillation":
        """Return the oscillation of a series of relative losses, one per unit."""
        jumps, trough = [], losses[0]
        for name, loss, after in zip(names, losses, losses[1:], strict=False):
            trough = min(trough, loss)
            if after < loss and loss > trough:
                jumps.append(Jump(unit=name, size=loss - trough))
                trough = after
        largest = max(range(len(losses)), key=losses.__getitem__)
        return cls(
            jumps=tuple(jumps),
            total=sum(jump.size for jump in jumps),
            largest_loss=losses[largest],
            largest_unit=names[largest],
        )
