"""Python numbers that a forward reads off its own tensors: sizes in a buffer, a flag, a scale factor.

torch.export takes every number that is read off a tensor for unknown, and then fails at a size or a branch. Where no image
reaches the tensor, the number is the same in every call. So the model runs once for real, and what it read then is what
tracing reads.
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mrecg.graph.outputs import flatten

__all__ = ["ReadNumbers", "read_numbers"]

_TORCH = Path(torch.__file__).parent
_Line = tuple[str, int]
_READS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "__int__", "__index__", "__bool__", "__float__")
}


def read_numbers(model: nn.Module, inputs: Sequence[Tensor]) -> "ReadNumbers":
    """Run a model and return the numbers that it reads off tensors which no input reaches."""
    # Copies: a forward may change its input in place, and these are the calibration images.
    inputs = [one.clone() for one in inputs]
    recorder = _Recorder(inputs)
    with torch.no_grad(), recorder:
        model(*inputs)
    return ReadNumbers(recorder.numbers)


class ReadNumbers(TorchFunctionMode):
    """Answers a forward that reads numbers with those of an earlier call of it.

    Attributes:
        numbers: by the line of code that reads them, in the order of reading; `None` where a number depends on the images.
    """

    def __init__(self, numbers: Mapping[_Line, Sequence[Any]]) -> None:
        super().__init__()
        self.numbers = {line: itertools.cycle(found) for line, found in numbers.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # A fake tensor makes its list of single numbers.
        if func in _READS and func is not Tensor.tolist:
            number = next(self.numbers.get(_line(), iter(())), None)
            if number is not None:
                return number
        return func(*args, **(kwargs or {}))


class _Recorder(TorchFunctionMode):
    """Notes the numbers that a forward reads, and which memory the images reach."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.numbers: dict[_Line, list[Any]] = {}
        self._kept: list[Tensor] = []
        self._reached: set[int] = set()
        self._mark(inputs)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reached = any(_memory(one) in self._reached for one in _tensors((args, kwargs)))
        result = func(*args, **kwargs)
        if reached:
            self._mark(result)
            if _writes(func) or "out" in kwargs:
                self._mark((args[:1], kwargs.get("out")))
        if func in _READS:
            read = [None if reached else number for number in flatten(result)]
            self.numbers.setdefault(_line(), []).extend(read)
        return result

    def _mark(self, values: Any) -> None:
        found = _tensors(values)
        self._kept += found  # memory that is free again could become a constant's
        self._reached.update(map(_memory, found))


def _line() -> _Line:
    """Return file and line of the innermost caller that is not torch's code, and not this file's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or _TORCH in Path(frame.f_code.co_filename).parents
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in flatten(values) if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _writes(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    in_place = name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")
    return name == "__setitem__" or in_place or (name.endswith("_") and not name.endswith("__"))
