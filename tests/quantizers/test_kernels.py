"""The compiled kernels compute what the torch operators do, in every layout, and nothing needs them."""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mrecg
import toys
from mrecg.quantizers.kernels import (
    INSIDE,
    Slope,
    compilation,
    fake_quantize,
    match_strides,
    native,
    soft_rounding,
)

compiled = pytest.mark.skipif(compilation.library() is None, reason="needs a C compiler")
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not dense": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}
UNBOUNDED = (-math.inf, math.inf)
IMPLEMENTATIONS = [
    pytest.param(True, id="compiled", marks=compiled),
    pytest.param(False, id="torch"),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def without_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "fits", lambda tensor: False)


def composed_fake_quantize(
    x: Tensor, factor: Tensor, unit: Tensor, bounds: tuple[float, float], keep: Tensor | None
) -> Tensor:
    """Codes of −3 to 4 by autograd alone: eq. 1 to 3 of LSQ."""
    scale = unit * factor
    clipped = x.clamp(*bounds)
    ratio = clipped / scale
    inside = ratio.clamp(-3.5, 4.5)
    codes = ratio.detach().round().clamp(-3, 4)
    rounded = torch.where((ratio > -3.5) & (ratio < 4.5), ratio + (codes - ratio).detach(), codes)
    assert inside.shape == rounded.shape
    quantized = rounded * scale
    return quantized if keep is None else torch.where(keep > 0, quantized, clipped)


