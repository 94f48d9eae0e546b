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

__all__ = ["PART", "are_loaded", "call", "fits", "library"]

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


def call(name: str, *arguments: Any) -> Any:
    """Run a kernel on tensors and numbers with as many threads as torch uses."""
    given = [_address(one) if isinstance(one, Tensor) else one for one in arguments]
    return getattr(library(), name)(torch.get_num_threads(), *given)


def _address(tensor: Tensor) -> int:
    assert tensor.dtype == torch.float32
    assert tensor.device.type == "cpu"
    return tensor.data_ptr()
