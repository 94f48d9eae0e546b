"""How one weight is quantized, and what its quantizer knows."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers.adaround import LearnedRounding, LearnedScale
from mrecg.quantizers.grid import Grid, Scaling

__all__ = ["WeightQuantizer", "WeightState"]


class WeightState(NamedTuple):
    """The state of one weight's quantizer.

    Attributes:
        codes: of every element, as floats, in the shape of the weight.
        scaling: of each channel or of the whole tensor, shaped to broadcast against the weight.
    """

    codes: Float[Tensor, "..."]
    scaling: Scaling


@dataclass(frozen=True)
class WeightQuantizer:
    """The fixed part of a weight's quantizer: it knows its grid, and reads and gives states.

    Attributes:
        grid: the integers that a code may take.
        calibrated: the scaling that the range search found.
        fixed_scale: whether the scale stays as calibrated, for a target that allows only some.
    """

    grid: Grid
    calibrated: Scaling
    fixed_scale: bool = False

    def round_to_nearest(self, weight: Float[Tensor, "..."], scaling: Scaling) -> WeightState:
        """Return the state with every element at its nearest code."""
        return WeightState(self.grid.quantize(weight, scaling), scaling)

    def dequantize(self, state: WeightState) -> Float[Tensor, "..."]:
        """Return the real values of a state."""
        return self.grid.dequantize(*state)

    def learn_rounding(
        self, weight: Float[Tensor, "..."], scaling: Scaling, previous: WeightState | None = None
    ) -> LearnedRounding:
        """Return variables whose soft weight is the float weight, clipped to the grid, or close to a `previous` state.

        Args:
            weight: the float weight.
            scaling: fixes the codes ⌊W/s⌋ that are rounded up or down; the learned scale starts there.
            previous: a state to continue from.
        """
        neighbors = self.grid.neighbors(weight, scaling)
        if previous is None:
            return LearnedRounding.start(neighbors, scaling, self.grid)
        return LearnedRounding.resume(neighbors, scaling, self.grid, *previous)

    def learn_scale(self, state: WeightState) -> LearnedScale:
        """Return the variable that changes the scale of hard codes."""
        return LearnedScale.start(state.scaling, self.grid)

    def freeze(self, state: WeightState) -> nn.Module:
        """Return the module that a finished model consists of, without the float weight."""
        return self.grid.freeze_weight(*state)
