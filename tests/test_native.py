"""The compiled kernels compute what the torch operators do, in every layout, and nothing needs them."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.quantization import native
from mrecg.quantization.activation import ActivationQuantizer, RandomMask
from mrecg.quantization.grid import Grid, Scaling
from mrecg.quantization.ranges import minmax
from mrecg.quantization.rounding import Penalty, WeightQuantizer

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="needs a C compiler")
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not dense": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    native.kernels.cache_clear()
    yield monkeypatch
    native.kernels.cache_clear()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bounds", [None, (0.0, math.inf), (-1.0, 0.9)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (4, 8, 40, 40)])
def test_fake_quantization(
    layout: str,
    of_gradient: str,
    masked: bool,
    bounds: tuple[float, float] | None,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = LAYOUTS[layout](normal(*shape))
    gradient = LAYOUTS[of_gradient](normal(*shape, seed=1))
    found = []
    for takes in (native.fits, lambda tensor: False):
        monkeypatch.setattr(native, "fits", takes)
        scaling = Scaling(torch.tensor(0.3), torch.tensor(3))
        quantizer = ActivationQuantizer(Grid(0, 7, False), scaling)
        quantizer.bounds = bounds
        factor = quantizer.start_learning(RandomMask(0.5, 0) if masked else None)
        given = x.detach().requires_grad_()
        made = quantizer(given)
        made.backward(gradient)
        assert factor is not None
        found.append((made.detach(), given.grad, factor.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert torch.equal(found[0][1], found[1][1])
    assert torch.allclose(found[0][2], found[1][2], atol=5e-3)  # sums of up to 51,200 terms


@pytest.mark.parametrize("penalty", [None, Penalty(0.01, 20.0), Penalty(0.01, 2.0)])
@pytest.mark.parametrize("ranges", ["per channel", "per tensor"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_soft_rounding(penalty: Penalty | None, ranges: str, layout: str) -> None:
    grid = Grid(0, 3, False)
    weight = LAYOUTS[layout](normal(70, 60, 3, 3))
    found = minmax(weight.reshape(70 if ranges == "per channel" else 1, -1), grid)
    quantizer = WeightQuantizer(weight, Scaling(*(one.view(-1, 1, 1, 1) for one in found)), grid)
    results = []
    for is_native in (True, False):
        learned = quantizer.start_learning(weight)
        assert learned._is_native
        learned._is_native = is_native
        with torch.no_grad():
            learned.logits += normal(70, 60, 3, 3, seed=1) * 4
            learned.logits[0, 0, 0] = torch.tensor([-60.0, 0.0, 60.0])
            learned.range.growth += 0.2
        soft = learned(penalty)
        soft.backward(normal(70, 60, 3, 3, seed=2))
        results.append((soft.detach(), learned.logits.grad, learned.range.growth.grad))
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=2e-5)


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    x, scale = normal(8, 40, 40, 40), torch.tensor(0.3)
    threads, slopes = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            factor = torch.ones((), requires_grad=True)
            made = native.FakeQuantize.apply(x, (-1.0, 1.0), factor, scale, scale, -3.0, 4.0, None)
            made.backward(normal(8, 40, 40, 40, seed=1))
            slopes.append(factor.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in itertools.pairwise(slopes))


def test_other_numbers_and_places_are_left_to_torch() -> None:
    assert native.fits(torch.ones(2))
    assert not native.fits(torch.ones(2, dtype=torch.float64))
    assert not native.fits(torch.ones(2, device="meta"))
    weight = normal(6, 4, 3, 3)  # of a transposed convolution: its channels lie along axis 1
    found = minmax(weight.transpose(0, 1).reshape(4, -1), Grid(0, 3, False))
    scaling = Scaling(*(one.view(1, -1, 1, 1) for one in found))
    quantizer = WeightQuantizer(weight, scaling, Grid(0, 3, False))
    learned = quantizer.start_learning(weight)
    assert not learned._is_native
    assert learned().shape == weight.shape


def test_nothing_needs_a_compiler(without_kernels: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None there, one that fails, one that makes nothing: the same formulas run as torch operators."""
    failing, idle = tmp_path / "failing", tmp_path / "idle"
    failing.write_text("#!/bin/sh\nexit 1\n")
    idle.write_text("#!/bin/sh\nexit 0\n")
    for compiler in (failing, idle):
        compiler.chmod(0o755)
        without_kernels.setenv("CC", str(compiler))
        native.kernels.cache_clear()
        assert native.kernels() is None
    without_kernels.setenv("CC", "")
    without_kernels.setattr(native, "COMPILERS", ())
    native.kernels.cache_clear()
    assert not native.fits(torch.ones(2))
    recipe = mrecg.preset("w4a4-qdrop", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    assert record.environment["kernels"] == "torch"


def test_a_record_says_which_kernels_ran() -> None:
    recipe = mrecg.preset("w4a4-brecq", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    assert record.environment["kernels"] == "native"


def test_a_quantizer_that_learns_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    quantizer = ActivationQuantizer(Grid(0, 3, False), Scaling(torch.tensor(0.5), torch.tensor(0)))
    quantizer.start_learning(None)
    monkeypatch.setattr(native, "_call", lambda name, *rest: called.append(name))
    quantizer(normal(4))
    assert called == ["fake_quantize"]
