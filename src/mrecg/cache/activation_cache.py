"""Float and quantized activations of the calibration images, computed once per unit and carried from unit to unit."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.cache.storage import Storage
from mrecg.cache.stored import CachedActivation
from mrecg.graph.inputs import ChosenInputs, ModelInputs
from mrecg.graph.units import Chain, Unit
from mrecg.planning.cost import images_per_pass
from mrecg.preparation.prepared_graph import Binding
from mrecg.quantizers.activation_sample import ActivationSample
from mrecg.quantizers.losses import reconstruction_loss, signal_power
from mrecg.shortage import Parts
from mrecg.torch_state import compute_precision

__all__ = ["ActivationCache", "CachedActivations", "run_float_units", "run_quantized_units"]

CachedActivations = Mapping[str, CachedActivation]
"""Named activations of all calibration images."""


def run_quantized_units(
    units: Sequence[Unit], values: Mapping[str, Tensor], bindings: Mapping[str, Binding]
) -> dict[str, Tensor]:
    """Run quantized units one after the other; return the given values and those that the units made.

    Args:
        units: neighbors.
        values: what they read from before them, by name.
        bindings: weights, biases and activation quantizers, by name.
    """
    known = dict(values)
    for unit in units:
        arguments = [known[name] for name in unit.inputs]
        results = unit.quantized(*arguments, *[bindings[name] for name in unit.bindings])
        known.update(zip(unit.outputs, results, strict=True))
    return known


def run_float_units(units: Sequence[Unit], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run float units one after the other; return the given values and those that the units made."""
    known = dict(values)
    for unit in units:
        results = unit.float_graph(*[known[name] for name in unit.inputs])
        # A float unit gives what its activation quantizers read, too.
        known.update(zip(unit.outputs, results, strict=False))
    return known


