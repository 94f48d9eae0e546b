"""Take away, one at a time, what makes a step fast and what makes a run short or accurate."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.accuracy.choices import CHOICES
from mrecg import pipeline
from mrecg.cache import storage
from mrecg.optimize import group as tune
from mrecg.optimize import network
from mrecg.optimize.adam import Adam
from mrecg.optimize.groups import reconstruct
from mrecg.prepare import prepared_model as assembly
from mrecg.quantizers import adaround as rounding
from mrecg.quantizers import kernels
from mrecg.quantizers import lsq as activation

__all__ = ["ABLATIONS", "without"]


def _composed_quantizer(
    x: Tensor,
    factor: Tensor,
    scale: Tensor,
    unit: Tensor,
    lowest: float,
    highest: float,
    keep: Tensor | None,
) -> Tensor:
    """LSQ's fake quantizer of differentiable operators."""
    scale = unit * factor
    ratio = x / scale
    rounded = ratio + (ratio.round() - ratio).detach()
    quantized = rounded.clamp(lowest, highest) * scale
    return quantized if keep is None else torch.lerp(x, quantized, keep)


def _composed_rounding(
    self: rounding.LearnedRounding, penalty: rounding.Penalty | None = None
) -> Tensor:
    """AdaRound of differentiable operators, the penalty's slope included."""
    h = torch.clamp(torch.sigmoid(self.logits) * 1.2 - 0.1, 0, 1)
    sigmoid = (h - rounding.GAMMA) / (rounding.ZETA - rounding.GAMMA)
    soft = (self.base + sigmoid * self.span) * self.range.factor()
    if penalty is None:
        return soft
    value = penalty.strength * (1 - (2 * h - 1).abs().pow(penalty.beta)).sum()
    added: Tensor = _WithPenalty.apply(soft, value)  # type: ignore[no-untyped-call]
    return added


class _WithPenalty(torch.autograd.Function):
    """Passes `soft` and lets the penalty receive a slope of one, as if it were added to the objective."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, penalty: Tensor) -> Tensor:
        return soft.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], torch.ones((), device=gradients[0].device)


class _GatheringAdam(Adam):
    """torch's own class behind the calls of ours."""

    def __init__(self, *groups: Sequence[Tensor]) -> None:
        self._adam = torch.optim.Adam([{"params": list(group)} for group in groups], fused=True)

    def step(self, *rates: float | Tensor) -> None:
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()


def _plain_write(self: storage.Stored, first: int, values: Tensor) -> None:
    self._put(first, values.detach().reshape(len(values), self._row))


def _plain_unfolded(self: storage.Stored, rows: Tensor) -> Tensor:
    return rows.to(self._device, torch.float32).view(-1, *self.shape[1:])


def _from_anew(*arguments: Any) -> Any:
    """`reconstruct` without its last argument: the part of the steps that the plan's run has taken."""
    return reconstruct(*arguments[:7])


ABLATIONS: dict[str, list[tuple[object, str, object]]] = {
    "channels-last": [
        (assembly, "laid_out", lambda module, layout: module),
        (storage.Stored, "write", _plain_write),
        (storage.Stored, "_unfolded", _plain_unfolded),
    ],
    "native-kernels": [(kernels, "fits", lambda tensor: False)],
    "hand-written-gradients": [
        (kernels, "fits", lambda tensor: False),
        (activation._FakeQuantize, "apply", _composed_quantizer),
        (rounding.LearnedRounding, "forward", _composed_rounding),
    ],
    "fused-clipping": [(assembly, "fuse_clipping", lambda graph, units: None)],
    "adam-gathered-once": [(tune, "Adam", _GatheringAdam), (network, "Adam", _GatheringAdam)],
    "calibrated-image-step": [(assembly, "IMAGE_BITS", 99)],
}
"""What makes a step fast, by name: what is replaced, and by what."""
_OF_RUNS: dict[str, list[tuple[object, str, object]]] = {
    "pre-run": [(pipeline, "reconstruct", _from_anew)],
}


@contextlib.contextmanager
def without(name: str | None) -> Iterator[None]:
    """Take one of them away."""
    with contextlib.ExitStack() as stack:
        if name is not None and name not in {*ABLATIONS, *CHOICES}:
            raise KeyError(name)
        for owner, attribute, replacement in (ABLATIONS | _OF_RUNS).get(name or "", []):
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield
