"""The table: finished cells next to the published figures."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from mrecg.config.presets import Schedule
from mrecg.paper.networks import NETWORKS
from mrecg.paper.published import published_top1
from mrecg.paper.reproduction.cell_runs import Budget, Outcome
from mrecg.paper.reproduction.table_axes import Cell
from mrecg.planning.budget import fit_budget

__all__ = ["Result", "Row", "as_markdown", "budget_lines", "columns", "rows", "texts"]


class Result(NamedTuple):
    """Hold what one schedule reached in a row, over its seeds.

    Attributes:
        top1: accuracy of each seed that finished, in percent.
        failed: why a seed did not finish.
    """

    top1: tuple[float, ...]
    failed: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Return the mean over the seeds."""
        return mean(self.top1) if self.top1 else None

    @property
    def std(self) -> float | None:
        """Return the standard deviation over two or more seeds."""
        return stdev(self.top1) if len(self.top1) > 1 else None

    def text(self) -> str:
        """Return mean, standard deviation and number of seeds as text; empty where nothing finished or failed."""
        text = _number(self.mean)
        if self.std is not None:
            text += f" ± {self.std:.2f} ({len(self.top1)})"
        return f"{text} {len(self.failed)} failed".strip() if self.failed else text


class Row(NamedTuple):
    """Hold one line of the table: a network at some widths by one method, in percent.

    Attributes:
        results: by schedule.
        float_top1: accuracy of the float network.
        published: the papers' figure, where there is one.
    """

    network: str
    bits: str
    method: str
    results: Mapping[Schedule, Result]
    float_top1: float | None
    published: float | None

    def difference(self, schedule: Schedule) -> float | None:
        """Return ours minus the published figure, in percentage points."""
        ours = self.results[schedule].mean if schedule in self.results else None
        return None if ours is None or self.published is None else ours - self.published

    def as_dict(self) -> dict[str, Any]:
        """Return the row for a script."""
        results = {
            schedule: result._asdict()
            | {"mean": result.mean, "std": result.std, "difference": self.difference(schedule)}
            for schedule, result in self.results.items()
        }
        return self._asdict() | {"results": results}


def rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """Make a row per network, widths and method, in the order of the cells."""
    grouped: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault(outcome.cell[:3], []).append(outcome)
    return [_row(*key, found) for key, found in grouped.items()]


def _row(network: str, bits: str, method: str, outcomes: list[Outcome]) -> Row:
    schedules = dict.fromkeys(outcome.cell.schedule for outcome in outcomes)
    floats = [o.record.accuracy["float"].top1 for o in outcomes if o.record and o.record.accuracy]
    return Row(
        network,
        bits,
        method,
        {name: _result([o for o in outcomes if o.cell.schedule == name]) for name in schedules},
        float_top1=floats[0] if floats else None,
        published=published_top1(network, bits, method),
    )


def _result(outcomes: list[Outcome]) -> Result:
    measured = [o.record.accuracy for o in outcomes if o.record is not None and o.record.accuracy]
    return Result(
        tuple(accuracy["quantized"].top1 for accuracy in measured),
        tuple(outcome.reason for outcome in outcomes if outcome.status == "failed"),
    )


def budget_lines(cells: Iterable[Cell], budget: Budget) -> list[str]:
    """Return a line for each schedule and budget among the cells, with the networks that have it."""
    networks: dict[tuple[Schedule, str], dict[str, None]] = {}
    for cell in cells:
        networks.setdefault((cell.schedule, _budget(cell, budget)), {})[cell.network] = None
    return [
        f"Schedule {schedule}, {spent}: {', '.join(names)}"
        for (schedule, spent), names in networks.items()
    ]


def _budget(cell: Cell, budget: Budget) -> str:
    positions = NETWORKS[cell.network].preprocessing.crop ** 2
    recipe = fit_budget(cell.recipe(budget.overrides), positions)
    tuning, images = recipe.reconstruct, budget.images_for(cell.network)
    if not tuning.step_count:
        return f"rounding to nearest, {images:,} images"
    whole = f"then {recipe.network_steps:,} steps of" if recipe.network_steps else "none of"
    return (
        f"{tuning.step_count:,} steps per group in batches of {tuning.images_per_step}, {whole} the whole network, "
        f"{images:,} images"
    )


def columns(table: Sequence[Row]) -> tuple[str, ...]:
    """Return the heads of the columns: two for each schedule in the table."""
    each = [(f"ours ({name})", f"difference ({name})") for name in _schedules(table)]
    return (
        "network",
        "bits",
        "method",
        "float",
        "published",
        *(head for two in each for head in two),
    )


def texts(table: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the lines below `columns` as text; empty where unknown."""
    lines = []
    for row in table:
        found: list[str] = []
        for name in _schedules(table):
            found.append(row.results.get(name, Result(())).text())
            found.append(_number(row.difference(name), "+"))
        known = (_number(row.float_top1), _number(row.published))
        lines.append((row.network, row.bits, row.method, *known, *found))
    return lines


def _schedules(table: Sequence[Row]) -> tuple[Schedule, ...]:
    return tuple(dict.fromkeys(name for row in table for name in row.results))


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"


def as_markdown(table: Sequence[Row], budgets: Sequence[str] = ()) -> str:
    """Format the table for a document, with a line per budget above it."""
    heads = columns(table)
    lines = [heads, ("---",) * len(heads), *texts(table)]
    above = "".join(f"{line}\n\n" for line in budgets)
    return above + "".join(f"| {' | '.join(line)} |\n" for line in lines)
