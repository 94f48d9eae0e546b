"""Measure groups on images that tune nothing."""

import math
from collections.abc import Sequence

from mrecg.cache.activation_cache import ActivationCache
from mrecg.cache.storage import Storage
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.units import Unit
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.losses import SMALLEST_POWER
from mrecg.quantizers.state import QuantizerState

__all__ = ["Judge"]


class Judge:
    """Carry images along the network behind the groups that were reconstructed, and measure the loss at a group's end.

    Args:
        prepared: the network.
        images: the inputs for images that tune nothing; those of this process.
        storage: where activations are stored.
    """

    def __init__(self, prepared: PreparedGraph, images: ModelInputs, storage: Storage) -> None:
        self._prepared = prepared
        self._cache = ActivationCache(prepared.chain, images, prepared.device, storage)

    def run_float(self, members: Sequence[Unit]) -> None:
        """Run the next units of the float network; must be called before these are measured."""
        for unit in members:
            self._cache.run_float(unit, sample=None)

    def run_quantized(self, members: Sequence[Unit], state: QuantizerState, keep: bool) -> float:
        """Return the relative loss at the end of a group under a state; one that is NaN counts as infinite.

        Args:
            members: neighboring units.
            state: of the network up to them.
            keep: whether the units after them will read the result.
        """
        losses = self._cache.run_quantized(members, self._prepared.bind(members, state), keep)
        power = self._cache.power[members[-1].name]
        loss = self._cache.group_loss(members, losses) / max(power, SMALLEST_POWER)
        return math.inf if math.isnan(loss) else loss

    def drop(self, members: Sequence[Unit]) -> None:
        """Free what no unit after these reads."""
        self._cache.drop(members)

    def clear(self) -> None:
        """Free everything."""
        self._cache.clear()
