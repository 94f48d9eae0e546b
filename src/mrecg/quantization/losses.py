"""What a reconstruction minimises, and what a record reports."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["loss_and_slopes", "reconstruction_loss", "signal_power"]


def reconstruction_loss(
    output: Float[Tensor, "n c ..."], target: Float[Tensor, "n c ..."]
) -> Float[Tensor, ""]:
    """`Σ_c |y_q − y|²`, averaged over images and positions (BRECQ, eq. 10 without the Fisher weights).

    Channels are axis 1 of feature maps and the last axis of tokens and vectors.
    """
    return functional.mse_loss(output, target) * _channels(output)


@torch.no_grad()
def loss_and_slopes(
    outputs: Sequence[Float[Tensor, "..."]], targets: Sequence[Float[Tensor, "..."]]
) -> tuple[Float[Tensor, ""], list[Float[Tensor, "..."]]]:
    """The sum of `reconstruction_loss` over pairs, and its gradient with respect to each output.

    Args:
        outputs: as the units made them.
        targets: are overwritten with the gradients, which saves memory and time.
    """
    loss = torch.zeros((), device=outputs[0].device)
    for output, target in zip(outputs, targets, strict=True):
        torch.sub(output, target, out=target)
        weight = _channels(output) / output.numel()
        rows = target.permute(0, 2, 3, 1).reshape(-1) if target.ndim == 4 else target.view(-1)
        loss += weight * torch.dot(rows, rows)
        target.mul_(2 * weight)
    return loss, list(targets)


def signal_power(target: Float[Tensor, "n c ..."]) -> Float[Tensor, ""]:
    """The same measure of the target itself, to which a loss is relative."""
    return target.square().mean() * _channels(target)


def _channels(values: Tensor) -> int:
    return values.shape[1] if values.ndim == 4 else values.shape[-1]
