"""The compiled kernels compute what the torch operators do, in every layout, and nothing needs them."""

import itertools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.quantizers import kernels
from mrecg.quantizers.adaround import Penalty
from mrecg.quantizers.grid import Grid, Scaling
from mrecg.quantizers.lsq import ActivationQuantizer, RandomMask
from mrecg.quantizers.range_search import minmax
from mrecg.quantizers.weight import WeightQuantizer

compiled = pytest.mark.skipif(kernels.library() is None, reason="needs a C compiler")
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not dense": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    kernels.library.cache_clear()
    yield monkeypatch
    kernels.library.cache_clear()


@compiled
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
    for takes in (kernels.fits, lambda tensor: False):
        monkeypatch.setattr(kernels, "fits", takes)
        quantizer = ActivationQuantizer(Grid(0, 7, False))
        quantizer.scaling = Scaling(torch.tensor(0.3), torch.tensor(3))
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


@compiled
@pytest.mark.parametrize("penalty", [None, Penalty(0.01, 20.0), Penalty(0.01, 2.0)])
@pytest.mark.parametrize("ranges", ["per channel", "per tensor", "one number"])
@pytest.mark.parametrize("shape", [(70, 60, 3, 3), (30, 1, 3, 3), (1, 1), (50, 40), (9, 4, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_soft_rounding(
    penalty: Penalty | None, ranges: str, shape: tuple[int, ...], layout: str
) -> None:
    grid = Grid(0, 3, False)
    weight = LAYOUTS[layout if len(shape) == 4 else "contiguous"](normal(*shape))
    found = minmax(weight.reshape(shape[0] if ranges == "per channel" else 1, -1), grid)
    each = () if ranges == "one number" else (-1, *[1] * (len(shape) - 1))
    scaling = Scaling(*(one.reshape(each) for one in found))
    quantizer = WeightQuantizer(weight, scaling, grid)
    results = []
    for is_native in (True, False):
        learned = quantizer.start_learning(weight)
        assert learned._is_native
        learned._is_native = is_native
        with torch.no_grad():
            learned.logits += normal(*shape, seed=1) * 4
            learned.logits[(0,) * (len(shape) - 1)][:3] = torch.tensor([-60.0, 0.0, 60.0])[
                : shape[-1]
            ]
            learned.range.growth += 0.2
        soft = learned(penalty)
        soft.backward(normal(*shape, seed=2))
        results.append((soft.detach(), learned.logits.grad, learned.range.growth.grad))
    for ours, expected in zip(*results, strict=True):
        assert ours.shape == expected.shape
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)


@compiled
def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    x, scale = normal(8, 40, 40, 40), torch.tensor(0.3)
    threads, slopes = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            factor = torch.ones((), requires_grad=True)
            made = kernels.FakeQuantize.apply(x, (-1.0, 1.0), factor, scale, scale, -3.0, 4.0, None)
            made.backward(normal(8, 40, 40, 40, seed=1))
            slopes.append(factor.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in itertools.pairwise(slopes))


@compiled
def test_other_numbers_and_places_are_left_to_torch() -> None:
    assert kernels.fits(torch.ones(2))
    assert not kernels.fits(torch.ones(2, dtype=torch.float64))
    assert not kernels.fits(torch.ones(2, device="meta"))
    weight = normal(6, 4, 3, 3)  # of a transposed convolution: its channels lie along axis 1
    found = minmax(weight.transpose(0, 1).reshape(4, -1), Grid(0, 3, False))
    scaling = Scaling(*(one.view(1, -1, 1, 1) for one in found))
    quantizer = WeightQuantizer(weight, scaling, Grid(0, 3, False))
    learned = quantizer.start_learning(weight)
    assert not learned._is_native
    assert not kernels.lie_in_rows(torch.ones(0, 3), torch.ones(()))
    pool = RandomMask(0.5, 0)
    pool.like(torch.ones(4, dtype=torch.float64))
    assert pool.like(torch.ones(4)).dtype == torch.float32
    assert learned().shape == weight.shape


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("text", ["exit 1", "exit 0"])
def test_a_compiler_that_makes_nothing(
    text: str, without_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_kernels.setenv("CC", script(tmp_path / "compiler", text))
    assert kernels.library() is None


def test_nowhere_to_compile(without_kernels: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_kernels.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert kernels.library() is None


@compiled
@pytest.mark.parametrize("compiler", ["CC with an argument", "one without threads"])
def test_other_compilers_will_do(
    compiler: str, without_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = 'case "$*" in *-fopenmp*) exit 1;; esac; exec cc "$@"'
    own = script(tmp_path / "compiler", text)
    without_kernels.setenv("CC", "cc -g0" if compiler.startswith("CC") else own)
    assert kernels.library() is not None


def test_nothing_needs_a_compiler(without_kernels: pytest.MonkeyPatch) -> None:
    """With none, the same formulas run as torch operators."""
    without_kernels.setenv("CC", "")
    assert not kernels.fits(torch.ones(2))
    recipe = mrecg.preset("w4a4-qdrop", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    assert record.environment["kernels"] == "torch"


@compiled
def test_a_record_says_which_kernels_ran() -> None:
    recipe = mrecg.preset("w4a4-brecq", {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    record = mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record
    assert record.environment["kernels"] == "native"


@compiled
def test_a_quantizer_that_learns_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    quantizer = ActivationQuantizer(Grid(0, 3, False))
    quantizer.scaling = Scaling(torch.tensor(0.5), torch.tensor(0))
    quantizer.start_learning(None)
    monkeypatch.setattr(kernels, "_call", lambda name, *rest: called.append(name))
    quantizer(normal(4))
    assert called == ["fake_quantize"]
