"""Hard weights that are learned further: their scales alone, or their codes, too."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers.adaround import LearnedScale
from mrecg.quantizers.grid import SMALLEST_SCALE, Grid, Scaling
from mrecg.quantizers.weight import WeightState

__all__ = ["LatentCodes", "LearnedWeight", "ScaledCodes"]

_hardtanh_backward = torch.ops.aten.hardtanh_backward.default


class LearnedWeight(ABC):
    """A quantized weight while something of it is learned."""

    @abstractmethod
    def weight(self) -> Float[Tensor, "..."]:
        """Return the quantized weight, differentiable in what is learned."""

    @abstractmethod
    def current(self) -> WeightState:
        """Return the state as it is now."""


@final
@dataclass(frozen=True)
class ScaledCodes(LearnedWeight):
    """A weight whose codes stay while its scales are learned.

    Attributes:
        state: where learning starts.
        values: its real values.
        scale: the variable.
    """

    state: WeightState
    values: Float[Tensor, "..."]
    scale: LearnedScale

    def weight(self) -> Float[Tensor, "..."]:
        return self.values * self.scale.factor()

    def current(self) -> WeightState:
        return WeightState(self.state.codes, self.scale.current())


@final
@dataclass(frozen=True)
class LatentCodes(LearnedWeight):
    """A weight whose codes are learned as real numbers that are rounded in every step, together with its scales.

    Attributes:
        latent: the variable, in code units, in the shape of the weight.
        factor: the variable by which the scales grow, 1 at first, one per scale.
        scaling: where the scales start.
        grid: the codes.
    """

    latent: nn.Parameter
    factor: nn.Parameter
    scaling: Scaling
    grid: Grid

    @classmethod
    @torch.no_grad()
    def start(cls, weight: Float[Tensor, "..."], state: WeightState, grid: Grid) -> "LatentCodes":
        """Return latents half-way between the hard codes and the float weight.

        Their codes are the hard ones: as the rounding learned them, at most one from the float weight.
        """
        codes, scaling = state
        exact = (weight / scaling.scale + scaling.zero_point).clamp(grid.low, grid.high)
        # A learned rounding can be a whole code away, and half of that would be a tie.
        half = (0.5 * (exact - codes)).clamp(-0.49, 0.49)
        return cls(
            nn.Parameter(codes + half), nn.Parameter(torch.ones_like(scaling.scale)), scaling, grid
        )

    def weight(self) -> Float[Tensor, "..."]:
        """Return the quantized weight; gradients pass the rounding, and stop outside the grid."""
        numbers = (self.scaling.scale, self.scaling.zero_point, self.grid.low, self.grid.high)
        return cast(Tensor, _Rounded.apply(self.latent, self.factor, *numbers))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def current(self) -> WeightState:
        """Return the state as it is now."""
        codes = torch.round(self.latent.clamp(self.grid.low, self.grid.high))
        scale = (self.scaling.scale * self.factor).clamp(min=SMALLEST_SCALE)
        return WeightState(codes, Scaling(scale, self.scaling.zero_point))


class _Rounded(torch.autograd.Function):
    """The values of rounded latents, by hand: a layer of a small network is little work, and autograd's bookkeeping half of it."""

    @staticmethod
    def forward(
        ctx: Any,
        latent: Tensor,
        factor: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        low: int,
        high: int,
    ) -> Tensor:
        codes = torch.clamp(latent, low, high).round_().sub_(zero_point)
        grown = scale * factor
        ctx.save_for_backward(latent, codes, grown, scale)
        ctx.limits = low, high
        return codes * grown

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        latent, codes, grown, scale = ctx.saved_tensors
        of_latent = _hardtanh_backward(gradients[0] * grown, latent, *ctx.limits)
        of_factor = (gradients[0] * codes).sum_to_size(scale.shape).mul_(scale)
        return of_latent, of_factor, None, None, None, None
