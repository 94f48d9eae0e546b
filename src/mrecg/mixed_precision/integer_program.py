"""Widths with the least harm within a budget: an integer program, solved by HiGHS.

Harms are added: that of several units is taken for the sum of each one's alone (`Sensitivity.wholes` says how true that is).
A unit takes one of its widths; where bit operations are limited, every layer takes one pair of them, and the pairs of a layer
add up to the widths of the units that decide its weight and what it reads.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mrecg.errors import RecipeError, expect
from mrecg.mixed_precision.budgets import (
    WidthBudget,
    Widths,
    cost_of,
    layer_bytes,
    read_budget,
    require_room,
)
from mrecg.records.bit_choice import BitChoice, Cost, FrontPoint, UnitWidth
from mrecg.records.sensitivity import LayerCost, QuantizedKind, Sensitivity, UnitHarms

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["choose_bits", "require_solver"]

_FRONT_POINTS = 12
_LARGEST_HARM = 1e6
"""Harms are scaled to it: HiGHS takes a difference of 1e-6 for none."""

_Unit = tuple[QuantizedKind, str]


def choose_bits(sensitivity: Sensitivity, budget: str) -> BitChoice:
    """Choose the widths with the least added harm within a budget.

    Activations have a choice only where bit operations are limited: their width changes no size.

    Args:
        sensitivity: from `mrecg.sensitivity`.
        budget: `4.0bits` for a weight that has a choice, on average: as large as the recipe at 4 bits; `1.2MB` for all parameters; or
            `0.5GBOPs`, bit operations for one image.

    Raises:
        RecipeError: the budget cannot be read, or no choice keeps it.
    """
    advice = "give what mrecg.sensitivity returned"
    expect(sensitivity, Sensitivity, "The sensitivity", advice, RecipeError)
    limit = read_budget(budget)
    units = _units_with_a_choice(sensitivity, limit)
    require_room(limit, _cost(sensitivity, _same_end(units, min)))
    widths = _solve(sensitivity, units, limit)
    return BitChoice(
        budget=limit.text,
        after=sensitivity.after,
        widths=tuple(
            UnitWidth(
                name=unit.name,
                kind=unit.kind,
                layers=unit.layers,
                bits=widths[unit.kind, unit.name],
            )
            for unit in units
        ),
        harm=_harm(units, widths),
        cost=_cost(sensitivity, widths),
        front=tuple(_front(sensitivity, units, limit)),
    )


def _units_with_a_choice(sensitivity: Sensitivity, limit: WidthBudget) -> tuple[UnitHarms, ...]:
    units = sensitivity.units if limit.unit == "bops" else sensitivity.of_kind("weight")
    if not units:
        raise RecipeError(
            f"The budget {limit.text} limits weights, and the sensitivity of none was measured; measure with weight_bits."
        )
    return units


def _same_end(units: Iterable[UnitHarms], end: Callable[[Iterable[int]], int]) -> Widths:
    """Return the smallest width of every unit, or the largest."""
    return {(unit.kind, unit.name): end(one.bits for one in unit.harms) for unit in units}


def _harm(units: Iterable[UnitHarms], widths: Widths) -> float:
    return sum(unit.harm_at(widths[unit.kind, unit.name]) for unit in units)


def _cost(sensitivity: Sensitivity, widths: Widths) -> Cost:
    return cost_of(sensitivity.layers, sensitivity.other_bytes, widths)


def _front(
    sensitivity: Sensitivity, units: tuple[UnitHarms, ...], limit: WidthBudget
) -> Iterable[FrontPoint]:
    """Yield the least harm at several budgets of the limit's unit, and the harm of each width alone.

    The costs of the widths alone are among the budgets, so a mixed choice that costs no more does no more harm than each.
    """
    smallest, largest = (limit.of(_cost(sensitivity, _same_end(units, end))) for end in (min, max))
    common = set.intersection(*({one.bits for one in unit.harms} for unit in units))
    alone = {bits: {(unit.kind, unit.name): bits for unit in units} for bits in sorted(common)}
    amounts = {float(amount) for amount in np.linspace(smallest, largest, _FRONT_POINTS)}
    amounts |= {limit.of(_cost(sensitivity, widths)) for widths in alone.values()}
    seen = set()
    for amount in sorted(amounts):
        widths = _solve(sensitivity, units, WidthBudget("", limit.unit, amount))
        point = FrontPoint(cost=_cost(sensitivity, widths), harm=_harm(units, widths))
        if point.cost not in seen:
            seen.add(point.cost)
            yield point
    for bits, widths in alone.items():
        yield FrontPoint(cost=_cost(sensitivity, widths), harm=_harm(units, widths), uniform=bits)


@dataclass
class _Program:
    """Columns with a harm and a cost, and rows of equations over them."""

    harms: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float]] = field(default_factory=list)

    def column(self, harm: float = 0.0, cost: float = 0.0) -> int:
        self.harms.append(harm)
        self.costs.append(cost)
        return len(self.harms) - 1

    def equate(self, coefficients: Mapping[int, float], total: float) -> None:
        self.rows.append((dict(coefficients), total))

    def matrix(self) -> "csr_matrix":
        from scipy.sparse import csr_matrix

        entries = [
            (value, row, column)
            for row, (coefficients, _) in enumerate(self.rows)
            for column, value in coefficients.items()
        ]
        values, rows, columns = zip(*entries, strict=True)
        return csr_matrix((values, (rows, columns)), shape=(len(self.rows), len(self.harms)))


def _solve(sensitivity: Sensitivity, units: tuple[UnitHarms, ...], limit: WidthBudget) -> Widths:
    """Return the widths with the least harm within a limit that can be kept."""
    optimize = require_solver()
    program = _Program()
    columns: dict[_Unit, dict[int, int]] = {}
    finite = [one.harm for unit in units for one in unit.harms if np.isfinite(one.harm)]
    largest = max(finite, default=0.0) or 1.0
    for unit in units:
        columns[unit.kind, unit.name] = {
            one.bits: program.column(min(one.harm, 1e3 * largest) / largest * _LARGEST_HARM)
            for one in unit.harms
        }
        program.equate(dict.fromkeys(columns[unit.kind, unit.name].values(), 1.0), 1.0)
    fixed = _add_costs(program, sensitivity, columns, limit)
    room = limit.amount - fixed
    scale = max(program.costs) or 1.0
    budget = np.asarray(program.costs) / scale
    totals = np.asarray([total for _, total in program.rows])
    with _prints_to_stderr():
        found = optimize.milp(
            np.asarray(program.harms),
            integrality=np.ones(len(program.harms)),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(program.matrix(), totals, totals),
                # Half of the smallest unit: costs are whole numbers, and the quotient may miss the last digit.
                optimize.LinearConstraint(budget[None], -np.inf, (room + _slack(limit)) / scale),
            ],
            options={"mip_rel_gap": 0.0},
        )
    assert found.x is not None, found.message
    return {
        unit: next(bits for bits, column in by_bits.items() if found.x[column] > 0.5)
        for unit, by_bits in columns.items()
    }


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Send what a library in C++ prints to stderr: HiGHS in scipy 1.17 leaves a line on stdout, where a command's JSON goes."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _slack(limit: WidthBudget) -> float:
    return 1e-9 * limit.amount if limit.unit == "bits" else 0.5


def _add_costs(
    program: _Program,
    sensitivity: Sensitivity,
    columns: Mapping[_Unit, Mapping[int, int]],
    limit: WidthBudget,
) -> float:
    """Give the columns their costs, with pairs of widths where these are multiplied; return what no choice changes."""
    chosen = {layer.name: _choices(layer, columns) for layer in sensitivity.layers}
    parameters = sum(layer.parameters for layer in sensitivity.layers if layer.weight_unit)
    fixed = float(sensitivity.other_bytes) if limit.unit == "bytes" else 0.0
    for layer in sensitivity.layers:
        weights, activations = chosen[layer.name]
        if limit.unit == "bops":
            fixed += _add_pairs(program, layer, weights, activations)
        elif limit.unit == "bytes":
            fixed += 0.0 if weights else layer_bytes(layer, layer.weight_bits)
            for bits, column in weights.items():
                program.costs[column] += layer_bytes(layer, bits)
        else:
            for bits, column in weights.items():
                program.costs[column] += layer.parameters * bits / parameters
    return fixed


def _choices(
    layer: LayerCost, columns: Mapping[_Unit, Mapping[int, int]]
) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """Return the columns of the widths of a layer's weight, and of what it reads; none where that is prescribed."""
    return (
        columns.get(("weight", layer.weight_unit or ""), {}),
        columns.get(("activation", layer.activation_unit or ""), {}),
    )


def _add_pairs(
    program: _Program,
    layer: LayerCost,
    weights: Mapping[int, int],
    activations: Mapping[int, int],
) -> float:
    """Add the bit operations of a layer; return them where no choice changes them."""
    if not weights or not activations:
        other = layer.weight_bits if activations else layer.activation_bits
        for bits, column in (weights or activations).items():
            program.costs[column] += layer.products * bits * other
        return 0.0 if weights or activations else layer.products * layer.weight_bits * other
    pairs = {
        (ours, theirs): program.column(cost=layer.products * ours * theirs)
        for ours, theirs in itertools.product(weights, activations)
    }
    for place, side in enumerate((weights, activations)):
        for bits, column in side.items():
            of_width = {pairs[pair]: 1.0 for pair in pairs if pair[place] == bits}
            program.equate(of_width | {column: -1.0}, 0.0)
    return 0.0


def require_solver() -> Any:
    """Return `scipy.optimize`; worth a call before something long.

    Raises:
        RecipeError: scipy is not installed.
    """
    try:
        from scipy import optimize
    except ImportError as error:
        raise RecipeError(
            'Budgets need scipy, which is not installed; run pip install "mrecg[mixed]".'
        ) from error
    return optimize
