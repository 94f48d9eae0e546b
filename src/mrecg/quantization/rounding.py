"""Weights on a grid, with learned rounding (AdaRound: Nagel et al., ICML 2020)."""

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from mrecg.quantization import native
from mrecg.quantization.grid import (
    SMALLEST_SCALE,
    Grid,
    Neighbours,
    Scaling,
    dequantize,
    neighbours,
    quantize,
)

__all__ = ["CodedWeight", "LearnedRange", "LearnedRounding", "Penalty", "WeightQuantizer"]

ZETA = 1.1
GAMMA = -0.1
"""The stretch of the sigmoid: h(V) = clip(sigmoid(V)(ζ − γ) + γ, 0, 1) reaches 0 and 1 (AdaRound, eq. 23)."""

_INSIDE = (-GAMMA / (ZETA - GAMMA), (1 - GAMMA) / (ZETA - GAMMA))
"""The values of the sigmoid between which h(V) is neither 0 nor 1."""

_SMALLEST_SQUARE = 1e-12
"""Added to (σ − ½)², so that its logarithm is finite; the slope of the penalty is 0 there either way."""

UNDECIDED_MARGIN = 0.05
"""A rounding counts as undecided while h(V) is further than this from both 0 and 1."""


RESUMED = 0.15
"""How far h(V) is from 0 or 1 where learning continues from a decided rounding: its gradient is not 0 there."""


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
        self._is_native = native.fits(self.logits) and native.lie_in_rows(
            self.logits, self.range.growth
        )
        if self._is_native:
            self.base, self.span = (native.like(one, self.logits) for one in (self.base, self.span))

    def forward(self, penalty: Penalty | None = None) -> Float[Tensor, "..."]:
        """The softly rounded weight; its backward pass adds the slope of `penalty` to the gradient."""
        if self._is_native:
            law = (0.0, 0.0) if penalty is None else penalty.power_law()
            native_soft: Tensor = native.SoftRounding.apply(  # type: ignore[no-untyped-call]
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


class CodedWeight(nn.Module):
    """A weight as integer codes: what a quantized model ships. PT2E's operator gives its real values.

    Attributes:
        codes: integers within the grid, in the shape of the weight.
        scale: real value of one code step, for each channel along `axis`.
        zero_point: the code of 0, likewise.
        axis: that the channels are on; a weight with one range for all repeats it along axis 0.
        grid: the integers that a code may take.
    """

    codes: Integer[Tensor, "..."]
    scale: Float[Tensor, " channels"]
    zero_point: Integer[Tensor, " channels"]

    def __init__(self, codes: Float[Tensor, "..."], scaling: Scaling, grid: Grid) -> None:
        super().__init__()
        per_channel = [axis for axis, size in enumerate(scaling.scale.shape) if size > 1]
        self.axis, self.grid = per_channel[0] if per_channel else 0, grid
        channels = codes.shape[self.axis]
        self.register_buffer("codes", codes.to(grid.dtype))
        self.register_buffer("scale", scaling.scale.flatten().expand(channels).clone())
        zero_point = scaling.zero_point.flatten().expand(channels)
        self.register_buffer("zero_point", zero_point.to(torch.int32))

    def forward(self) -> Float[Tensor, "..."]:
        weight: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel.default(
            self.codes, self.scale, self.zero_point, self.axis, *self.grid[:2], self.grid.dtype
        )
        return weight


class WeightQuantizer(nn.Module):
    """Quantizes one weight: to nearest at first, softly while its rounding is learned, by codes afterwards.

    Attributes:
        uniform: whether values are multiples of a step.
        grid: the integers that a code may take.
        fixed_scale: whether the scale has to stay as calibrated, for a target that allows only some.
        calibrated: the scaling of each channel before it is learned, shaped to broadcast against the weight.
        scaling: the same now.
        codes: the hard codes, as floats.
        hard: their real values.
        rounding: present while the rounding is learned.
        range: present while only the range of the hard weight is learned.
        soft: the weight of the current step, while something is learned.
    """

    uniform: ClassVar[bool] = True

    def __init__(
        self,
        weight: Float[Tensor, "..."],
        scaling: Scaling,
        grid: Grid,
        fixed_scale: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.fixed_scale = fixed_scale
        self.calibrated = self.scaling = scaling
        self.rounding: LearnedRounding | None = None
        self.range: LearnedRange | None = None
        self.soft: Tensor | None = None
        self.round_to_nearest(weight)

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.hard if self.soft is None else self.soft

    def round_to_nearest(self, weight: Float[Tensor, "..."]) -> None:
        """Forget what was learned."""
        self.set_codes(self._nearest(weight), self.calibrated)

    def start_learning(self, weight: Float[Tensor, "..."], resume: bool = False) -> LearnedRounding:
        """Begin with soft rounding whose value is the float weight, clipped to the grid.

        With `resume`, begin near the present codes and at the present range instead, open enough to change again.
        """
        between = self._neighbours(weight)
        if resume:
            up = self.codes > between.below
            between = between._replace(fraction=torch.where(up, 1 - RESUMED, RESUMED))
        self.rounding = LearnedRounding(between, self.calibrated, self.grid)
        if resume:
            self.rounding.range.start_at(self.scaling)
        self.soften()
        return self.rounding

    def soften(self, penalty: Penalty | None = None) -> None:
        """Round softly by what was learned so far, once per step however often the weight is read."""
        assert self.rounding is not None, "soften needs start_learning first"
        self.soft = None  # or autograd's nodes of the last step would live on into this one
        self.soft = self.rounding(penalty)

    def stop_learning(self) -> int:
        """Make every rounding hard; returns how many were still undecided."""
        assert self.rounding is not None, "stop_learning needs start_learning first"
        undecided = self.rounding.undecided()
        self.set_codes(*self.rounding.decide())
        return undecided

    def start_growing(self) -> LearnedRange:
        """Begin to learn the range of the hard weight."""
        self.range = LearnedRange(self.scaling, self.grid)
        self.grow()
        return self.range

    def grow(self) -> None:
        """Take the range that was learned so far, once per step however often the weight is read."""
        assert self.range is not None, "grow needs start_growing first"
        self.soft = self.hard * self.range.factor()

    def stop_growing(self, keep: bool) -> None:
        """Fix the learned range, or return to the one before."""
        assert self.range is not None, "stop_growing needs start_growing first"
        if keep:
            self.set_codes(self.codes, self.range.scaling())
        self.range = self.soft = None

    def set_codes(self, codes: Float[Tensor, "..."], scaling: Scaling) -> None:
        """Hold these hard codes."""
        self.codes, self.scaling = codes, scaling
        self.hard = self._values(codes)
        self.rounding = self.soft = None

    def _nearest(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return quantize(weight, self.calibrated, self.grid)

    def _neighbours(self, weight: Float[Tensor, "..."]) -> Neighbours:
        return neighbours(weight, self.calibrated, self.grid)

    def _values(self, codes: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return dequantize(codes, self.scaling)

    def coded(self) -> nn.Module:
        """The result, without the float weight."""
        return CodedWeight(self.codes, self.scaling, self.grid)


def beta_at(progress: float, warm_up: float, beta: tuple[float, float]) -> float | None:
    """The penalty's exponent after a fraction `progress` of the steps; `None` during the warm-up."""
    if progress < warm_up:
        return None
    return beta[0] + (beta[1] - beta[0]) * (progress - warm_up) / (1 - warm_up)
