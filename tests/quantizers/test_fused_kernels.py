"""The Triton kernels compute what the torch operators do: on a CUDA device, else in Triton's interpreter, where Triton is installed."""

import importlib.util
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mrecg.optimize.adam import Adam
from mrecg.quantizers.kernels import (
    Slope,
    compilation,
    fake_quantize,
    formulas,
    fused,
    soft_rounding,
)

IS_INSTALLED = importlib.util.find_spec("triton") is not None
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
runs = pytest.mark.skipif(
    not IS_INSTALLED or not (IS_INTERPRETED or torch.cuda.is_available()),
    reason="needs Triton, and a CUDA device or Triton's interpreter",
)
installed = pytest.mark.skipif(not IS_INSTALLED or IS_INTERPRETED, reason="needs Triton")
OF_ADAM = {"beta1": 0.9, "beta2": 0.999, "log_beta1": -0.1, "log_beta2": -0.001, "eps": 1e-8}
POINTERS = dict.fromkeys(("strength", "exponent"), "*fp32")
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not dense": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x),
}


@installed
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the device")
def test_kernels_run_in_the_interpreter() -> None:
    """In a process of its own: Triton decides at import whether it compiles."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", __file__]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


@pytest.fixture
def by_both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[Tensor]]]:
    """Call a function by the kernels, then by torch's operators."""

    def call(function: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
        found = []
        monkeypatch.setattr(compilation, "fits", lambda tensor: False)
        for by_kernels in (True, False):
            monkeypatch.setattr(fused, "fits", lambda tensor, answer=by_kernels: answer)
            found.append(function())
        return found

    return call


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@runs
@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (0.0, math.inf), (-0.5, 0.75)])
@pytest.mark.parametrize("scale", [0.25, 0.3])
def test_codes_are_those_of_torch(bounds: tuple[float, float], scale: float) -> None:
    """Ties, what is far outside, and what is no number."""
    special = torch.tensor([-1e30, 1e30, math.inf, -math.inf, math.nan, -0.0], device=DEVICE)
    x = torch.cat([torch.arange(-40, 40, device=DEVICE) * 0.125, special, normal(2000)])
    numbers = (torch.tensor(scale, device=DEVICE), -3.0, 4.0, *bounds)
    ours = fused.fake_quantize(x, None, *numbers)
    theirs, *_ = formulas.fake_quantize(x, None, *numbers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@runs
@pytest.mark.parametrize(
    ("layout", "of_gradient"), [(one, one) for one in LAYOUTS] + [("channels last", "contiguous")]
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bounds", [None, (-0.5, 0.75)])
def test_fake_quantization(
    layout: str,
    of_gradient: str,
    masked: bool,
    bounds: tuple[float, float] | None,
    by_both: Callable[..., list[list[Tensor]]],
) -> None:
    values = LAYOUTS[layout](normal(2, 3, 19, 21))  # 2,394 in three blocks
    gradient = LAYOUTS[of_gradient](normal(2, 3, 19, 21, seed=1))
    scale, unit = torch.tensor([0.3, 0.5], device=DEVICE)
    drawn = normal(5000, seed=2) > 0
    keep = drawn.as_strided(values.shape, torch.empty_like(values).stride(), 7) if masked else None

    def quantize() -> list[Tensor]:
        x, factor = values.detach().requires_grad_(), torch.ones_like(unit).requires_grad_()
        made = fake_quantize(x, factor, scale, unit, (-3.0, 4.0), bounds, keep)
        made.backward(gradient)
        assert x.grad is not None
        assert factor.grad is not None
        assert made.stride() == torch.empty_like(values).stride()
        return [made.detach(), x.grad, factor.grad]

    ours, theirs = by_both(quantize)
    assert torch.equal((ours[0] / scale).round(), (theirs[0] / scale).round())
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6 if masked else 0)
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-5, atol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(ours, by_both(quantize)[0], strict=True))


@runs
@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_is_computed_in_float32(masked: bool) -> None:
    """And the results are rounded to bfloat16, or cut off by the interpreter; the sum for the scale is of float32."""
    x, gradient = (normal(3000, seed=seed).bfloat16() for seed in (0, 1))
    keep = normal(3000, seed=2) > 0 if masked else None
    scale, unit = torch.tensor([0.3, 0.5], device=DEVICE)
    numbers = (keep, scale, -3.0, 4.0, -0.5, math.inf)
    found, wanted = fused.fake_quantize(x, *numbers), fused.fake_quantize(x.float(), *numbers)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=0)
    ours = fused.fake_quantize_backward(gradient, x, unit, *numbers)
    theirs = fused.fake_quantize_backward(gradient.float(), x.float(), unit, *numbers)
    assert torch.equal(ours[0], theirs[0].bfloat16())
    assert torch.equal(ours[1], theirs[1])


@runs
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squared_errors(layout: str, dtype: torch.dtype) -> None:
    """The gradient has the output's format."""
    output = LAYOUTS[layout](normal(2, 3, 19, 21).to(dtype))
    target = normal(2, 3, 19, 21, seed=1).contiguous(memory_format=torch.channels_last)
    error, slope = fused.squared_error(output, target, 0.01)
    wanted, of_output = formulas.squared_error(output.float(), target.clone(), 0.01, None)
    assert slope.dtype == dtype
    torch.testing.assert_close(error, wanted, rtol=1e-4, atol=0)
    tolerance = (1e-6, 0) if dtype == torch.float32 else (2**-7, 1e-3)
    torch.testing.assert_close(slope.float(), of_output, rtol=tolerance[0], atol=tolerance[1])


@runs
def test_steps_of_adam_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any memory order; and what is no number changes nothing."""
    monkeypatch.setattr(fused, "fits", lambda tensor: True)
    shapes = ((5, 3, 9, 9), (1,), (), (4, 6))
    ours, theirs = ([normal(*shape).requires_grad_() for shape in shapes] for _ in range(2))
    ours[0].data = LAYOUTS["channels last"](ours[0].data)
    adam, torchs = Adam(ours), torch.optim.Adam(theirs, lr=0.02)
    rate = torch.tensor(0.02, device=DEVICE)
    for step in range(12):
        for one, other in zip(ours, theirs, strict=True):
            other.grad = normal(*one.shape, seed=step)
            one.grad = other.grad.clone()
        theirs[3].grad = normal(1, 6, seed=step).expand(4, 6)
        ours[3].grad = theirs[3].grad
        if step == 5:
            ours[1].grad, theirs[1].grad = ours[1] * math.nan, theirs[1] * 0
        adam.step(rate)
        torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@runs
@pytest.mark.parametrize("slope", [None, (500.0, 4.0), "tensors"])
@pytest.mark.parametrize("scales", ["per channel", "per tensor", "one number"])
@pytest.mark.parametrize("shape", [(5, 41, 5, 5), (9, 1, 3, 3), (1, 1), (3, 1100)])
def test_soft_rounding(
    slope: Slope | str | None,
    scales: str,
    shape: tuple[int, ...],
    by_both: Callable[..., list[list[Tensor]]],
) -> None:
    values = normal(*shape, seed=1) * 4
    values[0, :3] = torch.tensor([-80.0, 0.0, 60.0], device=DEVICE)[: shape[1], None].view(
        -1, *[1] * (len(shape) - 2)
    )
    if len(shape) == 4:
        values = LAYOUTS["channels last"](values)
    base, span, gradient = normal(*shape), normal(*shape, seed=4).abs(), normal(*shape, seed=2)
    ones = [1] * (len(shape) - 1)
    of_delta = {"per channel": (shape[0], *ones), "per tensor": (1, *ones), "one number": ()}
    penalty = torch.tensor([0.1, 0.0], device=DEVICE).unbind() if slope == "tensors" else slope

    def rounded() -> list[Tensor]:
        alpha = values.detach().clone().requires_grad_()
        delta = (normal(*of_delta[scales], seed=3) * 0.2).requires_grad_()
        made = soft_rounding(alpha, base, span, delta, 15, penalty)
        made.backward(gradient)
        assert alpha.grad is not None
        assert delta.grad is not None
        return [made.detach(), alpha.grad, delta.grad]

    for ours, theirs in zip(*by_both(rounded), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@runs
def test_operators_keep_their_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "fits", lambda tensor: False)
    monkeypatch.setattr(fused, "fits", lambda tensor: True)
    own, scale = torch.ops.mrecg, torch.tensor(0.3, device=DEVICE)
    x, keep = normal(2, 3, 4), normal(2, 3, 4, seed=1) > 0
    numbers = (keep, scale, -3.0, 4.0, -1.0, 0.9)
    torch.library.opcheck(own.fake_quantize.default, (x, *numbers))
    backward = (x, x, None, None, None, scale, *numbers)
    torch.library.opcheck(own.fake_quantize_backward.default, backward)
    given = (normal(5, 4), normal(5, 4, seed=1), normal(5, 4, seed=2), scale.expand(5, 1) + 0, 15)
    torch.library.opcheck(own.soft_rounding.default, given)
    backward = (normal(5, 4, seed=3), None, None, *given, scale, scale, True)
    torch.library.opcheck(own.soft_rounding_backward.tensor, backward)


@runs
@pytest.mark.skipif(IS_INTERPRETED, reason="needs 24 GiB, and a device that is fast")
def test_more_values_than_32_bits_count() -> None:
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("the device has too little memory")
    x = torch.zeros(2**31 + 2000, device=DEVICE)
    x[-1], scale = 0.8, torch.tensor(0.5, device=DEVICE)
    numbers = (scale, -3.0, 4.0, -math.inf, math.inf)
    made = fused.fake_quantize(x, None, *numbers)
    assert (made[-1], made.count_nonzero()) == (1.0, 1)
    of_x, of_factor = fused.fake_quantize_backward(x, x, scale, None, *numbers)
    assert of_x[-1] == x[-1]
    assert of_factor.item() == pytest.approx(0.5 * 0.8 * (2 - 1.6), rel=1e-5)


@installed
def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """What the interpreter does not see: types. Division is exact, and no sum depends on the order of programs."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mrecg.quantizers.kernels import triton_kernels

    floats = [
        "lowest",
        "highest",
        "floor",
        "ceiling",
        "per_level",
        "strength",
        "exponent",
        "weight",
    ]
    numbers = {"size": "i64", "stride": "i32"} | dict.fromkeys(floats, "fp32")
    stored = ("x", "gradient", "quantized", "of_x", "output", "slope")  # in fewer bits, perhaps
    for name, by_pointer in itertools.product(triton_kernels.__all__, (False, True)):
        kernel = getattr(triton_kernels, name)
        constants = {"block": fused.BLOCK, "penalized": True, "by_pointer": by_pointer} | OF_ADAM
        constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
        given = {"keep": "*i1"} | (POINTERS if by_pointer else {})
        if by_pointer and not name.startswith(("soft", "adam")):
            given |= dict.fromkeys(stored, "*bf16")
        types = {key: numbers.get(key, "*fp32") for key in kernel.arg_names} | given
        types = {key: kind for key, kind in types.items() if key in kernel.arg_names}
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
        code = compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
        assert ("div.rn.f32" in code) == name.startswith("fake_quantize")
        assert "atom" not in code


@pytest.fixture
def untried() -> Iterator[None]:
    fused.are_ready.cache_clear()
    yield
    fused.are_ready.cache_clear()


@pytest.mark.usefixtures("untried")
def test_a_triton_that_fails_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no headers")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(fused, "_kernels", fail)
    with pytest.warns(RuntimeWarning, match="Triton could not be compiled and run") as found:
        assert not fused.are_ready()
    assert len(found) == 1
    assert not fused.are_ready()  # without another one, which would be an error
    monkeypatch.setenv("CC", "")
    fused.are_ready.cache_clear()
    assert not fused.are_ready()
