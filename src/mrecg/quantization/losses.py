"""What a reconstruction minimises, and what a record reports."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["reconstruction_loss", "signal_power"]


def reconstruction_loss(
    output: Float[Tensor, "n c ..."], target: Float[Tensor, "n c ..."]
) -> Float[Tensor, ""]:
    """`Σ_c |y_q − y|²`, averaged over images and positions (BRECQ, eq. 10 without the Fisher weights).

    Channels are axis 1 of feature maps and the last axis of tokens and vectors.
    """
    channels = output.shape[1] if output.ndim == 4 else output.shape[-1]
    return functional.mse_loss(output, target) * channels


def signal_power(target: Float[Tensor, "n c ..."]) -> Float[Tensor, ""]:
    """The same measure of the target itself, to which a loss is relative."""
    channels = target.shape[1] if target.ndim == 4 else target.shape[-1]
    return target.square().mean() * channels
