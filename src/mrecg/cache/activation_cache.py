"""Float and quantized values of the calibration images, carried forward once per unit."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mrecg import distributed
from mrecg.cache.storage import Storage, Stored
from mrecg.graph.layers import traced_value
from mrecg.graph.units import Chain, Unit
from mrecg.optimize.precision import precision
from mrecg.quantizers.losses import reconstruction_loss, signal_power
from mrecg.quantizers.range_search import Sample

__all__ = [
    "Stream",
    "Values",
    "images_at_once",
    "images_tuned_at_once",
    "kept_bytes",
    "largest_value",
    "run_plain",
    "run_units",
]

Values = Mapping[str, Stored]
"""Named values of the calibration images."""

_MOST_IMAGES_AT_ONCE = 64
_KEPT_PER_ELEMENT = 3
"""Tensors of an activation's size that a forward pass keeps for its backward pass."""
_LARGEST_PASS = 2 << 30
"""Bytes that a pass through the whole network keeps at most."""
_LARGEST_TENSOR = 1 << 26
"""Bytes of the largest tensor that a unit makes in a forward pass, a handful of which live at a time."""


def run_units(units: Sequence[Unit], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run quantized units one after the other; returns what they were given and what they made."""
    return _run(units, [unit.quantized for unit in units], values)


def run_plain(units: Sequence[Unit], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the float units."""
    return _run(units, [unit.plain for unit in units], values)


def _run(
    units: Sequence[Unit], modules: Sequence[nn.Module], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    known = dict(values)
    for unit, module in zip(units, modules, strict=True):
        results = module(*[known[name] for name in unit.inputs])
        # A float unit gives what its activation quantizers read, too.
        known.update(zip(unit.outputs, results, strict=False))
    return known


def kept_bytes(units: Sequence[Unit]) -> int:
    """What a forward pass through units keeps of one image for its backward pass."""
    nodes = [n for unit in units for n in unit.plain.graph.nodes if n.op == "call_function"]
    values = [value for node in nodes if isinstance(value := traced_value(node), Tensor)]
    return 4 * _KEPT_PER_ELEMENT * sum(int(math.prod(value.shape[1:])) for value in values)


def images_tuned_at_once(units: Sequence[Unit]) -> int:
    """Images in one forward and backward pass through units, so that what it keeps stays within bounds."""
    return max(1, _LARGEST_PASS // max(1, kept_bytes(units)))


def images_at_once(unit: Unit) -> int:
    """Images in one forward pass of a unit, so that its largest tensor stays within bounds."""
    return max(1, min(_MOST_IMAGES_AT_ONCE, _LARGEST_TENSOR // (4 * largest_value(unit))))


def largest_value(unit: Unit) -> int:
    """Elements per image of the largest tensor that a unit reads or makes."""
    sizes = [
        int(math.prod(value.shape[1:]))
        for node in unit.plain.graph.nodes
        if isinstance(value := traced_value(node), Tensor) and value.ndim > 1
        if node.op != "get_attr"
    ]
    return max(sizes, default=1)


class Stream:
    """What the units still ahead will read, from the float network and from the network quantized so far.

    Args:
        chain: the units.
        images: the calibration images of this process.
        device: where the units run.
        storage: where values lie; without limits when absent.

    Attributes:
        plain: values of the float network.
        quantized: values behind quantized units.
        passes: how often each unit ran over all images, to show that the cost is linear.
        power: of each unit's outputs in the float network, over the images of all processes.
    """

    def __init__(
        self,
        chain: Chain,
        images: Float[Tensor, "n ..."],
        device: torch.device,
        storage: Storage | None = None,
    ) -> None:
        self._device = device
        self._storage = storage or Storage(device)
        source = self._storage.wrap(images)
        self.plain: dict[str, Stored] = {chain.input: source}
        self.quantized: dict[str, Stored] = {chain.input: source}
        self.passes: dict[str, int] = {}
        self.power: dict[str, float] = {}
        self._chain = chain
        self._images = len(images)

    def inputs(self, units: Sequence[Unit]) -> tuple[Values, Values]:
        """What neighbouring units read from before them: in the float and in the quantized network."""
        made = {name for unit in units for name in unit.outputs}
        names = dict.fromkeys(name for unit in units for name in unit.inputs if name not in made)
        return {n: self.plain[n] for n in names}, {n: self.quantized[n] for n in names}

    def targets(self, units: Sequence[Unit]) -> Values:
        """What neighbouring units make for those after them, or as the model's result, in the float network."""
        return {name: self.plain[name] for name in self._lasting(units)}

    @torch.no_grad()
    def advance_plain(self, unit: Unit, samples: Mapping[str, Sample]) -> None:
        """Run the float unit; `samples` see the tensors that its activation quantizers read."""
        self._count([unit])
        power = 0.0
        for first, last in self._portions([unit]):
            batch = [self.plain[name].portion(first, last) for name in unit.inputs]
            with precision("float32", self._device):
                results = unit.plain(*batch)
            for name, result in zip(unit.outputs, results, strict=False):
                self._write(self.plain, name, first, result)
                power += float(signal_power(result, unit.channels[name])) * len(result)
            read = list(zip(unit.observed, results[len(unit.outputs) :], strict=True))
            for name in unit.activations:
                tensors = [tensor for reader, tensor in read if reader == name]
                samples[name].add(tensors, last - first)
        (self.power[unit.name],) = distributed.average([power / self._images])

    @torch.no_grad()
    def run_quantized(self, units: Sequence[Unit], keep: bool) -> dict[str, float]:
        """Run quantized units on quantized values; the reconstruction loss of each of their outputs, over all processes.

        Args:
            units: neighbours.
            keep: whether the units after them will read the result.
        """
        self._count(units)
        inputs = list(self.inputs(units)[1])
        channels = {name: count for unit in units for name, count in unit.channels.items()}
        losses = dict.fromkeys(channels, 0.0)
        for first, last in self._portions(units):
            given = {name: self.quantized[name].portion(first, last) for name in inputs}
            with precision("float32", self._device):
                made = run_units(units, given)
            for name, count in channels.items():
                target = self.plain[name].portion(first, last)
                losses[name] += float(reconstruction_loss(made[name], target, count)) * len(target)
            if keep:
                for name in self._lasting(units):
                    self._write(self.quantized, name, first, made[name])
        shared = distributed.average([loss / self._images for loss in losses.values()])
        return dict(zip(losses, shared, strict=True))

    def lasting_loss(self, units: Sequence[Unit], losses: Mapping[str, float]) -> float:
        """What tuning neighbouring units minimises, of their outputs' losses: of those that are read after them."""
        return sum(losses[name] for name in self._lasting(units))

    def close(self) -> None:
        """Free everything that is left: what the model returns has no reader that would."""
        for values in (self.plain, self.quantized):
            for name in list(values):
                self._storage.release(values.pop(name))

    def forget(self, units: Sequence[Unit]) -> None:
        """Free what no unit after `units` reads."""
        last = self._chain.units.index(units[-1])
        for values in (self.plain, self.quantized):
            for name in [n for n in values if self._chain.last_reader.get(n, -1) <= last]:
                self._storage.release(values.pop(name))

    def _lasting(self, units: Sequence[Unit]) -> list[str]:
        """Outputs of neighbouring units that are read after them."""
        last = self._chain.units.index(units[-1])
        names = [name for unit in units for name in unit.outputs]
        return [name for name in names if self._chain.last_reader.get(name, -1) > last]

    def _write(self, values: dict[str, Stored], name: str, first: int, result: Tensor) -> None:
        if name not in values:
            values[name] = self._storage.allocate(self._images, result.shape[1:])
        values[name].write(first, result)

    def _portions(self, units: Sequence[Unit]) -> list[tuple[int, int]]:
        size = min(map(images_at_once, units))
        bounds = [*range(0, self._images, size), self._images]
        return list(itertools.pairwise(bounds))

    def _count(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self.passes[unit.name] = self.passes.get(unit.name, 0) + 1