@pytest.mark.parametrize("is_compiled", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bounds", [None, (0.0, math.inf), (-1.0, 0.9)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (4, 8, 40, 40)])
def test_fake_quantization(
    is_compiled: bool,
    layout: str,
    of_gradient: str,
    masked: bool,
    bounds: tuple[float, float] | None,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_compiled:
        without_compiled(monkeypatch)
    x, gradient = LAYOUTS[layout](normal(*shape)), LAYOUTS[of_gradient](normal(*shape, seed=1))
    keep = (uniform(*shape) < 0.5).float() if masked else None
    unit = torch.tensor(0.25)
    results = []
    for ours in (True, False):
        given, factor = x.detach().requires_grad_(), torch.tensor(1.2, requires_grad=True)
        if ours:
            scale = (unit * factor).detach()
            made = fake_quantize(given, factor, scale, unit, (-3.0, 4.0), bounds, keep)
        else:
            made = composed_fake_quantize(given, factor, unit, bounds or UNBOUNDED, keep)
        made.backward(gradient)
        assert given.grad is not None
        assert factor.grad is not None
        results.append((made.detach(), given.grad, factor.grad))
    (made, of_x, of_factor), (expected, of_x_expected, of_factor_expected) = results
    assert torch.allclose(made, expected, atol=1e-6)
    assert torch.equal(of_x != 0, of_x_expected != 0)
    assert torch.allclose(of_x, of_x_expected, atol=1e-6)
    # Sums of up to 51,200 terms.
    assert torch.allclose(of_factor, of_factor_expected, rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize("is_compiled", IMPLEMENTATIONS)
@pytest.mark.parametrize("slope", [None, (500.0, 4.0), (0.1, 0.0)])
@pytest.mark.parametrize("scales", ["per channel", "per tensor", "one number"])
@pytest.mark.parametrize("shape", [(70, 60, 3, 3), (30, 1, 3, 3), (1, 1), (50, 40), (9, 4, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_soft_rounding(
    is_compiled: bool,
    slope: Slope | None,
    scales: str,
    shape: tuple[int, ...],
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_compiled:
        without_compiled(monkeypatch)
    ones = [1] * (len(shape) - 1)
    of_delta = {"per channel": (shape[0], *ones), "per tensor": (1, *ones), "one number": ()}
    values = normal(*shape, seed=1) * 4
    values[(0,) * (len(shape) - 1)][:3] = torch.tensor([-60.0, 0.0, 60.0])[: shape[-1]]
    values = LAYOUTS[layout if len(shape) == 4 else "contiguous"](values)
    base, span, gradient = normal(*shape), uniform(*shape), normal(*shape, seed=2)
    results = []
    for ours in (True, False):
        alpha = values.detach().clone().requires_grad_()
        delta = (normal(*of_delta[scales], seed=3) * 0.2).requires_grad_()
        if ours:
            made = soft_rounding(alpha, base, span, delta, 15, slope)
            made.backward(gradient)
        else:
            sigmoid = torch.sigmoid(alpha)
            made = (base + span * sigmoid.clamp(*INSIDE)) * (1 + delta / 15)
            penalty = 0.0 if slope is None else integral(sigmoid.clamp(*INSIDE), *slope).sum()
            ((made * gradient).sum() + penalty).backward()  # type: ignore[no-untyped-call]
        assert alpha.grad is not None
        assert delta.grad is not None
        results.append((made.detach(), alpha.grad, delta.grad))
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def integral(sigmoid: Tensor, strength: float | Tensor, exponent: float | Tensor) -> Tensor:
    """Return the penalty whose slope is −c · d · (d²)^e with d = σ − ½."""
    power = exponent + 1
    return -strength * ((sigmoid - 0.5).square() + 1e-12).pow(power) / (2 * power)


def test_a_slope_may_be_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recorded step reads it: another value of the same tensor is another slope."""
    base, span, delta = normal(6, 4), uniform(6, 4), torch.zeros(6, 1)
    for unpatched in (True, False):
        if not unpatched:
            without_compiled(monkeypatch)
        found = []
        for slope in ((0.5, 1.0), (torch.tensor(0.5), torch.tensor(1.0)), None):
            alpha = normal(6, 4, seed=1).requires_grad_()
            soft_rounding(alpha, base, span, delta, 15, slope).sum().backward()
            found.append(alpha.grad)
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])


# Large enough that several threads compute.
MAP, LIMITS = (4, 40, 40, 41), (-3.0, 4.0, -1.0, 1.0)
WEIGHT = (250, 20, 5, 5)
OF_THREADS: dict[str, Callable[[], Sequence[Tensor]]] = {
    "fake_quantize": lambda: [
        native.fake_quantize(normal(*MAP), keep, torch.tensor(0.3), *LIMITS)
        for keep in (None, (uniform(*MAP) < 0.5).float())
    ],
    "fake_quantize_backward": lambda: native.fake_quantize_backward(
        normal(*MAP, seed=1), normal(*MAP), torch.tensor(0.2), None, torch.tensor(0.3), *LIMITS
    ),
    "fake_quantize_backward, masked": lambda: native.fake_quantize_backward(
        *(normal(*MAP, seed=1), normal(*MAP), torch.tensor(0.2), uniform(*MAP).round()),
        *(torch.tensor(0.3), *LIMITS),
    ),
    "soft_rounding": lambda: [
        native.soft_rounding(normal(*WEIGHT), normal(*WEIGHT), uniform(*WEIGHT), delta, 15)
        for delta in (normal(250, 1, 1, 1), torch.ones(1))
    ],
    "soft_rounding_backward": lambda: [
        one
        for delta in (normal(250, 1, 1, 1), torch.ones(1))
        for one in native.soft_rounding_backward(
            *(normal(*WEIGHT, seed=1), normal(*WEIGHT), normal(*WEIGHT), uniform(*WEIGHT)),
            *(delta, 15, 0.5, 2.0, True),
        )
    ],
    "grid_errors": lambda: [
        native.grid_errors(normal(9, 500), counts, uniform(9, 20), normal(9, 20), -8.0, 7.0, 2.4)
        for counts in (None, uniform(9, 500))
    ],
}


@compiled
@pytest.mark.parametrize("kernel", OF_THREADS)
def test_threads_change_no_bit(kernel: str) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(OF_THREADS[kernel]())
    finally:
        torch.set_num_threads(threads)
    for one, two, three in zip(*found, strict=True):
        assert (
            one.numel() > 2 * compilation.PART or one.numel() < 512
        )  # else one thread computes it
        assert torch.equal(one, two)
        assert torch.equal(one, three)


OPERATORS = torch.ops.mrecg


@pytest.mark.parametrize("is_compiled", IMPLEMENTATIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bounds", [UNBOUNDED, (-1.0, 0.9)])
def test_fake_quantize_is_a_torch_operator(
    is_compiled: bool,
    masked: bool,
    bounds: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_compiled:
        without_compiled(monkeypatch)
    x, scale = normal(2, 3, 4), torch.tensor(0.3)
    numbers = ((uniform(2, 3, 4) < 0.5).float() if masked else None, scale, -3.0, 4.0, *bounds)
    torch.library.opcheck(OPERATORS.fake_quantize.default, (x, *numbers))
    quantized, *saved = OPERATORS.fake_quantize.default(x, *numbers)
    assert (saved == [None] * 3) == is_compiled
    values = x if is_compiled else quantized
    torch.library.opcheck(
        OPERATORS.fake_quantize_backward.default, (x, values, *saved, scale, *numbers)
    )


@pytest.mark.parametrize("is_compiled", IMPLEMENTATIONS)
def test_soft_rounding_is_a_torch_operator(
    is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_compiled:
        without_compiled(monkeypatch)
    given = (normal(5, 4), normal(5, 4, seed=1), uniform(5, 4), torch.zeros(5, 1), 15)
    torch.library.opcheck(OPERATORS.soft_rounding.default, given)
    _, *saved = OPERATORS.soft_rounding.default(*given)
    assert (saved == [None] * 2) == is_compiled
    for name, number in (("default", 0.5), ("tensor", torch.tensor(0.5))):
        operator = getattr(OPERATORS.soft_rounding_backward, name)
        for learns_scale in (False, True):
            slope = (number, number, learns_scale)
            torch.library.opcheck(operator, (normal(5, 4), *saved, *given, *slope))


def of_one_step(device: str, dtype: torch.dtype) -> list[Tensor]:
    x = normal(2, 3, 4, 4).to(device, dtype).requires_grad_()
    factor = torch.ones((), device=device, dtype=dtype, requires_grad=True)
    alpha = normal(3, 2).to(device, dtype).requires_grad_()
    constant = uniform(3, 2).to(device, dtype)
    delta = torch.zeros(1, 2, device=device, dtype=dtype, requires_grad=True)  # along axis 1
    scale = torch.full((), 0.3, device=device, dtype=dtype)
    made = fake_quantize(x, factor, scale, scale, (-3.0, 4.0), (0.0, 1.0), None)
    soft = soft_rounding(alpha, constant, constant, delta, 15, (0.5, 2.0))
    (made.sum() + soft.sum()).backward()  # type: ignore[no-untyped-call]
    gradients = [one.grad for one in (x, factor, alpha, delta)]
    return [made, soft, *(one for one in gradients if one is not None)]


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("meta", torch.float32)])
def test_other_numbers_and_devices_are_left_to_torch(device: str, dtype: torch.dtype) -> None:
    assert not compilation.fits(torch.ones(2, dtype=dtype, device=device))
    made = of_one_step(device, dtype)
    assert len(made) == 6
    assert {(one.device.type, one.dtype) for one in made} == {(device, dtype)}


@compiled
def test_both_implementations_agree_on_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = of_one_step("cpu", torch.float32)
    without_compiled(monkeypatch)
    for one, other in zip(ours, of_one_step("cpu", torch.float32), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-5)


def test_strides_are_matched() -> None:
    x = normal(2, 3, 4, 5)
    model = torch.empty_like(x, memory_format=torch.channels_last)
    assert match_strides(x, x) is x
    matched = match_strides(x, model)
    assert matched.stride() == model.stride()
    assert torch.equal(matched, x)
    column = normal(6, 1)  # the stride of an axis of size 1 is never used
    assert match_strides(column, column.as_strided((6, 1), (1, 6))) is column


# A process without kernels.


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    compilation.library.cache_clear()
    yield monkeypatch
    compilation.library.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# What is written is no library: loading it fails as it does in a folder that forbids execution.
NOT_A_LIBRARY = 'while [ "$1" != -o ]; do shift; done; echo text > "$2"'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo no such flag >&2; exit 1", "no such flag"),
        ("exit 0", "kernels.so"),
        (NOT_A_LIBRARY, "kernels.so"),
    ],
)
def test_a_compiler_that_fails_is_one_warning(
    text: str, reason: str, uncompiled: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uncompiled.setenv("CC", script(tmp_path / "compiler", text))
    with pytest.warns(RuntimeWarning, match=reason) as found:
        assert not compilation.fits(torch.ones(2))
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not compilation.fits(torch.ones(2))
        assert not compilation.are_loaded()
        assert len(of_one_step("cpu", torch.float32)) == 6


def test_nowhere_to_compile(uncompiled: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uncompiled.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.warns(RuntimeWarning, match="absent"):
        assert compilation.library() is None


@compiled
@pytest.mark.parametrize("compiler", ["CC with an argument", "one without threads"])
def test_other_compilers_will_do(
    compiler: str, uncompiled: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = 'case "$*" in *-fopenmp*) exit 1;; esac; exec cc "$@"'
    own = script(tmp_path / "compiler", text)
    uncompiled.setenv("CC", "cc -g0" if compiler.startswith("CC") else own)
    assert compilation.library() is not None


def record_of_a_run(preset: str) -> mrecg.Record:
    recipe = mrecg.preset(preset, {"reconstruct.steps": 4, "reconstruct.batch_size": 8})
    return mrecg.quantize(toys.make("residual"), toys.images(32), recipe=recipe).record


def test_nothing_needs_a_compiler(uncompiled: pytest.MonkeyPatch) -> None:
    """An empty CC asks for none, and no warning says so; the same formulas run as torch operators."""
    uncompiled.setenv("CC", "")
    assert not compilation.fits(torch.ones(2))
    assert record_of_a_run("w4a4-qdrop").environment["kernels"] == "torch"


@compiled
def test_a_record_says_which_kernels_ran() -> None:
    assert record_of_a_run("w4a4-brecq").environment["kernels"] == "native"
