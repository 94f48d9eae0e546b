"""Fake quantization with a learned scale and dropping, against formulas written out."""

import math

import pytest
import torch

from mrecg.quantizers.grid import Scaling, UniformGrid
from mrecg.quantizers.kernels import compilation, native
from mrecg.quantizers.lsq import UniformQuantizer
from mrecg.quantizers.qdrop import RandomMask
from toys import normal


def test_fake_quantize_values_and_gradients() -> None:
    """LSQ, eq. 3, written out."""
    grid, scaling = UniformGrid(0, 3, False), Scaling(torch.tensor(0.3), torch.tensor(1.0))
    quantizer = UniformQuantizer(grid)
    x = normal(2, 3, 4, 5).requires_grad_()
    expected = grid.dequantize(grid.quantize(x.detach(), scaling), scaling)
    torch.testing.assert_close(quantizer.fix(scaling)(x.detach(), None), expected)
    learned = quantizer.learn(scaling, None)
    out = learned(x, None)
    torch.testing.assert_close(out, expected)
    upstream = normal(2, 3, 4, 5, seed=1)
    out.backward(upstream)
    ratio = x.detach() / 0.3
    codes = ratio.round()
    inside = (codes >= -1) & (codes <= 2)
    torch.testing.assert_close(x.grad, upstream * inside)
    slope = torch.where(inside, codes - ratio, codes.clamp(-1, 2))
    (factor,) = learned.variables
    torch.testing.assert_close(factor.grad, 0.3 * (slope * upstream).sum())


def test_a_fixed_scale_passes_the_same_gradient() -> None:
    scaling = Scaling(torch.tensor(0.3), torch.tensor(1.0))
    quantizer = UniformQuantizer(UniformGrid(0, 3, False))
    slopes = []
    for each in (quantizer.fix(scaling), quantizer.learn(scaling, None)):
        x = normal(2, 3, 4, 5).requires_grad_()
        each(x, (0.0, 0.7)).backward(normal(2, 3, 4, 5, seed=1))
        slopes.append(x.grad)
    assert quantizer.fix(scaling).variables == ()
    torch.testing.assert_close(*slopes)


@pytest.mark.skipif(compilation.library() is None, reason="needs a C compiler")
def test_a_quantizer_that_learns_takes_the_compiled_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward and backward; the names of kernels in a record say no more than that they are loaded."""
    called, library = [], compilation.library()

    class Watched:
        def __getattr__(self, name: str) -> object:
            called.append(name)
            return getattr(library, name)

    monkeypatch.setattr(native, "loaded", Watched)
    scaling = Scaling(torch.tensor(0.3), torch.tensor(1.0))
    learned = UniformQuantizer(UniformGrid(0, 3, False)).learn(scaling, None)
    learned(normal(2, 3).requires_grad_(), None).sum().backward()
    assert called == ["fake_quantize", "fake_quantize_backward"]


@pytest.mark.parametrize("relative", [True, False])
def test_the_variable_is_the_scale_in_its_unit(relative: bool) -> None:
    scaling = Scaling(torch.tensor(0.25), torch.tensor(3.0))
    learned = UniformQuantizer(UniformGrid(0, 15, False)).learn(scaling, None, relative)
    (factor,) = learned.variables
    assert factor.item() == (1 if relative else 0.25)
    assert learned.current() == scaling
    with torch.no_grad():
        factor.mul_(2)
    assert learned.current() == Scaling(torch.tensor(0.5), torch.tensor(3.0))
    assert scaling == Scaling(torch.tensor(0.25), torch.tensor(3.0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropped_elements_pass_in_float(layout: torch.memory_format) -> None:
    grid, scaling = UniformGrid(0, 3, False), Scaling(torch.tensor(0.5), torch.tensor(0.0))
    quantizer = UniformQuantizer(grid)
    x = normal(2, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    learned = quantizer.learn(scaling, RandomMask(0.5, seed=0))
    out = learned(x, None)
    quantized = grid.dequantize(grid.quantize(x.detach(), scaling), scaling)
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
    (factor,) = learned.variables
    torch.testing.assert_close(
        factor.grad, 0.5 * (slope * upstream)[only_kept].sum(), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(quantizer.fix(learned.current())(x.detach(), None), quantized)


def test_a_prescribed_scale_stays_although_others_become_powers_of_two() -> None:
    prescribed = Scaling(torch.tensor(0.1), torch.tensor(0.0))
    quantizer = UniformQuantizer(UniformGrid(0, 255, False), prescribed, power_of_two=True)
    x = torch.tensor([0.3], requires_grad=True)
    learned = quantizer.learn(prescribed, None)
    assert not quantizer.learns
    assert learned.variables == ()
    torch.testing.assert_close(learned(x, None), torch.tensor([0.3]))
    assert learned.current() == prescribed


def test_a_power_of_two_stays_one_while_it_is_learned() -> None:
    quantizer = UniformQuantizer(UniformGrid(-8, 7, True), power_of_two=True)
    learned = quantizer.learn(Scaling(torch.tensor(0.25), torch.tensor(0.0)), None)
    (factor,) = learned.variables
    for value, expected in [(1.0, 0.25), (1.3, 0.25), (1.5, 0.5), (0.7, 0.125), (0.72, 0.25)]:
        factor.data.fill_(value)
        assert float(learned.current().scale) == expected, value
        assert learned(torch.tensor([expected]), None).item() == expected, value
        (gradient,) = torch.autograd.grad(learned(torch.tensor([100.0]), None).sum(), factor)
        assert gradient.item() == 7 * 0.25  # as if the scale were not rounded


@pytest.mark.parametrize("bounds", [None, (0.0, math.inf)])
def test_a_root_reads_nothing_below_zero(bounds: tuple[float, float] | None) -> None:
    """x + s (c − t) was −1e-9 where c is 0, of which a root is NaN; values and slopes are the others' up to the last bit."""
    x, scaling = normal(2, 3, 40, 50).abs(), Scaling(torch.tensor(0.0731), torch.tensor(0.0))
    found = []
    for feeds_root in (False, True):
        given = x.clone().requires_grad_()
        quantizer = UniformQuantizer(UniformGrid(0, 15, False), feeds_root=feeds_root)
        out = quantizer.learn(scaling, RandomMask(0.5, 1))(given, bounds)
        out.backward(normal(2, 3, 40, 50, seed=1))
        found.append((out.detach(), given.grad))
    assert float(found[0][0].min()) < 0
    assert float(found[1][0].min()) == 0
    torch.testing.assert_close(found[1][0], found[0][0])
    assert torch.equal(found[1][1], found[0][1])
