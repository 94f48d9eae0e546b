"""The modules of a finished model: integer codes and PT2E's operators."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

__all__ = ["FrozenActivation", "FrozenWeight"]


class FrozenWeight(nn.Module):
    """A weight as integer codes; PT2E's operator gives its real values.

    Attributes:
        codes: integers within the grid, in the shape of the weight.
        scale: real value of one code, for each channel along `axis`.
        zero_point: the code of 0, for each channel.
        axis: of the channels; a weight with one range repeats it along axis 0.
    """

    codes: Integer[Tensor, "..."]
    scale: Float[Tensor, " channels"]
    zero_point: Integer[Tensor, " channels"]

    def __init__(
        self,
        codes: Float[Tensor, "..."],
        scale: Float[Tensor, "..."],
        zero_point: Float[Tensor, "..."],
        low: int,
        high: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        per_channel = [axis for axis, size in enumerate(scale.shape) if size > 1]
        self.axis, self._range = per_channel[0] if per_channel else 0, (low, high, dtype)
        channels = codes.shape[self.axis]
        self.register_buffer("codes", codes.to(dtype))
        self.register_buffer("scale", scale.flatten().expand(channels).clone())
        zero_points = zero_point.flatten().expand(channels)
        self.register_buffer("zero_point", zero_points.to(torch.int32))

    def forward(self) -> Float[Tensor, "..."]:
        weight: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel.default(
            self.codes, self.scale, self.zero_point, self.axis, *self._range
        )
        return weight


class FrozenActivation(nn.Module):
    """An activation quantizer with a fixed scale: PT2E's two operators.

    Attributes:
        scale: real value of one code.
        zero_point: the code of 0.
    """

    def __init__(
        self, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.scale, self.zero_point, self._range = scale, zero_point, (low, high, dtype)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        numbers = (self.scale, self.zero_point, *self._range)
        codes = torch.ops.quantized_decomposed.quantize_per_tensor.default(x, *numbers)
        result: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor.default(
            codes, *numbers
        )
        return result
