"""Learned rounding (AdaRound: Nagel et al., ICML 2020) and learned ranges of weights."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers import kernels
from mrecg.quantizers.grid import (
    SMALLEST_SCALE,
    Grid,
    Neighbours,
    Scaling,
)

__all__ = ["LearnedRange", "LearnedRounding", "Penalty", "beta_at"]

ZETA = 1.1
GAMMA = -0.1
"""The stretch of the sigmoid: h(V) = clip(sigmoid(V)(ζ − γ) + γ, 0, 1) reaches 0 and 1 (AdaRound, eq. 23)."""

_INSIDE = (-GAMMA / (ZETA - GAMMA), (1 - GAMMA) / (ZETA - GAMMA))
"""The values of the sigmoid between which h(V) is neither 0 nor 1."""

_SMALLEST_SQUARE = 1e-12
"""Added to (σ − ½)², so that its logarithm is finite; the slope of the penalty is 0 there either way."""

UNDECIDED_MARGIN = 0.05
"""A rounding counts as undecided while h(V) is further than this from both 0 and 1."""


class _SoftRounding(torch.autograd.Function):
    """`base + span · σ(V)` with σ held where h(V) is between 0 and 1, and the gradient of the rounding penalty.

    Both directions are a few passes over memory, which decide how long a step takes where weights outnumber
    activations. The value of the penalty is nobody's concern, so only its slope is computed, once per step.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, base: Tensor, span: Tensor, penalty: "Penalty | None"
    ) -> Tensor:
        sigmoid = torch.sigmoid(logits)
        ctx.save_for_backward(sigmoid, span)
        ctx.penalty = penalty
        return torch.addcmul(base, sigmoid.clamp(*_INSIDE), span)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        sigmoid, span = ctx.saved_tensors
        slope = gradients[0] * span
        if ctx.penalty is not None:
            _add_penalty_slope(slope, sigmoid, *ctx.penalty.power_law())
        slope = torch.ops.aten.hardtanh_backward(slope, sigmoid, *_INSIDE)
        return torch.ops.aten.sigmoid_backward(slope, sigmoid), None, None, None


def _add_penalty_slope(
    slope: Tensor, sigmoid: Tensor, strength: float | Tensor, exponent: float | Tensor
) -> None:
    """Add −strength · d · (d²)^exponent. `exp2` and `log2` take half the time of `pow`."""
    distance = sigmoid - 0.5
    smallest = torch.full((), _SMALLEST_SQUARE, dtype=sigmoid.dtype, device=sigmoid.device)
    square = torch.addcmul(smallest, distance, distance)
    slope.addcmul_(square.log2_().mul_(exponent).exp2_(), distance.mul_(strength), value=-1)


