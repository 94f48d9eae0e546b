"""Take away, one at a time, what makes a step fast and what makes a run short or accurate."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.accuracy.choices import CHOICES
from mrecg.cache.stored import CachedActivation
from mrecg.graph import extract
from mrecg.optimize import group, network
from mrecg.optimize.adam import Adam
from mrecg.preparation import prepared_graph
from mrecg.quantizers import kernels
from mrecg.quantizers.kernels import GAMMA, ZETA, compilation, fused

__all__ = ["ABLATIONS", "without"]


def _composed_quantizer(
    x: Tensor,
    factor: Tensor,
    scale: Tensor,
    unit: Tensor,
    limits: tuple[float, float],
    bounds: tuple[float, float] | None,
    keep: Tensor | None,
) -> Tensor:
    """LSQ's fake quantizer of differentiable operators."""
    x = torch.nn.functional.hardtanh(x, *bounds) if bounds else x
    scale = unit * factor
    ratio = x / scale
    rounded = ratio + (ratio.round() - ratio).detach()
    quantized = rounded.clamp(*limits) * scale
    return quantized if keep is None else torch.lerp(x, quantized, keep)


def _composed_rounding(
    alpha: Tensor,
    base: Tensor,
    span: Tensor,
    scale_delta: Tensor,
    levels: int,
    slope: tuple[float, float] | None,
) -> Tensor:
    """AdaRound of differentiable operators, the penalty's slope included."""
    h = torch.clamp(torch.sigmoid(alpha) * 1.2 - 0.1, 0, 1)
    sigmoid = (h - GAMMA) / (ZETA - GAMMA)
    soft = (base + sigmoid * span) * (1 + scale_delta / levels)
    if slope is None:
        return soft
    strength, exponent = slope
    beta = 2 * (exponent + 1)
    value = strength / (beta * 2.4**beta) * (1 - (2 * h - 1).abs().pow(beta)).sum()
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
        for options, rate in zip(self._adam.param_groups, rates, strict=True):
            options["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()


def _write_as_it_is(self: CachedActivation, first: int, values: Tensor) -> None:
    self._put(first, values.detach().reshape(len(values), self._row))


def _batch_as_it_is(self: CachedActivation, rows: Tensor) -> Tensor:
    return rows.to(self._device, torch.float32).view(-1, *self.shape[1:])


ABLATIONS: dict[str, list[tuple[object, str, object]]] = {
    "channels-last": [
        (prepared_graph, "set_memory_format", lambda module, memory_format: module),
        (CachedActivation, "write", _write_as_it_is),
        (CachedActivation, "_as_batch", _batch_as_it_is),
    ],
    "native-kernels": [(owner, "fits", lambda tensor: False) for owner in (compilation, fused)],
    "hand-written-gradients": [
        (kernels, "fake_quantize", _composed_quantizer),
        (kernels, "soft_rounding", _composed_rounding),
    ],
    "fused-clipping": [(extract, "find_fusable_clips", lambda piece, outputs, clipping: {})],
    "adam-gathered-once": [(group, "Adam", _GatheringAdam), (network, "Adam", _GatheringAdam)],
    "calibrated-image-scale": [(prepared_graph, "IMAGE_BITS", 99)],
}
"""What makes a step fast, by name: what is replaced, and by what."""


@contextlib.contextmanager
def without(name: str | None) -> Iterator[None]:
    """Take one of them away."""
    with contextlib.ExitStack() as stack:
        if name is not None and name not in {*ABLATIONS, *CHOICES}:
            raise KeyError(name)
        for owner, attribute, replacement in ABLATIONS.get(name or "", []):
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield
