"""The element-wise parts of a tuning step as C, in one pass over memory each, where a C compiler is at hand.

`kernels.c` is compiled when it is needed first, which takes a quarter of a second, by the compiler that the environment
variable CC names, or by `cc`, `gcc` or `clang`; an empty CC means none. Without one, on another device, and for numbers and
memory layouts that the kernels do not take, the same formulas run as torch operators, in several passes.
"""

import ctypes
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["FakeQuantize", "SoftRounding", "are_loaded", "fits", "library", "lie_in_rows", "like"]

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
PART = 16384
"""Values that a sum is taken over at once, so that it does not depend on the number of threads."""
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", f"-DPART={PART}")
"""Loops are vectorised only where neither an error number nor a floating-point trap is asked for."""
THREADS = ("-fopenmp",)
_LONGEST_COMPILATION = 60
"""Seconds."""

_POINTER, _FLOAT, _SIZE = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64
_QUANTIZE = [_SIZE, *[_POINTER] * 3, *[_FLOAT] * 4]
_ROUND = [*[_SIZE] * 3, *[_FLOAT] * 3, *[_POINTER] * 5]
_ARGUMENTS: dict[str, list[Any]] = {
    "fake_quantize": [*_QUANTIZE, _POINTER],
    "fake_quantize_backward": [*_QUANTIZE, *[_POINTER] * 3],
    "soft_rounding": _ROUND,
    "soft_rounding_backward": [*_ROUND, _FLOAT, _FLOAT, _POINTER, _POINTER],
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or `None` where they cannot be compiled."""
    for command in _commands():
        try:
            # A loaded library outlives its file, but not every file system lets it go.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                library = str(Path(folder) / "kernels.so")
                subprocess.run(
                    [*command, "-shared", "-fPIC", str(SOURCE), "-o", library, "-lm"],
                    check=True,
                    capture_output=True,
                    stdin=subprocess.DEVNULL,
                    timeout=_LONGEST_COMPILATION,
                )
                return _declared(ctypes.CDLL(library))
        except (OSError, subprocess.SubprocessError, AttributeError):
            continue
    return None


def _commands() -> Iterator[list[str]]:
    chosen = os.environ.get("CC")
    compilers = COMPILERS if chosen is None else filter(None, [chosen])
    for compiler in compilers:
        yield [*shlex.split(compiler), *FLAGS, *THREADS]
        yield [*shlex.split(compiler), *FLAGS]


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes = [ctypes.c_int, *arguments]
        function.restype = None
    library.fake_quantize_backward.restype = ctypes.c_float
    return library


def are_loaded() -> bool:
    """Whether this process has needed the kernels and has them."""
    return library.cache_info().currsize > 0 and library() is not None


def fits(tensor: Tensor) -> bool:
    """Whether a tensor is one that the kernels take: float32, in the memory of the host. Compiles them when asked first."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and library() is not None


def _call(name: str, *arguments: Any) -> Any:
    """Run a kernel on tensors and numbers with as many threads as torch uses."""
    given = [_address(one) if isinstance(one, Tensor) else one for one in arguments]
    return getattr(library(), name)(torch.get_num_threads(), *given)


def _address(tensor: Tensor) -> int:
    assert tensor.dtype == torch.float32
    assert tensor.device.type == "cpu"
    return tensor.data_ptr()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` with its values in the memory order of `model`, which is dense."""
    if tensor.stride() == model.stride():
        return tensor
    steps = zip(tensor.shape, tensor.stride(), model.stride(), strict=True)
    if all(size == 1 or own == other for size, own, other in steps):
        return tensor  # nobody takes a step along a single row
    return torch.empty_like(model).copy_(tensor)


class FakeQuantize(torch.autograd.Function):
    """What `_FakeQuantize` of `activation.py` computes, from the same arguments, of a tensor that is clipped to `bounds` first.

    `factor` is an argument because it receives a gradient; its value is in `scale`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bounds: tuple[float, float],
        factor: Tensor,
        scale: Tensor,
        unit: Tensor,
        lowest: float,
        highest: float,
        keep: Tensor | None,
    ) -> Tensor:
        quantized = torch.empty_like(x)
        x = like(x, quantized)  # which is dense
        keep = None if keep is None else like(keep, x)
        numbers = (*bounds, lowest, highest)
        _call("fake_quantize", x.numel(), x, keep, scale, *numbers, quantized)
        ctx.save_for_backward(x, keep, scale, unit)
        ctx.numbers = numbers
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, scale, unit = ctx.saved_tensors
        gradient, passed = like(gradients[0], x), torch.empty_like(x)
        sums = x.new_empty(-(-x.numel() // PART))
        slope = _call(
            "fake_quantize_backward",
            *(x.numel(), x, keep, scale, *ctx.numbers, gradient, passed, sums),
        )
        return passed, None, slope * unit, *[None] * 5


class SoftRounding(torch.autograd.Function):
    """What `LearnedRounding` of `rounding.py` computes where its tensors `lie_in_rows`.

    Its last arguments are the code steps that a growth of 1 is a part of, the bounds of σ, and strength and exponent of
    the penalty's slope `−strength · d · (d²)^exponent` with d = σ − ½; none for a strength of 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        base: Tensor,
        span: Tensor,
        growth: Tensor,
        steps: int,
        bounds: tuple[float, float],
        strength: float,
        exponent: float,
    ) -> Tensor:
        rows = len(logits)
        numbers = (
            rows,
            logits.numel() // rows,
            0 if growth.numel() == 1 else 1,
            1 / steps,
            *bounds,
        )
        soft = torch.empty_like(logits)
        _call("soft_rounding", *numbers, logits, base, span, growth, soft)
        ctx.save_for_backward(logits, base, span, growth)
        ctx.numbers, ctx.penalty = numbers, (strength, exponent)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, base, span, growth = ctx.saved_tensors
        gradient, slope = like(gradients[0], logits), torch.empty_like(logits)
        slopes = logits.new_empty(len(logits))
        _call(
            "soft_rounding_backward",
            *(*ctx.numbers, logits, base, span, growth, gradient, *ctx.penalty, slope, slopes),
        )
        of_growth = slopes.sum() if growth.numel() == 1 else slopes
        return slope, None, None, of_growth.view_as(growth), *[None] * 4


def lie_in_rows(weight: Tensor, growth: Tensor) -> bool:
    """Whether a dense weight's axis 0 is outermost in memory, and a growth is for all of it or along that axis."""
    rows = len(weight)
    outermost = rows > 0 and weight.stride(0) * rows == weight.numel()
    return outermost and (growth.numel() == 1 or len(growth) == growth.numel())
