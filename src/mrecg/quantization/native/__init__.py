"""The element-wise parts of a tuning step as C, in one pass over memory each, where a C compiler is at hand.

`kernels.c` is compiled when it is needed first, which takes a quarter of a second. Without a compiler, or on another device,
the same formulas run as torch operators, in several passes.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["FakeQuantize", "SoftRounding", "fits", "kernels", "lie_in_rows", "like"]

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
"""The last two are what it takes to vectorise: no error number, no floating-point traps."""
PART = 16384
"""Values that a sum is taken over at once, as in `kernels.c`."""

_POINTER, _FLOAT, _LONG = ctypes.c_void_p, ctypes.c_float, ctypes.c_long
_ARGUMENTS: dict[str, list[Any]] = {
    "fake_quantize": [_LONG, *[_POINTER] * 3, *[_FLOAT] * 4, _POINTER],
    "fake_quantize_backward": [_LONG, *[_POINTER] * 3, *[_FLOAT] * 4, *[_POINTER] * 3],
    "soft_rounding": [*[_LONG] * 3, *[_FLOAT] * 3, *[_POINTER] * 5],
    "soft_rounding_backward": [
        *[*[_LONG] * 3, *[_FLOAT] * 3, *[_POINTER] * 5],
        *[_FLOAT, _FLOAT, _POINTER, _POINTER],
    ],
}


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or `None` where they cannot be compiled."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), *COMPILERS))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        command = [
            compiler,
            *FLAGS,
            "-shared",
            "-fPIC",
            str(SOURCE),
            "-o",
            str(library),
            "-lm",
        ]
        try:
            subprocess.run(command, check=True, capture_output=True)
            loaded = ctypes.CDLL(str(library))
        except (OSError, subprocess.CalledProcessError):
            return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_int, *arguments]
        function.restype = None
    loaded.fake_quantize_backward.restype = ctypes.c_float
    return loaded


def fits(tensor: Tensor) -> bool:
    """Whether a tensor is one that the kernels take: float32, in the memory of the host."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and kernels() is not None


def _call(name: str, *arguments: Any) -> Any:
    """Run a kernel on tensors and numbers with as many threads as torch uses."""
    given = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
    return getattr(kernels(), name)(torch.get_num_threads(), *given)


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` with its values in the memory order of `model`."""
    if tensor.stride() == model.stride():
        return tensor
    return torch.empty_like(model).copy_(tensor)


class FakeQuantize(torch.autograd.Function):
    """What `_FakeQuantize` of `activation.py` computes of a tensor that is clipped to `bounds` first."""

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
        sums = torch.empty(-(-x.numel() // PART))
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
        slopes = torch.empty(len(logits))
        _call(
            "soft_rounding_backward",
            *(*ctx.numbers, logits, base, span, growth, gradient, *ctx.penalty, slope, slopes),
        )
        of_growth = slopes.sum() if growth.numel() == 1 else slopes
        return slope, None, None, of_growth.view_as(growth), *[None] * 4


def lie_in_rows(weight: Tensor, growth: Tensor) -> bool:
    """Whether a dense weight's axis 0 is outermost in memory, and a growth is for all of it or along that axis."""
    return weight.stride(0) * len(weight) == weight.numel() and growth.numel() in (1, len(growth))
