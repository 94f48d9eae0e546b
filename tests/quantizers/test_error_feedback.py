"""Rounding with error feedback: equal to its definition column by column, and never worse than rounding to nearest."""

import itertools

import pytest
import torch
from torch import Tensor

from mrecg.quantizers.error_feedback import DAMPING, round_with_feedback
from mrecg.quantizers.grid import Scaling, UniformGrid

GRID = UniformGrid(-2, 1, symmetric=True)


def problem(groups: int, rows: int, columns: int, seed: int) -> tuple[Tensor, ...]:
    """Weights, what a layer reads in the float and in the quantized network, and scales."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    read = normal(groups, 32, columns) @ normal(groups, columns, columns)  # correlated
    ideal = read + 0.3 * normal(groups, 32, columns)
    weight = normal(groups, rows, columns)
    return weight, ideal, read, weight.abs().amax(2, keepdim=True) / 2


def rounded(weight: Tensor, ideal: Tensor, read: Tensor, scale: Tensor) -> Tensor:
    scaling = Scaling(scale.expand_as(weight), torch.zeros_like(weight))
    shift = read.mT @ (ideal - read) @ weight.mT
    return round_with_feedback(weight, read.mT @ read, shift, GRID, scaling)


def by_definition(weight: Tensor, ideal: Tensor, read: Tensor, scale: float) -> Tensor:
    """Qronos for one row, each column by least squares over all columns that are still open."""
    moments = read.T @ read
    damping = DAMPING * moments.diagonal().mean()
    moments = moments + damping * torch.eye(len(weight))
    # Damping draws the open weights towards the float ones: rows besides those of the images.
    inputs = torch.cat([read, damping.sqrt() * torch.eye(len(weight))])
    wanted = torch.cat([ideal @ weight, damping.sqrt() * weight])
    open_ = moments.diagonal().argsort(descending=True, stable=True).tolist()
    values = weight.clone()
    while open_:
        column = open_.pop(0)
        others = inputs @ values - inputs[:, column] * values[column]
        best = inputs[:, column] @ (wanted - others) / inputs[:, column].square().sum()
        values[column] = (best / scale).round().clamp(GRID.low, GRID.high) * scale
        if open_:
            fixed = [one for one in range(len(weight)) if one not in open_]
            rest = wanted - inputs[:, fixed] @ values[fixed]
            values[open_] = torch.linalg.lstsq(inputs[:, open_], rest[:, None]).solution[:, 0]
    return values / scale


def objective(codes: Tensor, weight: Tensor, ideal: Tensor, read: Tensor, scale: Tensor) -> Tensor:
    """What is minimized, of each row: the distance from the wanted products, and damping."""
    values, damping = codes * scale, DAMPING * (read.mT @ read).diagonal(dim1=1, dim2=2).mean(1)
    far = (ideal @ weight.mT - read @ values.mT).square().sum(1)
    return far + damping[:, None] * (values - weight).square().sum(2)


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_codes_are_those_of_the_definition_or_nearest(columns: int, seed: int) -> None:
    weight, ideal, read, scale = problem(2, 3, columns, seed)
    found = rounded(weight, ideal, read, scale)
    nearest = (weight / scale).round().clamp(GRID.low, GRID.high)
    far = objective(found, weight, ideal, read, scale)
    assert bool((far <= objective(nearest, weight, ideal, read, scale) + 1e-9).all())
    for group, row in itertools.product(range(2), range(3)):
        wanted = by_definition(
            weight[group, row], ideal[group], read[group], float(scale[group, row])
        )
        ours = found[group, row]
        assert torch.equal(ours, wanted) or torch.equal(ours, nearest[group, row])
        if torch.equal(ours, wanted):
            continue
        tried = objective(wanted.expand(2, 3, -1).contiguous(), weight, ideal, read, scale)[
            group, row
        ]
        assert tried > far[group, row]


def test_it_is_close_to_the_best_of_all_codes() -> None:
    """Of 16 choices for two columns, the mean distance of what is found is at most a tenth above the best."""
    gained, best = 0.0, 0.0
    for seed in range(20):
        weight, ideal, read, scale = problem(1, 1, 2, seed)
        found = rounded(weight, ideal, read, scale)
        all_codes = itertools.product(range(GRID.low, GRID.high + 1), repeat=2)
        every = [torch.tensor(codes, dtype=torch.float64).view(1, 1, 2) for codes in all_codes]
        best += min(float(objective(one, weight, ideal, read, scale)) for one in every)
        gained += float(objective(found, weight, ideal, read, scale))
    assert best <= gained <= 1.1 * best


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(2, 4, 24, 0)
    whole = rounded(*given)
    monkeypatch.setattr("mrecg.quantizers.error_feedback._BLOCK", 5)
    assert torch.equal(rounded(*given), whole)


def test_inputs_that_are_all_zero_leave_rounding_to_nearest() -> None:
    weight, ideal, read, scale = problem(2, 3, 4, 0)
    found = rounded(weight, ideal * 0, read * 0, scale)
    assert torch.equal(found, (weight / scale).round().clamp(GRID.low, GRID.high))