def stretched_sigmoid(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """h(V) of AdaRound, eq. 23."""
    return (torch.sigmoid(logits) * (ZETA - GAMMA)).add_(GAMMA).clamp_(0, 1)


class Penalty(NamedTuple):
    """The rounding penalty `λ Σ (1 − |2h(V) − 1|^β)`, which is 0 when every rounding is decided (AdaRound, eq. 24).

    Attributes:
        strength: λ.
        beta: β.
    """

    strength: float | Tensor
    beta: float | Tensor

    @property
    def acts(self) -> bool:
        """Whether it changes anything; the value of a tensor is not asked for."""
        return isinstance(self.strength, Tensor) or self.strength > 0

    def power_law(self) -> tuple[float | Tensor, float | Tensor]:
        """c and e of its slope −c · d · (d²)^e with respect to σ, where d = σ − ½ and 2h − 1 = 2 (ζ − γ) d."""
        return self.strength * self.beta * (2 * (ZETA - GAMMA)) ** self.beta, self.beta / 2 - 1


class LearnedRange(nn.Module):
    """`s' = s · (1 + growth / (high − low))`: the range of each channel grows or shrinks, its codes stay.

    Attributes:
        growth: in code steps, one per scale, 0 at first. So a rate suits every width: at 8 bits a scale that is off by
            a percent would cost more than the rounding.
        steps: of the grid.
    """

    def __init__(self, scaling: Scaling, grid: Grid) -> None:
        super().__init__()
        self.growth = nn.Parameter(torch.zeros_like(scaling.scale))
        self._scaling, self.steps = scaling, grid.high - grid.low

    @torch.no_grad()
    def start_at(self, scaling: Scaling) -> None:
        """Continue from a range that was learned before."""
        self.growth.copy_((scaling.scale / self._scaling.scale - 1) * self.steps)

    def factor(self) -> Float[Tensor, "..."]:
        """By which every value grows."""
        return 1 + self.growth / self.steps

    @torch.no_grad()
    def scaling(self) -> Scaling:
        """The scaling as it is now."""
        scale = (self._scaling.scale * self.factor()).clamp(min=SMALLEST_SCALE)
        return Scaling(scale, self._scaling.zero_point)


class LearnedRounding(nn.Module):
    """`W_q = below + h(V) · step` between two neighbours on a grid, with V so that it starts at the float weight.

    On a uniform grid that is `s' · (clip(⌊W/s⌋ + h(V) + z, low, high) − z)`: AdaRound, eq. 22–24. Learning the scale
    while the integer base ⌊W/s⌋ stays is Genie's (Jeon et al., CVPR 2023).

    Attributes:
        logits: V, one per weight.
        below: the lower code of each weight.
        base, span: the weight as `base + span · σ(V)`; a weight outside the grid has span 0.
        range: the scale s'.
    """

    def __init__(self, between: Neighbours, scaling: Scaling, grid: Grid) -> None:
        super().__init__()
        self.range = LearnedRange(scaling, grid)
        self.below = between.below
        # With h = (ζ − γ) σ + γ, the weight is `base + span · σ`.
        self.base = between.value + GAMMA * between.step
        self.span = (ZETA - GAMMA) * between.step
        fraction = between.fraction.clamp(1e-4, 1 - 1e-4)
        stretched = (fraction - GAMMA) / (ZETA - GAMMA)
        self.logits = nn.Parameter(torch.log(stretched / (1 - stretched)))
        self._is_native = kernels.fits(self.logits) and kernels.lie_in_rows(
            self.logits, self.range.growth
        )
        if self._is_native:
            self.base, self.span = (
                kernels.like(one, self.logits) for one in (self.base, self.span)
            )

    def forward(self, penalty: Penalty | None = None) -> Float[Tensor, "..."]:
        """The softly rounded weight; its backward pass adds the slope of `penalty` to the gradient."""
        if self._is_native:
            law = (0.0, 0.0) if penalty is None else penalty.power_law()
            native_soft: Tensor = kernels.SoftRounding.apply(  # type: ignore[no-untyped-call]
                self.logits,
                self.base,
                self.span,
                self.range.growth,
                self.range.steps,
                _INSIDE,
                *law,
            )
            return native_soft
        soft: Tensor = _SoftRounding.apply(self.logits, self.base, self.span, penalty)  # type: ignore[no-untyped-call]
        return soft * self.range.factor()

    @torch.no_grad()
    def undecided(self) -> int:
        """How many roundings are; a weight outside the grid has the same code either way and never is."""
        distance = (stretched_sigmoid(self.logits) - 0.5).abs()
        return int(((self.span > 0) & (distance < 0.5 - UNDECIDED_MARGIN)).sum())

    @torch.no_grad()
    def decide(self) -> tuple[Float[Tensor, "..."], Scaling]:
        """Codes with every rounding made hard (h ≥ ½ rounds up), and their scaling."""
        up = (self.span > 0) & (stretched_sigmoid(self.logits) >= 0.5)
        return self.below + up, self.range.scaling()


def beta_at(progress: float, warm_up: float, beta: tuple[float, float]) -> float | None:
    """The penalty's exponent after a fraction `progress` of the steps; `None` during the warm-up."""
    if progress < warm_up:
        return None
    return beta[0] + (beta[1] - beta[0]) * (progress - warm_up) / (1 - warm_up)
