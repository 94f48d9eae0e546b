"""Quantizers of a finished model whose numbers are trained on: straight-through gradients and LSQ (Esser et al., ICLR 2020).

The values are those of the finished model to the last bit, where PT2E's operators multiply by the reciprocal of the scale.
(The kernels of a reconstruction divide, and know one scale per tensor.)
"""

import math
from typing import Any, cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from mrecg.quantizers.grid import SMALLEST_SCALE, Scaling, UniformGrid, accumulator_scale
from mrecg.quantizers.weight import WeightState

__all__ = ["TrainableScale", "TrainableWeight", "fake_quantize", "round_bias"]


class TrainableScale(nn.Module):
    """The scale of a quantizer: one number, or one per channel.

    Attributes:
        start: the scale at first.
        factor: the parameter by which it grows, 1 at first, so that one learning rate suits every scale; a single one where
            all channels start with the same scale, and `None` where the scale stays.
    """

    start: Float[Tensor, "..."]
    factor: nn.Parameter | None

    def __init__(self, start: Float[Tensor, "..."], learns: bool) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        is_one = bool((start == start.flatten()[0]).all())
        ones = torch.ones_like(start[:1] if start.ndim and is_one else start)
        self.register_parameter("factor", nn.Parameter(ones) if learns else None)

    def forward(self) -> Float[Tensor, "..."]:
        """Return the scale as it is now."""
        if self.factor is None:
            return self.start
        return (self.start * self.factor).clamp(min=SMALLEST_SCALE)


class TrainableWeight(nn.Module):
    """A weight that is rounded in every step.

    Attributes:
        latent: the parameter, at first the quantized weight itself: every code is half a scale away from its neighbors.
        first: the codes at first.
        zero_point: the code of 0, for each channel along `axis`.
        grid: of the codes.
        scale: of each channel.
        axis: of the channels.
    """

    first: Integer[Tensor, "..."]
    zero_point: Float[Tensor, " channels"]

    def __init__(
        self,
        codes: Tensor,
        zero_point: Tensor,
        scale: TrainableScale,
        axis: int,
        grid: UniformGrid,
    ) -> None:
        super().__init__()
        self.scale, self.axis, self.grid = scale, axis, grid
        self.register_buffer("first", codes.clone())
        self._shape = tuple(-1 if one == axis else 1 for one in range(codes.ndim))
        self.register_buffer("zero_point", zero_point.to(scale.start.dtype))
        ahead = codes.to(scale.start.dtype) - self._along(self.zero_point)
        self.latent = nn.Parameter(ahead * self._along(scale.start))

    def forward(self, scale: Float[Tensor, " channels"]) -> Float[Tensor, "..."]:
        """Return the quantized weight at a scale, that of `scale()`."""
        ends = self.grid.low, self.grid.high
        return fake_quantize(self.latent, self._along(scale), self._along(self.zero_point), *ends)

    @torch.no_grad()
    def current(self) -> WeightState:
        """Return the state as it is now."""
        scaling = Scaling(self._along(self.scale()), self._along(self.zero_point))
        return WeightState(_codes(self.latent, *scaling, self.grid.low, self.grid.high), scaling)

    def _along(self, values: Float[Tensor, " channels"]) -> Tensor:
        return values.view(self._shape)


def fake_quantize(
    x: Float[Tensor, "*shape"],
    scale: Float[Tensor, "..."],
    zero_point: Tensor | float,
    low: int,
    high: int,
) -> Float[Tensor, "*shape"]:
    """Quantize and dequantize `x`; straight-through gradient for x, LSQ's for the scale, scaled as there.

    Args:
        x: values.
        scale, zero_point: broadcast against x.
        low, high: the smallest and the largest code.
    """
    x = x.to(scale.dtype)  # a layer may have been computed in half precision
    return cast(Tensor, _FakeQuantize.apply(x, scale, zero_point, low, high))  # type: ignore[no-untyped-call]


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor | float, low: int, high: int) -> Tensor:
    return (torch.round(x * (1 / scale)) + zero_point).clamp_(low, high)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | float, low: int, high: int
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.numbers = zero_point, low, high
        return (_codes(x, scale, zero_point, low, high) - zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, scale) = gradients, ctx.saved_tensors
        zero_point, low, high = ctx.numbers
        ratio = x * (1 / scale)
        place = ratio + zero_point
        of_x = gradient * ((place >= low - 0.5) & (place <= high + 0.5))
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None, None
        # With t = x/s and its code c: ∂/∂s is c − t inside of the range and c outside (eq. 3).
        codes = _codes(x, scale, zero_point, low, high) - zero_point
        of_scale = (gradient * codes - of_x * ratio).sum_to_size(scale.shape)
        # As many elements share the scale, so much larger is its gradient (section 2.2).
        weight = 1 / math.sqrt(max(1, x.numel() // scale.numel()) * (high - low))
        return of_x, of_scale * weight, None, None, None


def round_bias(
    bias: Float[Tensor, " channels"],
    activation_scale: Float[Tensor, ""],
    weight_scale: Float[Tensor, " channels"],
    low: int,
    high: int,
) -> Float[Tensor, " channels"]:
    """Round a bias to whole multiples of the accumulator's scale; the gradient passes straight through.

    Args:
        bias: real values.
        activation_scale, weight_scale: of the layer's input and weight.
        low, high: the smallest and the largest code of the weight.
    """
    grid = UniformGrid(low, high, symmetric=False)
    unit = accumulator_scale(activation_scale, weight_scale, grid).detach()
    # In double precision: a code may have more digits than a quotient of 32 bits.
    codes = torch.round((bias.detach().double() / unit.double()).to(unit.dtype))
    return bias + (codes * unit - bias.detach())
