"""Compile `kernels.c` when it is needed first, which takes a quarter of a second, and load it.

The compiler is the one that the environment variable CC names, else `cc`, `gcc` or `clang`; an empty CC means none. Without
kernels, torch's operators compute the same in several passes over memory; a warning says so once, unless CC asked for it.
"""

import ctypes
import os
import shlex
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrecg.quantizers.kernels.formulas import INSIDE, SMALLEST_SQUARE

__all__ = ["PART", "are_loaded", "fits", "library", "loaded"]

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
PART = 16384
"""Values that a sum is taken over at once, so that it does not depend on the number of threads."""
_CONSTANTS = {
    "PART": PART,
    "LOWEST": INSIDE[0],
    "HIGHEST": INSIDE[1],
    "SMALLEST_SQUARE": SMALLEST_SQUARE,
}
FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *(f"-D{name}={value!r}" for name, value in _CONSTANTS.items()),
)
"""Loops are vectorized only where neither an error number nor a floating-point trap is asked for."""
THREADS = ("-fopenmp",)
_LONGEST_COMPILATION = 60  # seconds

_POINTER, _FLOAT, _SIZE = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64
_QUANTIZE = [_SIZE, *[_POINTER] * 3, *[_FLOAT] * 4]
_ROUND = [*[_SIZE] * 3, _FLOAT, *[_POINTER] * 5]
_ARGUMENTS: dict[str, list[Any]] = {
    "fake_quantize": [*_QUANTIZE, _POINTER],
    "fake_quantize_backward": [*_QUANTIZE, *[_POINTER] * 5],
    "soft_rounding": _ROUND,
    "soft_rounding_backward": [*_ROUND, _FLOAT, _FLOAT, _POINTER, _POINTER],
    "grid_errors": [*[_SIZE] * 3, *[_POINTER] * 4, *[_FLOAT] * 3, _POINTER],
}


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or `None` where they cannot be compiled or loaded, with one warning."""
    reason = None
    for command in _commands():
        try:
            return _compiled(command)
        except subprocess.CalledProcessError as error:
            message = error.stderr.decode(errors="replace").strip().splitlines()
            reason = f"{command[0]}: {message[-1] if message else error}"
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            reason = str(error)
    if reason is not None:
        warnings.warn(
            "The kernels in C could not be compiled and loaded, so torch's operators compute instead, which takes longer "
            f"({reason}); install a C compiler, name one in CC, or set CC to nothing if this is meant.",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def _compiled(command: list[str]) -> ctypes.CDLL:
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
        # Refused where the temporary folder forbids execution.
        return _declared(ctypes.CDLL(library))


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
    return library


def are_loaded() -> bool:
    """Return whether this process has needed the kernels and has them."""
    return library.cache_info().currsize > 0 and library() is not None


def fits(tensor: Tensor) -> bool:
    """Return whether the kernels take a tensor of the CPU: float32 numbers. Compiles them at the first call."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and library() is not None


def loaded() -> Any:
    """Return the compiled kernels as functions of numbers and addresses, for tensors that they take."""
    compiled = library()
    assert compiled is not None, "no kernels"
    return compiled
