"""Grids and ranges, against brute force."""

import subprocess
import sys
from typing import Literal

import pytest
import torch
from torch.ao.quantization.observer import MinMaxObserver

import mrecg
from mrecg.config.settings import ActivationRanges, ActivationSettings, Ranges, TensorSettings
from mrecg.errors import RecipeError
from mrecg.quantizers.activation_sample import ActivationSample
from mrecg.quantizers.grid import Scaling, UniformGrid, scaling_for_range
from mrecg.quantizers.kernels import compilation
from mrecg.quantizers.range_search import (
    SampledBatch,
    _condense,
    error_search,
    extremes,
    find_running_scaling,
    find_scaling,
    mean_and_std,
    percentile,
    percentile_of_magnitudes,
)
from toys import normal

GRIDS = [
    UniformGrid(low, high, symmetric)
    for bits in range(2, 9)
    for low, high, symmetric in [
        (0, 2**bits - 1, False),
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, True),
    ]
]
MINMAX = TensorSettings(bits=8, ranges=Ranges(method="minmax"))
METHODS = [
    TensorSettings(bits=8, ranges=Ranges(method=method), power_of_two=power_of_two)
    for method in ("minmax", "percentile", "magnitude", "std", "lsq", "error")
    for power_of_two in (False, True)
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "settings", METHODS, ids=lambda s: s.ranges.method + "-2^n" * s.power_of_two
)
def test_codes_are_on_the_grid_and_zero_is_exact(
    grid: UniformGrid, settings: TensorSettings
) -> None:
    values = torch.cat([normal(3, 500), normal(1, 500).abs(), torch.zeros(1, 500)])
    found = find_scaling(values, grid, settings, (0.2, 40))
    scaling = Scaling(found.scale[:, None], found.zero_point[:, None])
    codes = grid.quantize(values, scaling)
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high
    assert torch.equal(codes, codes.round())
    assert torch.equal(codes.to(grid.dtype).float(), codes)
    assert (scaling.scale > 0).all()
    assert not grid.dequantize(grid.quantize(torch.zeros_like(values), scaling), scaling).any()
    if grid.symmetric:
        assert not scaling.zero_point.any()
    if settings.power_of_two:
        assert (torch.frexp(scaling.scale).mantissa == 0.5).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_minmax_covers_the_extremes(grid: UniformGrid) -> None:
    values = normal(4, 300)
    found = find_scaling(values, grid, MINMAX, (1.0, 1))
    scaling = Scaling(found.scale[:, None], found.zero_point[:, None])
    error = (grid.dequantize(grid.quantize(values, scaling), scaling) - values).abs()
    # Rounding the zero point may push either end out by half a scale more.
    assert (error <= 1.001 * scaling.scale).all()


@pytest.mark.parametrize("p", [2.0, 2.4])
@pytest.mark.parametrize("grid", GRIDS[:6], ids=str)
def test_error_search_is_the_best_candidate(grid: UniformGrid, p: float) -> None:
    values, candidates = normal(3, 200), 30
    found = scaling_for_range(
        *error_search(values, grid, p, (0.2, candidates), extremes(values)), grid
    )
    for row, scale in zip(values, found.scale, strict=True):
        costs = {}
        for factor in torch.linspace(1.0, 0.2, candidates):
            scaling = scaling_for_range(row.min() * factor, row.max() * factor, grid)
            rebuilt = grid.dequantize(grid.quantize(row, scaling), scaling)
            costs[float(scaling.scale)] = float((rebuilt - row).abs().pow(p).sum())
        best = min(costs.values())
        assert costs[min(costs, key=lambda s: abs(s - float(scale)))] <= best * 1.0001


def test_histogram_of_long_rows_finds_nearly_the_same_range() -> None:
    values = torch.relu(normal(1, 200_000))
    grid = UniformGrid(0, 3, False)
    _, condensed = error_search(values, grid, 2.4, (0.06, 95), extremes(values))
    few = values[:, ::49]
    _, exact = error_search(few, grid, 2.4, (0.06, 95), extremes(few))
    torch.testing.assert_close(condensed, exact, rtol=0.05, atol=0)


