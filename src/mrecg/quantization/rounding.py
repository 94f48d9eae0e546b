"""Weights on a grid, with learned rounding (AdaRound: Nagel et al., ICML 2020)."""

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from mrecg.quantization.grid import (
    SMALLEST_SCALE,
    Grid,
    Scaling,
    dequantize,
    quantize,
)

__all__ = ["CodedWeight", "LearnedRounding", "WeightQuantizer", "rounding_penalty"]

ZETA = 1.1
GAMMA = -0.1
"""The stretch of the sigmoid: h(V) = clip(sigmoid(V)(ζ − γ) + γ, 0, 1) reaches 0 and 1 (AdaRound, eq. 23)."""

UNDECIDED_MARGIN = 0.05
"""A rounding counts as undecided while h(V) is further than this from both 0 and 1."""


class _StretchedSigmoid(torch.autograd.Function):
    """h(V), with one pass over memory per direction saved against composing it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        sigmoid = torch.sigmoid(logits)
        ctx.save_for_backward(sigmoid)
        return (sigmoid * (ZETA - GAMMA)).add_(GAMMA).clamp_(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (sigmoid,) = ctx.saved_tensors
        # The clip passes gradient where |sigmoid − ½| < ½ / (ζ − γ).
        inside = (sigmoid - 0.5).abs_() < 0.5 / (ZETA - GAMMA)
        slope = torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1).mul_(ZETA - GAMMA)
        return slope.mul_(inside).mul_(gradients[0])


class _Penalty(torch.autograd.Function):
    """The rounding penalty; one power serves value and gradient."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, beta: float) -> Tensor:
        distance = (2 * h).sub_(1)
        power = distance.abs().pow_(beta - 2).mul_(distance)
        ctx.save_for_backward(power)
        ctx.beta = beta
        return h.numel() - torch.dot(power.reshape(-1), distance.reshape(-1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (power,) = ctx.saved_tensors
        return power * (-2 * ctx.beta * gradients[0]), None


def stretched_sigmoid(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """h(V) of AdaRound, eq. 23."""
    h: Tensor = _StretchedSigmoid.apply(logits)  # type: ignore[no-untyped-call]
    return h


class LearnedRounding(nn.Module):
    """`W_q = f·s · (clip(⌊W/s⌋ + h(V) + z, low, high) − z)`, with V so that h(V) starts at the fraction of W/s.

    Source: AdaRound, eq. 22–24; learning the scale while the integer base ⌊W/s⌋ stays is Genie's (Jeon et al.,
    CVPR 2023).

    Attributes:
        logits: V, one per weight.
        factor: f, one per scale, 1 at first.
    """

    def __init__(self, weight: Float[Tensor, "..."], scaling: Scaling, grid: Grid) -> None:
        super().__init__()
        ratio = weight / scaling.scale
        self.scaling = scaling
        self.floor = torch.floor(ratio)
        self.lowest = grid.low - scaling.zero_point
        self.highest = grid.high - scaling.zero_point
        fraction = (ratio - self.floor).clamp(1e-4, 1 - 1e-4)
        stretched = (fraction - GAMMA) / (ZETA - GAMMA)
        self.logits = nn.Parameter(torch.log(stretched / (1 - stretched)))
        self.factor = nn.Parameter(torch.ones_like(scaling.scale))

    def forward(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """The softly rounded weight, and h(V)."""
        h = stretched_sigmoid(self.logits)
        inside = torch.clamp(self.floor + h, self.lowest, self.highest)
        return inside * (self.scaling.scale * self.factor), h

    @torch.no_grad()
    def decide(self) -> tuple[Float[Tensor, "..."], Scaling, int]:
        """Codes with every rounding made hard (h ≥ ½ rounds up), their scaling, and how many were undecided.

        A weight outside the grid has the same code either way and is never undecided.
        """
        h = stretched_sigmoid(self.logits)
        inside = (self.floor >= self.lowest) & (self.floor < self.highest)
        undecided = inside & ((h - 0.5).abs() < 0.5 - UNDECIDED_MARGIN)
        rounded = (self.floor + (h >= 0.5)).clamp(self.lowest, self.highest)
        scale = (self.scaling.scale * self.factor).clamp(min=SMALLEST_SCALE)
        return (
            rounded + self.scaling.zero_point,
            Scaling(scale, self.scaling.zero_point),
            int(undecided.sum()),
        )


def rounding_penalty(h: Float[Tensor, "..."], beta: float) -> Float[Tensor, ""]:
    """`Σ (1 − |2h(V) − 1|^β)`, which is 0 when every rounding is decided (AdaRound, eq. 24)."""
    penalty: Tensor = _Penalty.apply(h, beta)  # type: ignore[no-untyped-call]
    return penalty


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
        grid: the integers that a code may take.
        fixed_scale: whether the scale has to stay as calibrated, for a target that allows only some.
        calibrated: the scaling of each channel before it is learned, shaped to broadcast against the weight.
        scaling: the same now.
        codes: the hard codes, as floats.
        hard: their real values.
        rounding: present while the rounding is learned.
        soft: h(V) of the last soft forward, for the penalty.
    """

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
        self.soft: Tensor | None = None
        self.round_to_nearest(weight)

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.rounding is None:
            return self.hard
        quantized: Tensor
        quantized, self.soft = self.rounding()
        return quantized

    def round_to_nearest(self, weight: Float[Tensor, "..."]) -> None:
        """Forget what was learned."""
        self._set_codes(quantize(weight, self.calibrated, self.grid), self.calibrated)

    def start_learning(self, weight: Float[Tensor, "..."]) -> LearnedRounding:
        """Begin with soft rounding whose value is the float weight, clipped to the grid."""
        self.rounding = LearnedRounding(weight, self.calibrated, self.grid)
        return self.rounding

    def stop_learning(self) -> int:
        """Make every rounding hard; returns how many were still undecided."""
        assert self.rounding is not None, "stop_learning needs start_learning first"
        codes, scaling, undecided = self.rounding.decide()
        self._set_codes(codes, scaling)
        return undecided

    def _set_codes(self, codes: Float[Tensor, "..."], scaling: Scaling) -> None:
        self.codes, self.scaling = codes, scaling
        self.hard = dequantize(codes, scaling)
        self.rounding = self.soft = None

    def coded(self) -> CodedWeight:
        """The result, without the float weight."""
        return CodedWeight(self.codes, self.scaling, self.grid)


def beta_at(progress: float, warm_up: float, beta: tuple[float, float]) -> float | None:
    """The penalty's exponent after a fraction `progress` of the steps; `None` during the warm-up."""
    if progress < warm_up:
        return None
    return beta[0] + (beta[1] - beta[0]) * (progress - warm_up) / (1 - warm_up)
