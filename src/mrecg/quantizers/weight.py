"""Weights on a grid: to nearest, by learned rounding, or by codes."""

from typing import ClassVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from mrecg.quantizers.adaround import LearnedRange, LearnedRounding, Penalty
from mrecg.quantizers.grid import Grid, Neighbours, Scaling, dequantize, neighbours, quantize

__all__ = ["CodedWeight", "WeightQuantizer"]

RESUMED = 0.15
"""How far h(V) is from 0 or 1 where learning continues from a decided rounding: its gradient is not 0 there."""


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

    def stop_growing(self) -> None:
        """Fix the learned range."""
        assert self.range is not None, "stop_growing needs start_growing first"
        self.set_codes(self.codes, self.range.scaling())
        self.range = None

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
