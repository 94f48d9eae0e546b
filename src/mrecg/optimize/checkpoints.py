"""Checkpoints of a run: what it has finished, as values, with which it goes on to the same bits after an interruption."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from mrecg.quantizers.state import QuantizerState
from mrecg.records.plan import Join
from mrecg.records.record import Curve, GroupRecord, UnitRecord

__all__ = ["Checkpoints", "GroupCheckpoint", "NetworkCheckpoint"]


@dataclass(frozen=True)
class GroupCheckpoint:
    """A planned group that is finished.

    Attributes:
        state: what it added to the state of the network.
        units, groups: its records.
        join: that was tried.
    """

    state: QuantizerState
    units: tuple[UnitRecord, ...]
    groups: tuple[GroupRecord, ...]
    join: Join | None


@dataclass(frozen=True)
class NetworkCheckpoint:
    """The network as a whole in the middle of its optimization.

    Attributes:
        step: steps that were taken.
        variables: what is learned, in the order of the rates.
        moments: of Adam.
        curve: the losses of the steps that were reported.
    """

    step: int
    variables: tuple[Tensor, ...]
    moments: Mapping[str, Tensor]
    curve: Curve


@runtime_checkable
class Checkpoints(Protocol):
    """Keeps what is finished, and gives it back to a run that goes on; nothing where there is nothing."""

    def group(self, phase: str, index: int) -> GroupCheckpoint | None:
        """Return a group that is finished."""

    def keep_group(self, phase: str, index: int, found: GroupCheckpoint) -> None:
        """Keep a finished group."""

    def network(self) -> NetworkCheckpoint | None:
        """Return where the optimization of the whole was."""

    def keep_network(self, found: NetworkCheckpoint) -> None:
        """Keep where the optimization of the whole is."""
