"""Learned rounding: its gradient, its start and end, and how near it comes to the best of all roundings."""

import itertools

import pytest
import torch
from torch import Tensor

from mrecg.quantizers.adaround import LearnedRounding, Penalty, beta_at
from mrecg.quantizers.grid import Scaling, UniformGrid, scaling_for_range
from mrecg.quantizers.weight import WeightQuantizer, WeightState
from toys import normal


def start(weight: Tensor, scaling: Scaling, grid: UniformGrid) -> LearnedRounding:
    return WeightQuantizer(grid, scaling).learn_rounding(weight, scaling)


@pytest.mark.parametrize("beta", [None, 2.0, 7.5, 20.0])
def test_soft_rounding_and_its_gradient(beta: float | None) -> None:
    """AdaRound, eq. 22–24, composed of differentiable operators."""
    weight, grid = normal(6, 90).double().mul_(2), UniformGrid(-2, 1, True)  # some outside the grid
    scaling = Scaling(torch.full((6, 1), 0.7).double(), torch.zeros(6, 1).double())
    learned = start(weight, scaling, grid)
    with torch.no_grad():
        learned.alpha.add_(normal(6, 90, seed=1).mul_(2))
    upstream = normal(6, 90, seed=2).double()
    soft = learned.soft_weight(None if beta is None else Penalty(0.3, beta).slope())
    soft.backward(upstream)

    alpha = learned.alpha.detach().clone().requires_grad_()
    h = torch.clamp(torch.sigmoid(alpha) * 1.2 - 0.1, 0, 1)
    expected = torch.clamp(torch.floor(weight / 0.7) + h, -2, 1) * 0.7
    objective = (expected * upstream).sum()
    if beta is not None:
        objective = objective + 0.3 * (1 - (2 * h - 1).abs().pow(beta)).sum()
    objective.backward()
    assert alpha.grad is not None
    torch.testing.assert_close(soft, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(learned.alpha.grad, alpha.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_penalty_pushes_away_from_the_middle(value: float) -> None:
    """A decided rounding and one exactly in the middle feel no slope, and nothing becomes infinite."""
    scaling = Scaling(torch.ones(1, 1), torch.zeros(1, 1))
    learned = start(torch.full((1, 4), value), scaling, UniformGrid(0, 3, False))
    with torch.no_grad():
        learned.alpha.fill_(20 * (value - 0.5))
    learned.soft_weight(Penalty(1.0, 2.0).slope()).sum().mul(0).backward()
    assert learned.alpha.grad is not None
    torch.testing.assert_close(learned.alpha.grad, torch.zeros(1, 4))


def test_a_weight_read_twice_is_penalized_once() -> None:
    scaling = Scaling(torch.ones(1, 1), torch.zeros(1, 1))
    learned = start(normal(2, 3), scaling, UniformGrid(0, 3, False))
    slopes = []
    for readers in (1, 2):
        soft = learned.soft_weight(Penalty(1.0, 4.0).slope())
        (torch.stack([soft] * readers).sum() * 0).backward()
        assert learned.alpha.grad is not None
        slopes.append(learned.alpha.grad.clone())
        learned.alpha.grad = None
    assert slopes[0].any()
    assert torch.equal(slopes[0], slopes[1])


def per_channel(weight: Tensor, grid: UniformGrid) -> WeightQuantizer:
    found = scaling_for_range(*torch.aminmax(weight, dim=1), grid)
    return WeightQuantizer(grid, Scaling(found.scale[:, None], found.zero_point[:, None]))


def test_learning_starts_at_the_float_weight() -> None:
    weight = normal(4, 20)
    quantizer = per_channel(weight, UniformGrid(0, 15, False))
    learned = quantizer.learn_rounding(weight, quantizer.calibrated)
    nearest = quantizer.round_to_nearest(weight, quantizer.calibrated)
    inside = (nearest.codes > 0) & (nearest.codes < 15)
    soft = learned.soft_weight().detach()
    torch.testing.assert_close(soft[inside], weight[inside], rtol=0, atol=1e-3)
    assert learned.count_undecided() > 0
    codes, _ = learned.harden()
    assert torch.equal(codes[inside], nearest.codes[inside])


@pytest.mark.parametrize("grid", [UniformGrid(0, 3, False), UniformGrid(-2, 1, True)])
def test_learning_continues_from_what_was_decided(grid: UniformGrid) -> None:
    weight = normal(4, 20)
    quantizer = per_channel(weight, grid)
    learned = quantizer.learn_rounding(weight, quantizer.calibrated)
    with torch.no_grad():
        learned.alpha.add_(normal(4, 20, seed=1) * 3)
        learned.scale.delta.add_(0.1 * normal(4, 1, seed=2))
    state = WeightState(*learned.harden())
    resumed = quantizer.learn_rounding(weight, quantizer.calibrated, state)
    soft = resumed.soft_weight()
    distance = (soft - quantizer.dequantize(state)).abs() / state.scaling.scale
    assert distance.max() < 0.2
    soft.sum().backward()
    assert resumed.alpha.grad is not None
    has_choice = resumed.span > 0
    assert resumed.alpha.grad[has_choice].all()  # every rounding can still change
    codes, scaling = resumed.harden()
    assert torch.equal(codes, state.codes)
    torch.testing.assert_close(scaling.scale, state.scaling.scale)


def test_learning_does_not_change_the_states_it_starts_from() -> None:
    weight = normal(4, 20)
    quantizer = per_channel(weight, UniformGrid(0, 3, False))
    nearest = quantizer.round_to_nearest(weight, quantizer.calibrated)
    held = [weight, nearest.codes, *nearest.scaling]
    before = [one.clone() for one in held]
    for learned in (
        quantizer.learn_rounding(weight, nearest.scaling),
        quantizer.learn_rounding(weight, nearest.scaling, nearest),
    ):
        with torch.no_grad():
            learned.alpha.fill_(5)
            learned.scale.delta.fill_(1)
        learned.harden()
    assert all(map(torch.equal, held, before))


def test_a_scale_is_learned_while_the_codes_stay() -> None:
    weight = normal(4, 20)
    quantizer = per_channel(weight, UniformGrid(0, 3, False))
    nearest = quantizer.round_to_nearest(weight, quantizer.calibrated)
    hard = quantizer.dequantize(nearest)
    learned = quantizer.learn_scale(nearest)
    assert torch.equal(hard * learned.factor(), hard)
    with torch.no_grad():
        learned.delta.add_(0.3)  # in code units, of a range of 3
    torch.testing.assert_close((hard * learned.factor()).detach(), 1.1 * hard)
    found = WeightState(nearest.codes, learned.current())
    torch.testing.assert_close(quantizer.dequantize(found), 1.1 * hard)


def test_hard_weight_is_codes_times_scale() -> None:
    weight = normal(4, 20)
    quantizer = per_channel(weight, UniformGrid(-2, 1, True))
    learned = quantizer.learn_rounding(weight, quantizer.calibrated)
    with torch.no_grad():
        learned.alpha.add_(normal(4, 20, seed=1) * 3)
    state = WeightState(*learned.harden())
    frozen = quantizer.freeze(state)
    assert frozen.codes.dtype == torch.int8
    assert torch.equal(frozen(), quantizer.dequantize(state))
    assert torch.equal(
        frozen(), (frozen.codes - frozen.zero_point[:, None]) * frozen.scale[:, None]
    )
    assert frozen.codes.min() >= -2
    assert frozen.codes.max() <= 1


def test_beta_schedule() -> None:
    assert beta_at(0.19, 0.2, (20.0, 2.0)) is None
    assert beta_at(0.2, 0.2, (20.0, 2.0)) == 20
    assert beta_at(1.0, 0.2, (20.0, 2.0)) == 2


def enumerate_roundings(weight: Tensor, scaling: Scaling, grid: UniformGrid) -> Tensor:
    """All weights that differ from `weight` by rounding each element up or down."""
    floor = torch.floor(weight / scaling.scale).flatten()
    choices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=weight.numel())))
    codes = (floor + choices + scaling.zero_point.flatten()).clamp(grid.low, grid.high)
    return grid.dequantize(codes, Scaling(scaling.scale.flatten(), scaling.zero_point.flatten()))