class ActivationCache:
    """Activations that the units ahead will read, of the float network and of the network quantized so far.

    Args:
        chain: the units.
        images: the inputs for the calibration images of this process.
        device: where the units run.
        storage: where activations are stored; without limits when absent.
        quantized: how many of the images, the first ones, run in the quantized network, too; all when absent.

    Attributes:
        of_float: activations of the float network.
        of_quantized: activations behind quantized units.
        power: of each unit's outputs in the float network, over the images of all processes.
        output_power: the same of each output.
        shortages: what is told where memory runs out.
    """

    def __init__(
        self,
        chain: Chain,
        images: ModelInputs | ChosenInputs,
        device: torch.device,
        storage: Storage | None = None,
        quantized: int | None = None,
    ) -> None:
        self._device = device
        self._storage = storage or Storage(device)
        self.shortages = self._storage.shortages
        self._parts = Parts(self.shortages, "passes through units")
        given, numbers = (
            (images.inputs, images.numbers) if isinstance(images, ChosenInputs) else (images, None)
        )
        self.of_float: dict[str, CachedActivation] = {
            name: self._storage.wrap(one, numbers) for name, one in chain.named(given).items()
        }
        self.of_quantized: dict[str, CachedActivation] = dict(self.of_float)
        self.power: dict[str, float] = {}
        self.output_power: dict[str, float] = {}
        self._chain = chain
        self._images = len(images)
        self._quantized = min(quantized or self._images, self._images)

    def inputs(self, units: Sequence[Unit]) -> tuple[CachedActivations, CachedActivations]:
        """Return what neighboring units read from before them: in the float and in the quantized network."""
        made = {name for unit in units for name in unit.outputs}
        names = dict.fromkeys(name for unit in units for name in unit.inputs if name not in made)
        return {n: self.of_float[n] for n in names}, {n: self.of_quantized[n] for n in names}

    def targets(self, units: Sequence[Unit]) -> CachedActivations:
        """Return the outputs of neighboring units that are read after them, in the float network."""
        return {name: self.of_float[name] for name in self._chain.read_later(units)}

    @torch.no_grad()
    def run_float(self, unit: Unit, sample: int | None) -> dict[str, ActivationSample]:
        """Run the float unit on all images; return samples of the tensors that its activation quantizers read.

        Args:
            unit: reads what is cached.
            sample: how many values of each tensor and image are kept at most; `None` keeps none and returns nothing.
        """
        names = () if sample is None else unit.activations
        samples = {name: ActivationSample(sample or 0) for name in names}
        power, powers = 0.0, dict.fromkeys(unit.outputs, 0.0)

        def forward(first: int, last: int) -> Sequence[Tensor]:
            batch = [self.of_float[name].portion(first, last) for name in unit.inputs]
            with compute_precision("float32", self._device):
                results: Sequence[Tensor] = unit.float_graph(*batch)
                return results

        for first, last, results in self._parts.over(self._images, images_per_pass(unit), forward):
            for name, result in zip(unit.outputs, results, strict=False):
                self._write(self.of_float, name, first, result, self._images)
                of_batch = float(signal_power(result, unit.channels[name])) * len(result)
                power += of_batch
                powers[name] += of_batch
            seen = results[len(unit.outputs) :]
            read = list(zip(unit.observed, seen, unit.observed_axes, strict=True))
            for name in names:
                tensors, axes = zip(
                    *(pair for reader, *pair in read if reader == name), strict=True
                )
                samples[name].add(tensors, last - first, axes)
        summed = [power / self._images, *(one / self._images for one in powers.values())]
        self.power[unit.name], *shared = distributed.average(summed)
        self.output_power.update(zip(powers, shared, strict=True))
        return samples

    @torch.no_grad()
    def run_quantized(
        self, units: Sequence[Unit], bindings: Mapping[str, Binding], keep: bool
    ) -> dict[str, float]:
        """Run quantized units on quantized activations.

        Args:
            units: neighbors.
            bindings: what their graphs take.
            keep: whether the units after them will read the result.

        Returns:
            The reconstruction loss of each of their outputs, over these images of all processes.
        """
        inputs = list(self.inputs(units)[1])
        channels = {name: count for unit in units for name, count in unit.channels.items()}
        losses = dict.fromkeys(channels, 0.0)

        def forward(first: int, last: int) -> dict[str, Tensor]:
            given = {name: self.of_quantized[name].portion(first, last) for name in inputs}
            with compute_precision("float32", self._device):
                return run_quantized_units(units, given, bindings)

        size = min(map(images_per_pass, units))
        for first, last, made in self._parts.over(self._quantized, size, forward):
            for name, count in channels.items():
                target = self.of_float[name].portion(first, last)
                losses[name] += float(reconstruction_loss(made[name], target, count)) * len(target)
            if keep:
                for name in self._chain.read_later(units):
                    self._write(self.of_quantized, name, first, made[name], self._quantized)
        shared = distributed.average([loss / self._quantized for loss in losses.values()])
        return dict(zip(losses, shared, strict=True))

    def group_loss(self, units: Sequence[Unit], losses: Mapping[str, float]) -> float:
        """Return the sum of the losses of the group outputs that later units read."""
        return sum(losses[name] for name in self._chain.read_later(units))

    def group_power(self, units: Sequence[Unit]) -> float:
        """Return the power of the group outputs that later units read: what `group_loss` is compared with."""
        return sum(self.output_power[name] for name in self._chain.read_later(units))

    def drop(self, units: Sequence[Unit]) -> None:
        """Free what no unit after `units` reads."""
        last = self._chain.units.index(units[-1])
        for values in (self.of_float, self.of_quantized):
            for name in [n for n in values if self._chain.last_reader.get(n, -1) <= last]:
                self._storage.release(values.pop(name))

    def clear(self) -> None:
        """Free everything; the model's outputs have no reader after which `drop` would free them."""
        for values in (self.of_float, self.of_quantized):
            for name in list(values):
                self._storage.release(values.pop(name))

    def _write(
        self, values: dict[str, CachedActivation], name: str, first: int, result: Tensor, count: int
    ) -> None:
        if name not in values:
            values[name] = self._storage.allocate(count, result.shape[1:])
        values[name].write(first, result)