def test_channels_are_searched_independently() -> None:
    values = normal(5, 400) * torch.tensor([0.1, 1, 5, 20, 100])[:, None]
    grid = UniformGrid(0, 15, False)
    together = error_search(values, grid, 2.4, (0.2, 80), extremes(values))
    for index in range(5):
        row = values[index : index + 1]
        alone = error_search(row, grid, 2.4, (0.2, 80), extremes(row))
        assert all(
            torch.equal(both[index], one[0]) for both, one in zip(together, alone, strict=True)
        )


def test_magnitudes_are_cut_on_the_longer_side_alone() -> None:
    """The 99th of 101 magnitudes from 0 to 1; the negative values, up to 0.2, stay inside."""
    values = torch.cat([torch.linspace(0.21, 1, 80), -torch.linspace(0, 0.2, 21)])[None]
    low, high = percentile_of_magnitudes(values, 99.0, extremes(values))
    assert (float(low), float(high)) == (pytest.approx(-0.2), pytest.approx(0.99))
    assert percentile(values, 99.0)[0] > low


def test_percentile_cuts_outliers() -> None:
    values = torch.cat([torch.linspace(0, 1, 1000), torch.tensor([100.0])]).unsqueeze(0)
    low, high = percentile(values, 99.0)
    assert float(high[0] - low[0]) < 1.01


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_symmetric_range_is_that_of_torch_observers(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    observer = MinMaxObserver(
        dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=low, quant_max=high
    )
    values = normal(1, 300) * 2
    observer(values)
    scale, _ = observer.calculate_qparams()
    found = find_scaling(values, UniformGrid(low, high, True), MINMAX, (1.0, 1))
    torch.testing.assert_close(found.scale, scale)


def test_standard_deviations_widen_a_range_and_never_cut() -> None:
    values = torch.tensor([[-1.0, 0.0, 1.0], [-0.1, 0.0, 100.0]])
    low, high = mean_and_std(values, 2.6, extremes(values))
    torch.testing.assert_close(low[0], torch.tensor(-2.6))
    assert float(high[1]) >= 100
    low, high = mean_and_std(values, 0.1, extremes(values))
    assert (float(low[0]), float(high[0])) == (-1, 1)


@pytest.mark.parametrize("method", ["minmax", "percentile", "magnitude", "std", "error"])
def test_a_running_mean_of_ranges(
    method: Literal["minmax", "percentile", "magnitude", "std", "error"],
) -> None:
    """The first batch is the first mean; each later one moves it by a tenth."""
    grid, shrinkage = UniformGrid(0, 255, False), (0.06, 95)
    settings = ActivationSettings(bits=8, ranges=ActivationRanges(method=method, running_mean=0.9))
    batches = [normal(1, 400, seed=seed).relu() * (1 + seed) for seed in range(3)]
    sampled = [SampledBatch(one, extremes(one)) for one in batches]
    alone = [float(find_scaling(one, grid, settings, shrinkage).scale) for one in batches]
    found = float(find_running_scaling(sampled, grid, settings, shrinkage, 0.9).scale)
    assert found == pytest.approx(
        0.9 * (0.9 * alone[0] + 0.1 * alone[1]) + 0.1 * alone[2], rel=1e-5
    )


def test_ends_of_a_sample_count_for_no_error() -> None:
    """An outlier that the sample missed widens the candidates and is not one value of a few more."""
    grid, settings = UniformGrid(0, 3, False), ActivationSettings(bits=2)
    values = torch.linspace(0, 1, 200)[None]
    found = [
        float(find_running_scaling([batch], grid, settings, (0.01, 100), 0.9).scale)
        for batch in (
            SampledBatch(values, extremes(values)),
            SampledBatch(values, (torch.zeros(1), torch.full((1,), 10.0))),
        )
    ]
    assert found[0] == pytest.approx(found[1], rel=0.15)
    with_outlier = torch.cat([values, torch.full((1, 1), 10.0)], 1)
    counted = find_scaling(with_outlier, grid, settings, (0.01, 100))
    assert float(counted.scale) > 2 * found[1]


def test_a_scale_without_a_range_has_no_running_mean() -> None:
    settings = {"activation.ranges.method": "lsq", "activation.ranges.running_mean": 0.9}
    with pytest.raises(RecipeError, match="finds a scale and no range"):
        mrecg.preset("w4a4-brecq", settings)


def test_sample_keeps_the_extremes_of_all_batches() -> None:
    sample = ActivationSample(limit=10)
    for seed in range(5):
        batch = normal(100, seed=seed)
        batch[37] = 10.0 * seed
        sample.add([batch], images=1)
    assert float(sample.ends().amax()) == 40.0
    assert sample.rows().shape == (5, 10)


def test_a_sample_does_not_depend_on_batches() -> None:
    x = normal(12, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    rows = []
    for size in (12, 4, 5):
        sample = ActivationSample(1024)
        for batch in x.split(size):
            sample.add([batch], len(batch))
        rows.append(sample.rows())
    assert rows[0].shape == (12, 1024)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_a_sample_of_several_tensors() -> None:
    """A quantizer that several operands share has to reach all of them."""
    sample = ActivationSample(1024)
    for _ in range(2):
        sample.add([torch.ones(3, 4), torch.full((3, 2, 2, 2), -2.0), torch.tensor([[5.0]])], 3)
    assert sample.ends().tolist() == [[-2, 5]] * 6
    assert sample.rows().shape == (6, 4 + 8 + 1)


def test_a_value_that_many_repeat_stays_where_it_is() -> None:
    """Padding and saturation do that; summed up in single precision, it drifts out of its bin."""
    repeated = torch.full((1, 400_000), 0.07)
    values = torch.cat(
        [repeated, torch.rand(1, 10_000, generator=torch.Generator().manual_seed(0))], 1
    )
    points, counts = _condense(values)
    assert counts.sum() == values.numel()
    fullest = int(counts.argmax())
    width = float(values.max() - values.min()) / counts.shape[1]
    assert abs(float(points[0, fullest]) - 0.07) < width / 100


def test_the_memory_of_a_search_does_not_grow_with_the_weights() -> None:
    """2,000 rows of 784 values have 6 MiB; it took 85 times as much, kept apart by the small results of every pass."""
    code = """
import resource, torch
from functools import partial
from mrecg.config.settings import TensorSettings
from mrecg.quantizers.grid import UniformGrid
from mrecg.quantizers.range_search import WEIGHT_SHRINKAGE, find_scaling
find = partial(find_scaling, settings=TensorSettings(bits=4), shrinkage=WEIGHT_SHRINKAGE)
weights = torch.randn(2000, 784)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
find(weights, UniformGrid(-8, 7, True))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150 << 10


@pytest.mark.parametrize("long", [False, True], ids=["values", "histogram"])
def test_a_range_does_not_depend_on_the_compiler(
    long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where two candidates are as good: nearly every row of two values has some."""
    values = normal(2, 9000) if long else torch.cat([normal(50, 300), torch.zeros(1, 300)])
    few = torch.tensor([[1.0, 0.5], [0.5, -0.25], [1e-20, -1e-20]])
    for rows in (values, few):
        for grid in GRIDS:
            settings = TensorSettings(bits=8)
            found = find_scaling(rows, grid, settings, (0.2, 80))
            with monkeypatch.context() as patched:
                patched.setattr(compilation, "fits", lambda tensor: False)
                expected = find_scaling(rows, grid, settings, (0.2, 80))
            assert torch.equal(found.scale, expected.scale)
            assert torch.equal(found.zero_point, expected.zero_point)
