"""Numbers: grids, ranges, rounding, steps. Oracles by brute force."""

import itertools

import pytest
import torch
from torch import Tensor

from mrecg.quantization import rounding
from mrecg.quantization.activation import ActivationQuantizer, RandomMask
from mrecg.quantization.grid import (
    Grid,
    Scaling,
    dequantize,
    neighbours,
    quantize,
    scaling_for_range,
)
from mrecg.quantization.losses import loss_and_slopes, reconstruction_loss, signal_power
from mrecg.quantization.ranges import Sample, error_search, find_scaling, minmax, percentile
from mrecg.quantization.rounding import WeightQuantizer, beta_at
from mrecg.recipe import Ranges, TensorSettings

GRIDS = [
    Grid(low, high, symmetric)
    for bits in range(2, 9)
    for low, high, symmetric in [
        (0, 2**bits - 1, False),
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, True),
    ]
]
METHODS = [
    TensorSettings(bits=8, ranges=Ranges(method=method), power_of_two=power_of_two)
    for method in ("minmax", "percentile", "deviation", "lsq", "error")
    for power_of_two in (False, True)
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "settings", METHODS, ids=lambda s: s.ranges.method + "-2^n" * s.power_of_two
)
def test_codes_lie_on_the_grid_and_zero_is_exact(grid: Grid, settings: TensorSettings) -> None:
    values = torch.cat([normal(3, 500), normal(1, 500).abs(), torch.zeros(1, 500)])
    found = find_scaling(values, grid, settings, (0.2, 40))
    scaling = Scaling(found.scale[:, None], found.zero_point[:, None])
    codes = quantize(values, scaling, grid)
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high
    assert torch.equal(codes, codes.round())
    assert torch.equal(codes.to(grid.dtype).float(), codes)
    assert (scaling.scale > 0).all()
    assert not dequantize(quantize(torch.zeros_like(values), scaling, grid), scaling).any()
    if grid.symmetric:
        assert not scaling.zero_point.any()
    if settings.power_of_two:
        assert (torch.frexp(scaling.scale).mantissa == 0.5).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_minmax_covers_the_extremes(grid: Grid) -> None:
    values = normal(4, 300)
    found = minmax(values, grid)
    scaling = Scaling(found.scale[:, None], found.zero_point[:, None])
    error = (dequantize(quantize(values, scaling, grid), scaling) - values).abs()
    # Rounding the zero point may push either end out by half a step more.
    assert (error <= 1.001 * scaling.scale).all()


@pytest.mark.parametrize("p", [2.0, 2.4])
@pytest.mark.parametrize("grid", GRIDS[:6], ids=str)
def test_error_search_is_the_best_candidate(grid: Grid, p: float) -> None:
    values, candidates = normal(3, 200), 30
    found = error_search(values, grid, p, (0.2, candidates))
    for row, scale in zip(values, found.scale, strict=True):
        costs = {}
        for factor in torch.linspace(1.0, 0.2, candidates):
            scaling = scaling_for_range(row.min() * factor, row.max() * factor, grid)
            rebuilt = dequantize(quantize(row, scaling, grid), scaling)
            costs[float(scaling.scale)] = float((rebuilt - row).abs().pow(p).sum())
        best = min(costs.values())
        assert costs[min(costs, key=lambda s: abs(s - float(scale)))] <= best * 1.0001


def test_histogram_of_long_rows_finds_nearly_the_same_range() -> None:
    values = torch.relu(normal(1, 200_000))
    grid = Grid(0, 3, False)
    condensed = error_search(values, grid, 2.4, (0.06, 95)).scale
    exact = error_search(values[:, ::49], grid, 2.4, (0.06, 95)).scale
    torch.testing.assert_close(condensed, exact, rtol=0.05, atol=0)


def test_channels_are_searched_independently() -> None:
    values = normal(5, 400) * torch.tensor([0.1, 1, 5, 20, 100])[:, None]
    grid = Grid(0, 15, False)
    together = error_search(values, grid, 2.4, (0.2, 80))
    for index in range(5):
        alone = error_search(values[index : index + 1], grid, 2.4, (0.2, 80))
        assert torch.equal(together.scale[index], alone.scale[0])
        assert torch.equal(together.zero_point[index], alone.zero_point[0])


def test_percentile_cuts_outliers() -> None:
    values = torch.cat([torch.linspace(0, 1, 1000), torch.tensor([100.0])]).unsqueeze(0)
    found = percentile(values, Grid(0, 255, False), 99.0)
    assert float(found.scale[0]) * 255 < 1.01