def rank_of_learned_rounding(seed: int) -> int:
    """How many of the 1,024 roundings of ten weights are better than the learned one, for correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(256, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    weight = torch.randn(1, 10, generator=generator)
    grid = UniformGrid(0, 3, False)
    quantizer = per_channel(weight, grid)
    target = inputs @ weight.T

    def error(candidates: Tensor) -> Tensor:
        return (inputs @ candidates.T - target).pow(2).mean(0)

    learned = quantizer.learn_rounding(weight, quantizer.calibrated)
    optimizer = torch.optim.Adam([learned.alpha], lr=2.5e-2)
    for step in range(500):
        beta = beta_at(step / 500, 0.2, (20.0, 2.0))
        soft = learned.soft_weight(None if beta is None else Penalty(1.0, beta).slope())
        loss = (inputs @ soft.T - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reached = error(quantizer.dequantize(WeightState(*learned.harden())))[0]
    every = enumerate_roundings(weight, quantizer.calibrated, grid)
    return int((error(every) < reached - 1e-5).sum())


def test_learned_rounding_is_near_the_enumerated_best() -> None:
    """Near-best: always among the best 4 % of all roundings, mostly among the best three."""
    ranks = [rank_of_learned_rounding(seed) for seed in range(8)]
    assert max(ranks) < 0.04 * 1024, ranks
    assert sum(rank < 3 for rank in ranks) >= 5, ranks
