"""How one activation tensor is quantized."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from mrecg.quantizers.grid import Grid, Scaling
from mrecg.quantizers.qdrop import RandomMask

__all__ = ["ActivationQuantizer", "Bounds", "FakeQuantizer"]

Bounds = tuple[float, float] | None
"""Bounds that a tensor is clipped to before it is quantized, where the quantizer does the work of a ReLU as well."""


class FakeQuantizer(ABC):
    """A quantizer at one scaling: a function that a unit's graph takes as an argument and calls."""

    @property
    def variables(self) -> tuple[nn.Parameter, ...]:
        """Return what is learned; nothing where the scale is fixed."""
        return ()

    @abstractmethod
    def __call__(self, x: Float[Tensor, "*shape"], bounds: Bounds) -> Float[Tensor, "*shape"]:
        """Clip `x` to `bounds`, quantize and dequantize it."""

    @abstractmethod
    def current(self) -> Scaling:
        """Return the scaling as it is now."""


class ActivationQuantizer(ABC):
    """The fixed part of an activation's quantizer: it knows its grid, and reads scalings.

    Attributes:
        grid: the integers that a code may take.
        prescribed: the scaling that a backend prescribes, or `None`.
    """

    grid: Grid
    prescribed: Scaling | None

    @property
    def learns(self) -> bool:
        """Return whether there is a scale that may be learned."""
        return self.grid.is_uniform and self.prescribed is None

    @abstractmethod
    def fix(self, scaling: Scaling) -> FakeQuantizer:
        """Return the quantizer at a scaling; gradients pass through it."""

    @abstractmethod
    def learn(
        self, scaling: Scaling, mask: RandomMask | None, relative: bool = True
    ) -> FakeQuantizer:
        """Return the quantizer with a scale that is learned from `scaling` on, if one may be learned.

        Args:
            scaling: the calibrated one, or an earlier result.
            mask: where it is 0 the tensor stays float (QDrop); `None` quantizes everything.
            relative: whether the variable is the scale in units of `scaling`, or the scale itself. With units the learning
                rate is relative: a scale may be 0.01 (8 bits) or 1 (2 bits).
        """

    def freeze(self, scaling: Scaling) -> nn.Module:
        """Return the module that a finished model consists of."""
        return self.grid.freeze_activation(scaling)
