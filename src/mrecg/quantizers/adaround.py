"""Learned rounding (AdaRound: Nagel et al., ICML 2020) and learned weight scales (Genie: Jeon et al., CVPR 2023)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers import kernels
from mrecg.quantizers.grid import SMALLEST_SCALE, Grid, RoundingNeighbors, Scaling
from mrecg.quantizers.kernels import GAMMA, ZETA, Slope

__all__ = ["LearnedRounding", "LearnedScale", "Penalty", "beta_at", "rectified_sigmoid"]

UNDECIDED_MARGIN = 0.05
"""A rounding counts as undecided while h(V) is further than this from both 0 and 1."""

RESUME_OFFSET = 0.15
"""Distance of h(V) from 0 or 1 where learning continues from a hard code: at 0 and 1 the gradient vanishes."""


def rectified_sigmoid(alpha: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return h(V) = clip(σ(V)(ζ − γ) + γ, 0, 1) (AdaRound, eq. 23)."""
    return (torch.sigmoid(alpha) * (ZETA - GAMMA)).add_(GAMMA).clamp_(0, 1)


class Penalty(NamedTuple):
    """The rounding penalty `λ Σ (1 − |2h(V) − 1|^β)`, which is 0 when every rounding is decided (AdaRound, eq. 24).

    Attributes:
        strength: λ.
        beta: β.
    """

    strength: float
    beta: float

    def slope(self) -> tuple[float, float]:
        """Return c and e of the penalty's slope −c · d · (d²)^e with respect to σ.

        With d = σ − ½, 2h − 1 = 2 (ζ − γ) d.
        """
        return self.strength * self.beta * (2 * (ZETA - GAMMA)) ** self.beta, self.beta / 2 - 1


@dataclass(frozen=True)
class LearnedScale:
    """`s' = s · (1 + delta / (high − low))`: the scale of each channel changes, its codes stay.

    Attributes:
        delta: the variable, in code units, one per scale, 0 at first. So one learning rate suits every width: at 8 bits
            a scale that is off by a percent would cost more than the rounding.
        scaling: where it starts.
        levels: `high − low`.
    """

    delta: nn.Parameter
    scaling: Scaling
    levels: int

    @classmethod
    def start(cls, scaling: Scaling, grid: Grid) -> "LearnedScale":
        """Return the variable at the scale as it is."""
        return cls(nn.Parameter(torch.zeros_like(scaling.scale)), scaling, grid.high - grid.low)

    def factor(self) -> Float[Tensor, "..."]:
        """Return the factor on every value, differentiable in `delta`."""
        return 1 + self.delta / self.levels

    @torch.no_grad()
    def current(self) -> Scaling:
        """Return the scaling as it is now."""
        scale = (self.scaling.scale * self.factor()).clamp(min=SMALLEST_SCALE)
        return Scaling(scale, self.scaling.zero_point)


@dataclass(frozen=True)
class LearnedRounding:
    """`W_q = value(below) + h(V) · gap` between two neighbors on a grid.

    On a uniform grid that is `s' · (clip(⌊W/s⌋ + h(V) + z, low, high) − z)`: AdaRound, eq. 22–24. Learning the scale
    while the integers ⌊W/s⌋ stay is Genie's.

    Attributes:
        alpha: V, one per weight.
        below: the lower code of each weight.
        base, span: the soft weight is `base + span · σ(V)` while h(V) is between 0 and 1; span is 0 outside the grid.
        scale: the learned scale s'.
    """

    alpha: nn.Parameter
    below: Float[Tensor, "..."]
    base: Float[Tensor, "..."]
    span: Float[Tensor, "..."]
    scale: LearnedScale

    @classmethod
    def start(cls, neighbors: RoundingNeighbors, scaling: Scaling, grid: Grid) -> "LearnedRounding":
        """Return variables whose soft weight is where `neighbors.fraction` says."""
        fraction = neighbors.fraction.clamp(1e-4, 1 - 1e-4)
        stretched = (fraction - GAMMA) / (ZETA - GAMMA)
        alpha = nn.Parameter(torch.log(stretched / (1 - stretched)))
        # With h = (ζ − γ) σ + γ, the weight is `base + span · σ`.
        base = neighbors.value + GAMMA * neighbors.gap
        span = (ZETA - GAMMA) * neighbors.gap
        return cls(
            alpha,
            neighbors.below,
            kernels.match_strides(base, alpha),
            kernels.match_strides(span, alpha),
            LearnedScale.start(scaling, grid),
        )

    @classmethod
    @torch.no_grad()
    def resume(
        cls,
        neighbors: RoundingNeighbors,
        scaling: Scaling,
        grid: Grid,
        codes: Float[Tensor, "..."],
        learned: Scaling,
    ) -> "LearnedRounding":
        """Return variables close to hard `codes` at a `learned` scale, open enough to change again."""
        up = codes > neighbors.below
        fraction = torch.where(up, 1 - RESUME_OFFSET, RESUME_OFFSET)
        rounding = cls.start(neighbors._replace(fraction=fraction), scaling, grid)
        scale = rounding.scale
        scale.delta.copy_((learned.scale / scale.scaling.scale - 1) * scale.levels)
        return rounding

    def soft_weight(self, slope: Slope | None = None) -> Float[Tensor, "..."]:
        """Return the softly rounded weight; its backward pass adds a penalty's slope to the gradient of `alpha`.

        The value of the penalty is not computed: nothing reads it.
        """
        return kernels.soft_rounding(
            self.alpha,
            self.base,
            self.span,
            self.scale.delta,
            self.scale.levels,
            slope,
        )

    @torch.no_grad()
    def count_undecided(self) -> int:
        """Return how many roundings are undecided; a weight outside the grid has one code either way and never is."""
        distance = (rectified_sigmoid(self.alpha) - 0.5).abs()
        return int(((self.span > 0) & (distance < 0.5 - UNDECIDED_MARGIN)).sum())

    @torch.no_grad()
    def harden(self) -> tuple[Float[Tensor, "..."], Scaling]:
        """Return the codes with every rounding made hard (h ≥ ½ rounds up), and their scaling."""
        up = (self.span > 0) & (rectified_sigmoid(self.alpha) >= 0.5)
        return self.below + up, self.scale.current()


def beta_at(progress: float, warm_up: float, beta: tuple[float, float]) -> float | None:
    """Return the penalty's exponent after a fraction `progress` of the steps; `None` during the warm-up."""
    if progress < warm_up:
        return None
    return beta[0] + (beta[1] - beta[0]) * (progress - warm_up) / (1 - warm_up)
