"""Steps that a GPU repeats by itself: launching the kernels of a small step takes longer than the kernels."""

from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mrecg.cache.stored import copy_to_device
from mrecg.errors import reason_of
from mrecg.optimize.schedule import ScheduledValues
from mrecg.optimize.step import Batch, Drawn, Step

__all__ = ["CudaGraph", "Recorder", "ReplayedStep"]

_NO_SLOPE = (0.0, 0.0)
WARM_UP = 3
"""Steps before the recorded one, in which libraries choose kernels and workspaces, and Adam its moments."""


@runtime_checkable
class Recorder(Protocol):
    """Repeats what a function did to memory."""

    def run(self, function: Callable[[], None]) -> None:
        """Call a function under the conditions of `record`."""

    def record(self, function: Callable[[], None]) -> None:
        """Record what a function does, without doing it."""

    def replay(self) -> None:
        """Repeat what was recorded."""


class CudaGraph:
    """Records a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph, self._stream = torch.cuda.CUDAGraph(), _recording_stream(device)

    def run(self, function: Callable[[], None]) -> None:
        # On the stream that records: libraries keep a workspace for every stream.
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            function()
        usual.wait_stream(self._stream)

    def record(self, function: Callable[[], None]) -> None:
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(self._graph, stream=self._stream),
        ):
            function()

    def replay(self) -> None:
        self._graph.replay()


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class ReplayedStep:
    """Called like a `Step`; after the first few calls one is recorded, and repeated from then on.

    A graph repeats the same kernels on the same memory with the same numbers. So all that changes from call to call is
    copied into fixed tensors first: the scheduled values, the masks, and the numbers of the batch's images, whose activations the
    graph reads by itself. Windows, and activations that are not on the device, are read before and copied, too.

    A network may do what a graph cannot hold, such as reading a value on the host, and a graph's memory is its own. Then steps
    are taken as they are.

    Args:
        step: takes tensors as scheduled values.
        recorder: has recorded nothing yet.
        tell: is given a line where steps cannot be recorded.
    """

    def __init__(self, step: Step, recorder: Recorder, tell: Callable[[str], None]) -> None:
        self._step, self._tell = step, tell
        self._recorder: Recorder | None = recorder
        self._batch: Batch | None = None
        self._calls = 0
        if step.mask is not None:
            step.mask.hold()

    def __call__(self, drawn: Drawn, scheduled: ScheduledValues) -> Tensor:
        """Take the step; return its loss, which the next call overwrites."""
        if self._recorder is not None:
            try:
                return self._replay(self._recorder, drawn, scheduled)
            except RuntimeError as error:
                if self._calls > WARM_UP:
                    raise
                self._give_up(reason_of(error))
        return self._step(drawn, scheduled)

    def _give_up(self, reason: str) -> None:
        """Leave step, mask and memory as if nothing had been held for a graph."""
        self._recorder = self._batch = None
        for one in self._step.variables:
            one.grad = None
        if self._step.mask is not None:
            self._step.mask.release()
        self._tell(f"steps run one by one, because a CUDA graph cannot hold them: {reason}")

    def _replay(self, recorder: Recorder, drawn: Drawn, scheduled: ScheduledValues) -> Tensor:
        if self._calls == 0:
            self._hold(drawn, scheduled)
        self._fill(drawn, scheduled)
        if self._calls < WARM_UP:
            recorder.run(self._take)
        else:
            if self._calls == WARM_UP:
                recorder.record(self._take)
            recorder.replay()
        self._calls += 1
        return self._loss

    def _hold(self, drawn: Drawn, scheduled: ScheduledValues) -> None:
        """Make the tensors that change from call to call."""
        device = self._step.variables[0].device
        self._chosen = torch.empty_like(drawn.chosen, device=device)
        if drawn.windows is not None or not self._step.reader.is_on_device:
            self._batch = self._step.reader.read(drawn)
        size = len(_NO_SLOPE) + len(scheduled.rates)
        self._scheduled = torch.empty(size, dtype=torch.float32, device=device)

    def _fill(self, drawn: Drawn, scheduled: ScheduledValues) -> None:
        if self._batch is None:
            self._chosen.copy_(copy_to_device(drawn.chosen, self._chosen.device))
        else:
            for held, given in zip(self._batch, self._step.reader.read(drawn), strict=True):
                for name, values in given.items():
                    held[name].copy_(values)
        numbers = [*(scheduled.slope or _NO_SLOPE), *scheduled.rates]
        now = torch.tensor(numbers, dtype=torch.float32)
        self._scheduled.copy_(copy_to_device(now, self._scheduled.device))
        if self._step.mask is not None:
            self._step.mask.redraw()

    def _take(self) -> None:
        strength, exponent, *rates = self._scheduled.unbind()
        scheduled = ScheduledValues((strength, exponent), tuple(rates))
        batch = self._batch or self._step.reader.read(Drawn(self._chosen))
        self._loss = self._step.take(batch, scheduled)
