"""Losses: the ones that reconstruction minimizes and the ones that a record reports."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrecg.quantizers import kernels

__all__ = ["SMALLEST_POWER", "loss_and_slopes", "reconstruction_loss", "signal_power"]

SMALLEST_POWER = 1e-12
"""Smallest denominator of a relative loss."""

_mse_loss_backward = torch.ops.aten.mse_loss_backward.grad_input
_MEAN = 1
"""What torch's operators call the reduction of `mse_loss`."""


def reconstruction_loss(
    output: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], channels: int
) -> Float[Tensor, ""]:
    """Return `Σ_c |y_q − y|²` over the channels, averaged over images and positions (BRECQ, eq. 10 without the Fisher weights)."""
    return cast(Tensor, _MeanSquare.apply(output, target)) * channels  # type: ignore[no-untyped-call]


class _MeanSquare(torch.autograd.Function):
    """`mse_loss` with a gradient in the memory order of the output.

    torch's is contiguous. Added to one that is channels last, it slows down every pass over memory behind it.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(output, target)
        return functional.mse_loss(output, target)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        output, target = ctx.saved_tensors
        of_output = torch.empty_like(output)
        _mse_loss_backward(gradients[0], output, target, _MEAN, grad_input=of_output)
        return of_output, None


@torch.no_grad()
def loss_and_slopes(
    outputs: Sequence[Float[Tensor, "..."]],
    targets: Sequence[Float[Tensor, "..."]],
    channels: Sequence[int],
    inside: Sequence[Float[Tensor, "b 1 h w"] | None] | None = None,
) -> tuple[Float[Tensor, ""], list[Float[Tensor, "..."]]]:
    """Return the sum of `reconstruction_loss` over pairs, and its gradient with respect to each output.

    Args:
        outputs: as the units made them.
        targets: may be overwritten with the gradients, which saves memory and time.
        channels: of each.
        inside: for each output 1 where a position counts and 0 where not; without it all positions count.
    """
    loss = torch.zeros((), device=outputs[0].device)
    parts, slopes = inside or [None] * len(outputs), []
    for output, target, count, part in zip(outputs, targets, channels, parts, strict=True):
        compared = output.numel() if part is None else part.sum() * output.shape[1]
        error, slope = kernels.squared_error(output, target, count / compared, part)
        loss += error
        slopes.append(slope)
    return loss, slopes


def signal_power(target: Float[Tensor, "..."], channels: int) -> Float[Tensor, ""]:
    """Return the same measure of the target itself, to which a loss is relative."""
    return target.square().mean() * channels
