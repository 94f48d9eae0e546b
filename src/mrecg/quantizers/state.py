"""The state of all quantizers of a network, or of a part of it, as one immutable value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.weight import WeightState

__all__ = ["QuantizerState"]


@dataclass(frozen=True)
class QuantizerState:
    """Codes and scales by the names of quantizers. Rolling back, continuing and saving all mean: take this value.

    Attributes:
        weights: of each weight quantizer.
        activations: the scaling of each activation quantizer.
        steps: optimization steps that each unit was given when it was optimized alone, by the unit's name.
    """

    weights: Mapping[str, WeightState] = field(default_factory=dict)
    activations: Mapping[str, Scaling] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "steps"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __or__(self, other: "QuantizerState") -> "QuantizerState":
        """Return both; where both know a quantizer, `other` wins."""
        return QuantizerState(
            {**self.weights, **other.weights},
            {**self.activations, **other.activations},
            {**self.steps, **other.steps},
        )

    def without(self, other: "QuantizerState") -> "QuantizerState":
        """Return what is not the very same in `other`: `other | state.without(other)` is `state`."""

        def new(name: str) -> dict[str, Any]:
            known = getattr(other, name)
            return {
                key: one for key, one in getattr(self, name).items() if known.get(key) is not one
            }

        return QuantizerState(new("weights"), new("activations"), new("steps"))
