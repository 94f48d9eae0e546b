"""One run as a page sees it: its record, its recipe, and what its exported files showed."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mrecg.config.recipe import Recipe
from mrecg.errors import RunError
from mrecg.records.evaluation import Evaluation
from mrecg.records.record import Record, UnitRecord

__all__ = ["Latency", "ReportedRun"]


class Latency(NamedTuple):
    """The speed of an exported file on one runtime.

    Attributes:
        file: its name.
        runtime: with version.
        seconds, float_seconds: of one image, and of the float network measured in turns with it.
        file_bytes: the size of the file.
    """

    file: str
    runtime: str
    seconds: float
    float_seconds: float
    file_bytes: int


@dataclass(frozen=True)
class ReportedRun:
    """A run to report on.

    Attributes:
        name: what the page calls it.
        record, recipe: of the run.
        latencies: of its exported files, where they were measured.

    Raises:
        RunError: the record contradicts itself, as one that was edited may.
    """

    name: str
    record: Record
    recipe: Recipe
    latencies: tuple[Latency, ...] = ()

    def __post_init__(self) -> None:
        problem = next(_contradictions(self.record), None)
        if problem is not None:
            raise RunError(f"The record of the run {self.name} contradicts itself: {problem}.")

    @property
    def units(self) -> dict[str, UnitRecord]:
        """Return its units by name."""
        return {unit.name: unit for unit in self.record.units}

    @property
    def ends(self) -> tuple[str, ...]:
        """Return the units where its groups end: only there a loss is compared with the float network."""
        return tuple(group.units[-1] for group in self.record.groups)

    @property
    def widths(self) -> str:
        """Return the widths of weights and activations."""
        return f"{self.recipe.weight.bits}/{self.recipe.activation.bits} bits"

    @property
    def seconds(self) -> float:
        """Return the wall time of the run."""
        return math.fsum(self.record.seconds.values())

    @property
    def before(self) -> Evaluation | None:
        """Return the accuracy of the float network, if it was measured."""
        return self.record.accuracy.get("float")

    @property
    def after(self) -> Evaluation | None:
        """Return the accuracy of the quantized network, if it was measured."""
        return self.record.accuracy.get("quantized")


def _contradictions(record: Record) -> Iterator[str]:
    """Yield what in a record is not true of any run."""
    names = [unit.name for unit in record.units]
    if not names or len(set(names)) < len(names):
        yield "it has no units, or several of one name"
    for what, groups in (
        ("groups", [group.units for group in record.groups]),
        ("plan", record.plan.groups),
    ):
        if [name for group in groups for name in group] != names or not all(groups):
            yield f"its {what} and its units are not the same"
    pairs = [(pair.first, pair.second) for pair in record.plan.neighbors]
    if pairs and pairs != list(itertools.pairwise(names)):
        yield "its neighbors do not follow each other"
    if record.plan.metric and len(record.plan.metric) != len(names):
        yield "its metric is not one of every unit"
    joined = [name for join in record.plan.joins for name in join.units]
    jumped = [jump.unit for jump in record.oscillation.jumps]
    if not set(joined + jumped) <= set(names) or not all(join.units for join in record.plan.joins):
        yield "a join or a jump is of units that it does not have"
