"""The table: finished cells next to the published figures."""

from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any, NamedTuple

from mrecg.paper.published import published_top1
from mrecg.paper.reproduction.cell_runs import Outcome

__all__ = ["COLUMNS", "Row", "as_markdown", "rows"]


class Row(NamedTuple):
    """Hold one line of the table: a cell over its seeds, in percent.

    Attributes:
        top1: accuracy of each seed that finished.
        float_top1: accuracy of the float network.
        published: the papers' figure, where there is one.
        failed: why a seed did not finish.
    """

    network: str
    bits: str
    method: str
    top1: tuple[float, ...]
    float_top1: float | None
    published: float | None
    failed: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        """Return the mean over the seeds."""
        return mean(self.top1) if self.top1 else None

    @property
    def std(self) -> float | None:
        """Return the standard deviation over two or more seeds."""
        return stdev(self.top1) if len(self.top1) > 1 else None

    @property
    def difference(self) -> float | None:
        """Return ours minus the published figure, in percentage points."""
        if self.mean is None or self.published is None:
            return None
        return self.mean - self.published

    def as_dict(self) -> dict[str, Any]:
        """Return the row for a script."""
        derived = {"mean": self.mean, "std": self.std, "difference": self.difference}
        return self._asdict() | derived

    def texts(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS` as text; empty where unknown."""
        ours = "" if self.mean is None else f"{self.mean:.2f}"
        if self.std is not None:
            ours += f" ± {self.std:.2f} ({len(self.top1)})"
        if self.failed:
            ours = f"{ours} {len(self.failed)} failed".strip()
        return (
            self.network,
            self.bits,
            self.method,
            *("" if x is None else f"{x:.2f}" for x in (self.float_top1,)),
            ours,
            *("" if x is None else f"{x:.2f}" for x in (self.published,)),
            *("" if x is None else f"{x:+.2f}" for x in (self.difference,)),
        )


def rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """Make a row per network, widths and method, in the order of the cells."""
    grouped: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.cell[:3], []).append(outcome)
    return [_row(*key, found) for key, found in grouped.items()]


def _row(network: str, bits: str, method: str, outcomes: list[Outcome]) -> Row:
    measured = [o.record.accuracy for o in outcomes if o.record is not None and o.record.accuracy]
    return Row(
        network,
        bits,
        method,
        top1=tuple(accuracy["quantized"].top1 for accuracy in measured),
        float_top1=measured[0]["float"].top1 if measured else None,
        published=published_top1(network, bits, method),
        failed=tuple(outcome.reason for outcome in outcomes if outcome.status == "failed"),
    )


COLUMNS = ("network", "bits", "method", "float", "ours", "published", "difference")


def as_markdown(table: Iterable[Row]) -> str:
    """Format the table for a document."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.texts() for row in table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