def test_sample_keeps_the_extremes_of_all_batches() -> None:
    sample = Sample(limit=10)
    for seed in range(5):
        batch = normal(100, seed=seed)
        batch[37] = 10.0 * seed
        sample.add(batch, images=1)
    assert float(sample.high) == 40.0
    assert sample.rows().shape == (5, 10)


def test_a_sample_does_not_depend_on_batches() -> None:
    x = normal(12, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    rows = []
    for size in (12, 4, 5):
        sample = Sample()
        for batch in x.split(size):
            sample.add(batch, len(batch))
        rows.append(sample.rows())
    assert rows[0].shape == (12, 1024)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("beta", [None, 2.0, 7.5, 20.0])
def test_soft_rounding_and_its_gradient(beta: float | None) -> None:
    """AdaRound, eq. 22–24, composed of differentiable operators."""
    weight, grid = normal(6, 90).double().mul_(2), Grid(-2, 1, True)  # some outside the grid
    scaling = Scaling(torch.full((6, 1), 0.7).double(), torch.zeros(6, 1).double())
    learned = rounding.LearnedRounding(neighbours(weight, scaling, grid), scaling, grid)
    with torch.no_grad():
        learned.logits += normal(6, 90, seed=1).mul_(2)
    upstream = normal(6, 90, seed=2).double()
    penalty = None if beta is None else rounding.Penalty(0.3, beta)
    soft = learned(penalty)
    soft.backward(upstream)

    logits = learned.logits.detach().clone().requires_grad_()
    h = torch.clamp(torch.sigmoid(logits) * 1.2 - 0.1, 0, 1)
    expected = torch.clamp(torch.floor(weight / 0.7) + h, -2, 1) * 0.7
    objective = (expected * upstream).sum()
    if beta is not None:
        objective = objective + 0.3 * (1 - (2 * h - 1).abs().pow(beta)).sum()
    objective.backward()
    assert logits.grad is not None
    torch.testing.assert_close(soft, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(learned.logits.grad, logits.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_the_penalty_pushes_away_from_the_middle(start: float) -> None:
    """A decided rounding and one exactly in the middle feel no slope, and nothing becomes infinite."""
    weight, grid = torch.full((1, 4), start), Grid(0, 3, False)
    scaling = Scaling(torch.ones(1, 1), torch.zeros(1, 1))
    learned = rounding.LearnedRounding(neighbours(weight, scaling, grid), scaling, grid)
    with torch.no_grad():
        learned.logits.fill_(20 * (start - 0.5))
    learned(rounding.Penalty(1.0, 2.0)).sum().mul(0).backward()
    assert learned.logits.grad is not None
    torch.testing.assert_close(learned.logits.grad, torch.zeros(1, 4))


def test_a_weight_read_twice_is_penalised_once() -> None:
    quantizer = WeightQuantizer(
        normal(2, 3), Scaling(torch.ones(1, 1), torch.zeros(1, 1)), GRIDS[0]
    )
    learned = quantizer.start_learning(normal(2, 3))
    slopes = []
    for readers in (1, 2):
        quantizer.soften(rounding.Penalty(1.0, 4.0))
        reads = [quantizer(normal(2, 3)) for _ in range(readers)]
        (torch.stack(reads).sum() * 0).backward()
        assert learned.logits.grad is not None
        slopes.append(learned.logits.grad.clone())
        learned.logits.grad = None
    assert slopes[0].any()
    assert torch.equal(slopes[0], slopes[1])


def per_channel(weight: Tensor, grid: Grid) -> WeightQuantizer:
    found = minmax(weight, grid)
    scaling = Scaling(found.scale[:, None], found.zero_point[:, None])
    return WeightQuantizer(weight, scaling, grid)


def test_learning_starts_at_the_float_weight() -> None:
    weight = normal(4, 20)
    grid = Grid(0, 15, False)
    quantizer = per_channel(weight, grid)
    quantizer.start_learning(weight)
    soft = quantizer(weight).detach()
    inside = (quantizer.codes > 0) & (quantizer.codes < 15)
    torch.testing.assert_close(soft[inside], weight[inside], rtol=0, atol=1e-3)
    undecided = quantizer.stop_learning()
    assert undecided > 0
    nearest = quantize(weight, quantizer.scaling, grid)
    assert torch.equal(quantizer.codes[inside], nearest[inside])


@pytest.mark.parametrize("grid", [Grid(0, 3, False), Grid(-2, 1, True)])
def test_learning_continues_from_what_was_decided(grid: Grid) -> None:
    weight = normal(4, 20)
    quantizer = per_channel(weight, grid)
    learned = quantizer.start_learning(weight)
    with torch.no_grad():
        learned.logits += normal(4, 20, seed=1) * 3
        learned.range.growth += 0.1 * normal(4, 1, seed=2)
    quantizer.stop_learning()
    codes, scaling, hard = quantizer.codes, quantizer.scaling, quantizer.hard
    resumed = quantizer.start_learning(weight, resume=True)
    distance = (quantizer(weight) - hard).abs() / scaling.scale
    assert distance.max() < 0.2
    quantizer(weight).sum().backward()
    assert resumed.logits.grad is not None
    has_choice = resumed.span > 0
    assert resumed.logits.grad[has_choice].all()  # every rounding can still change
    quantizer.stop_learning()
    assert torch.equal(quantizer.codes, codes)
    torch.testing.assert_close(quantizer.scaling.scale, scaling.scale)


def test_a_range_grows_while_the_codes_stay() -> None:
    weight, grid = normal(4, 20), Grid(0, 3, False)
    for keep in (False, True):
        quantizer = per_channel(weight, grid)
        codes, hard = quantizer.codes, quantizer.hard
        learned = quantizer.start_growing()
        assert torch.equal(quantizer(weight), hard)
        with torch.no_grad():
            learned.growth += 0.3  # of 3 code steps
        quantizer.grow()
        torch.testing.assert_close(quantizer(weight).detach(), 1.1 * hard)
        quantizer.stop_growing(keep)
        assert torch.equal(quantizer.codes, codes)
        torch.testing.assert_close(quantizer(weight), 1.1 * hard if keep else hard)


def test_hard_weight_is_codes_times_scale() -> None:
    weight, grid = normal(4, 20), Grid(-2, 1, True)
    quantizer = per_channel(weight, grid)
    learned = quantizer.start_learning(weight)
    with torch.no_grad():
        learned.logits += normal(4, 20, seed=1) * 3
    quantizer.stop_learning()
    coded = quantizer.coded()
    assert coded.codes.dtype == torch.int8
    assert torch.equal(coded(), quantizer(weight))
    assert torch.equal(coded(), (coded.codes - coded.zero_point[:, None]) * coded.scale[:, None])
    assert coded.codes.min() >= -2
    assert coded.codes.max() <= 1


def test_fake_quantize_values_and_gradients() -> None:
    """LSQ, eq. 3, written out."""
    grid, scaling = Grid(0, 3, False), Scaling(torch.tensor(0.3), torch.tensor(1.0))
    quantizer = ActivationQuantizer(grid, scaling)
    x = normal(2, 3, 4, 5).requires_grad_()
    expected = dequantize(quantize(x.detach(), scaling, grid), scaling)
    torch.testing.assert_close(quantizer(x.detach()), expected)
    step = quantizer.start_learning(None)
    out = quantizer(x)
    torch.testing.assert_close(out, expected)
    upstream = normal(2, 3, 4, 5, seed=1)
    out.backward(upstream)
    ratio = x.detach() / 0.3
    codes = ratio.round()
    inside = (codes >= -1) & (codes <= 2)
    torch.testing.assert_close(x.grad, upstream * inside)
    slope = torch.where(inside, codes - ratio, codes.clamp(-1, 2))
    torch.testing.assert_close(step.grad, 0.3 * (slope * upstream).sum())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropped_elements_pass_in_float(layout: torch.memory_format) -> None:
    scaling = Scaling(torch.tensor(0.5), torch.tensor(0.0))
    quantizer = ActivationQuantizer(Grid(0, 3, False), scaling)
    x = normal(2, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    step = quantizer.start_learning(RandomMask(0.5, seed=0))
    out = quantizer(x)
    quantized = dequantize(quantize(x.detach(), scaling, quantizer.grid), scaling)
    kept = torch.isclose(out, quantized, rtol=0, atol=1e-6)
    dropped = out == x
    assert (kept | dropped).all()
    assert 0.3 < dropped.float().mean() < 0.7
    upstream = normal(2, 3, 8, 8, seed=1)
    out.backward(upstream)
    only_dropped = dropped & ~kept
    assert torch.equal(x.grad[only_dropped], upstream[only_dropped])
    only_kept = kept & ~dropped
    ratio = x.detach() / 0.5
    inside = (ratio.round() >= 0) & (ratio.round() <= 3)
    torch.testing.assert_close(x.grad[only_kept], (upstream * inside)[only_kept])
    slope = torch.where(inside, ratio.round() - ratio, ratio.round().clamp(0, 3))
    torch.testing.assert_close(
        step.grad, 0.5 * (slope * upstream)[only_kept].sum(), rtol=1e-3, atol=1e-3
    )
    quantizer.stop_learning()
    assert torch.equal(quantizer(x), quantized)


def test_masks_repeat_with_their_seed_and_move_on() -> None:
    first, second = RandomMask(0.25, seed=3), RandomMask(0.25, seed=3)
    x = torch.zeros(64, 64)
    masks = [first.like(x) for _ in range(3)]
    assert all(torch.equal(mask, second.like(x)) for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    assert abs(float(torch.stack(masks).mean()) - 0.25) < 0.03


def test_masks_fit_tensors_of_any_layout() -> None:
    mask, base = RandomMask(0.5, seed=0), torch.zeros(2, 400, 30, 30)
    for x in (base[:, :2], base[:, :, ::7, 3], base[:1, :1].expand(2, 4, 30, 30)):
        assert mask.like(x).shape == x.shape
    laid_out = base.contiguous(memory_format=torch.channels_last)
    assert mask.like(laid_out).stride() == laid_out.stride()


def test_losses_follow_their_formula() -> None:
    output, target = normal(3, 4, 5, 5), normal(3, 4, 5, 5, seed=1)
    expected = (output - target).pow(2).sum(1).mean()
    torch.testing.assert_close(reconstruction_loss(output, target), expected)
    tokens = normal(3, 7, 4)
    torch.testing.assert_close(signal_power(tokens), tokens.pow(2).sum(-1).mean())


def test_slopes_of_the_loss_are_its_gradient() -> None:
    shapes = [(3, 4, 5, 5), (3, 7, 4), (3, 6)]
    outputs = [normal(*shape).requires_grad_() for shape in shapes]
    targets = [normal(*shape, seed=1) for shape in shapes]
    expected = sum(map(reconstruction_loss, outputs, targets))
    assert isinstance(expected, Tensor)
    expected.backward()
    loss, slopes = loss_and_slopes(outputs, [target.clone() for target in targets])
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slopes, [output.grad for output in outputs])


def test_beta_schedule() -> None:
    assert beta_at(0.19, 0.2, (20.0, 2.0)) is None
    assert beta_at(0.2, 0.2, (20.0, 2.0)) == 20
    assert beta_at(1.0, 0.2, (20.0, 2.0)) == 2


def enumerate_roundings(weight: Tensor, scaling: Scaling, grid: Grid) -> Tensor:
    """All weights that differ from `weight` by rounding each element up or down."""
    floor = torch.floor(weight / scaling.scale).flatten()
    choices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=weight.numel())))
    codes = (floor + choices + scaling.zero_point.flatten()).clamp(grid.low, grid.high)
    return dequantize(codes, Scaling(scaling.scale.flatten(), scaling.zero_point.flatten()))


def rank_of_learned_rounding(seed: int) -> int:
    """How many of the 1,024 roundings of ten weights are better than the learned one, for correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(256, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    weight = torch.randn(1, 10, generator=generator)
    grid = Grid(0, 3, False)
    found = minmax(weight, grid)
    scaling = Scaling(found.scale[:, None], found.zero_point[:, None])
    quantizer = WeightQuantizer(weight, scaling, grid)
    target = inputs @ weight.T

    def error(candidates: Tensor) -> Tensor:
        return (inputs @ candidates.T - target).pow(2).mean(0)

    learned = quantizer.start_learning(weight)
    optimizer = torch.optim.Adam([learned.logits], lr=2.5e-2)
    for step in range(500):
        beta = beta_at(step / 500, 0.2, (20.0, 2.0))
        quantizer.soften(None if beta is None else rounding.Penalty(1.0, beta))
        loss = (inputs @ quantizer(weight).T - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    quantizer.stop_learning()
    reached = error(quantizer(weight))[0]
    return int((error(enumerate_roundings(weight, scaling, grid)) < reached - 1e-5).sum())


def test_learned_rounding_is_near_the_enumerated_best() -> None:
    """Near-best: always among the best 4 % of all roundings, mostly among the best three."""
    ranks = [rank_of_learned_rounding(seed) for seed in range(8)]
    assert max(ranks) < 0.04 * 1024, ranks
    assert sum(rank < 3 for rank in ranks) >= 5, ranks
