"""What every grid promises: codes are numbers of their values, and a rounding goes to a neighbor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mrecg.quantizers.grid import Grid, Scaling, UniformGrid, scaling_for_range
from mrecg.quantizers.logarithmic import LogarithmicGrid, logarithmic_scaling

VALUES = st.floats(-1e4, 1e4, width=32)


@st.composite
def uniform(draw: st.DrawFn) -> tuple[Grid, Scaling]:
    """A uniform grid of 2 to 8 bits, and a scaling whose zero point is one of its codes."""
    bits = draw(st.integers(2, 8))
    symmetric = draw(st.booleans())
    low = -(2 ** (bits - 1)) if symmetric else 0
    grid = UniformGrid(low, low + 2**bits - 1, symmetric)
    scale = draw(st.floats(2**-13, 8.0, width=32))
    zero_point = 0 if symmetric else draw(st.integers(grid.low, grid.high))
    return grid, Scaling(torch.tensor(scale), torch.tensor(float(zero_point)))


@st.composite
def logarithmic(draw: st.DrawFn) -> tuple[Grid, Scaling]:
    return LogarithmicGrid(), logarithmic_scaling(torch.tensor(draw(st.floats(2**-10, 2**13))))


GRIDS = st.one_of(uniform(), logarithmic())
TENSORS = st.lists(VALUES, min_size=1, max_size=8).map(torch.tensor)


def every_code(grid: Grid) -> Tensor:
    return torch.arange(grid.low, grid.high + 1, dtype=torch.float32)


@given(GRIDS)
def test_codes_are_the_codes_of_their_values(drawn: tuple[Grid, Scaling]) -> None:
    grid, scaling = drawn
    codes = every_code(grid)
    assert torch.equal(grid.quantize(grid.dequantize(codes, scaling), scaling), codes)


@given(GRIDS)
def test_values_ascend_with_their_codes_and_zero_is_one(drawn: tuple[Grid, Scaling]) -> None:
    grid, scaling = drawn
    values = grid.dequantize(every_code(grid), scaling)
    assert bool((values.diff() > 0).all())
    assert bool((values == 0).any())


@given(GRIDS, TENSORS)
def test_quantizing_again_changes_nothing(drawn: tuple[Grid, Scaling], x: Tensor) -> None:
    grid, scaling = drawn
    codes = grid.quantize(x, scaling)
    assert bool(((grid.low <= codes) & (codes <= grid.high) & (codes == codes.round())).all())
    assert torch.equal(grid.quantize(grid.dequantize(codes, scaling), scaling), codes)


@given(uniform(), TENSORS)
def test_no_code_of_a_uniform_grid_is_nearer(drawn: tuple[Grid, Scaling], x: Tensor) -> None:
    grid, scaling = drawn
    error = (grid.dequantize(grid.quantize(x, scaling), scaling) - x).abs()
    every = grid.dequantize(every_code(grid), scaling)
    nearest = (every[:, None] - x).abs().amin(0)
    # x / scale is rounded once before it is rounded to a code.
    assert bool((error <= nearest + 1e-6 * (x.abs() + scaling.scale)).all())


@given(GRIDS, TENSORS)
def test_an_element_lies_between_its_neighbors(drawn: tuple[Grid, Scaling], x: Tensor) -> None:
    grid, scaling = drawn
    below, value, gap, fraction = grid.neighbors(x, scaling)
    assert bool(((grid.low <= below) & (below <= grid.high)).all())
    assert torch.allclose(value, grid.dequantize(below, scaling), rtol=1e-6, atol=0)
    assert bool((gap >= 0).all())
    inside = gap > 0
    above = grid.dequantize(below[inside] + 1, scaling)
    torch.testing.assert_close(value[inside] + gap[inside], above, rtol=1e-5, atol=1e-7)
    assert bool(((fraction[inside] >= 0) & (fraction[inside] <= 1)).all())
    between = value[inside] + fraction[inside] * gap[inside]
    torch.testing.assert_close(between, x[inside], rtol=1e-4, atol=1e-6)


@given(GRIDS, TENSORS)
def test_where_there_is_no_choice_the_code_is_the_nearest(
    drawn: tuple[Grid, Scaling], x: Tensor
) -> None:
    grid, scaling = drawn
    below, _, gap, _ = grid.neighbors(x, scaling)
    codes = grid.quantize(x, scaling)
    assert torch.equal(codes[gap == 0], below[gap == 0])
    assert bool(((codes == below) | (codes == below + 1)).all())


@given(uniform(), st.lists(VALUES, min_size=2, max_size=8))
def test_a_range_fits_its_grid(drawn: tuple[Grid, Scaling], values: list[float]) -> None:
    """No value of the range is clipped by more than rounding the zero point costs."""
    grid = drawn[0]
    assert isinstance(grid, UniformGrid)
    x = torch.tensor(values)
    scaling = scaling_for_range(x.min(), x.max(), grid)
    assert float(scaling.zero_point) == round(float(scaling.zero_point))
    assert grid.low <= float(scaling.zero_point) <= grid.high
    error = (grid.dequantize(grid.quantize(x, scaling), scaling) - x).abs()
    assert bool((error <= scaling.scale * 1.001).all())


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, torch.uint8), (-8, 7, torch.int8), (-1, 255, torch.int16), (0, 65535, torch.int32)],
)
def test_the_container_holds_every_code(low: int, high: int, dtype: torch.dtype) -> None:
    assert UniformGrid(low, high, False).dtype == dtype
