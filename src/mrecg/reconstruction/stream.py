"""Float and quantized values of the calibration images, carried forward once per unit."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, fx

from mrecg.graph.units import Chain, Unit
from mrecg.quantization.ranges import Sample

__all__ = ["Stream", "Values", "run_units"]

Values = dict[str, Tensor]
"""Named values of the calibration images; the first axis is the image."""

_IMAGES_AT_ONCE = 64


def run_units(units: Sequence[Unit], values: Mapping[str, Tensor]) -> Values:
    """Run quantized units one after the other; returns what they were given and what they made."""
    known = dict(values)
    for unit in units:
        results = unit.quantized(*[known[name] for name in unit.inputs])
        known.update(zip(unit.outputs, results, strict=True))
    return known


class Stream:
    """What the units still ahead will read, from the float network and from the network quantized so far.

    Args:
        chain: the units.
        images: the calibration images; values stay on their device.
        device: where the units run.

    Attributes:
        plain: values of the float network.
        quantized: values behind quantized units.
        passes: how often each unit ran over all images, to show that the cost is linear.
    """

    def __init__(self, chain: Chain, images: Float[Tensor, "n ..."], device: torch.device) -> None:
        self.plain: Values = {chain.input: images}
        self.quantized: Values = {chain.input: images}
        self.passes: dict[str, int] = {}
        self._chain = chain
        self._device = device

    def inputs(self, units: Sequence[Unit]) -> tuple[Values, Values]:
        """What neighbouring units read from before them: in the float and in the quantized network."""
        made = {name for unit in units for name in unit.outputs}
        names = dict.fromkeys(name for unit in units for name in unit.inputs if name not in made)
        return {n: self.plain[n] for n in names}, {n: self.quantized[n] for n in names}

    def targets(self, units: Sequence[Unit]) -> Values:
        """What neighbouring units make for those after them, or as the model's result, in the float network."""
        last = self._chain.units.index(units[-1])
        names = [name for unit in units for name in unit.outputs]
        return {n: self.plain[n] for n in names if self._chain.last_reader.get(n, -1) > last}

    def advance_plain(self, unit: Unit, samples: Mapping[str, Sample]) -> None:
        """Run the float unit; `samples` see the tensors that its activation quantizers read."""

        def observe(results: Sequence[Tensor]) -> None:
            for name, tensor in zip(unit.activations, results[len(unit.outputs) :], strict=True):
                samples[name].add(tensor)

        self.plain.update(self._run(unit, unit.plain, self.plain, observe))

    def run_quantized(self, units: Sequence[Unit]) -> Values:
        """What the quantized units make of the quantized values, which stay as they are."""
        known = dict(self.quantized)
        for unit in units:
            known.update(self._run(unit, unit.quantized, known, lambda results: None))
        return {name: known[name] for unit in units for name in unit.outputs}

    def forget(self, units: Sequence[Unit]) -> None:
        """Free what no unit after `units` reads."""
        last = self._chain.units.index(units[-1])
        for values in (self.plain, self.quantized):
            for name in [n for n in values if self._chain.last_reader.get(n, -1) <= last]:
                del values[name]

    @torch.no_grad()
    def _run(
        self,
        unit: Unit,
        module: fx.GraphModule,
        values: Values,
        observe: Callable[[Sequence[Tensor]], None],
    ) -> Values:
        self.passes[unit.name] = self.passes.get(unit.name, 0) + 1
        parts: list[list[Tensor]] = [[] for _ in unit.outputs]
        inputs = [values[name].split(_IMAGES_AT_ONCE) for name in unit.inputs]
        for batch in zip(*inputs, strict=True):
            results = module(*[tensor.to(self._device) for tensor in batch])
            observe(results)
            for part, result in zip(parts, results, strict=False):
                part.append(result.to(batch[0].device))
        return {name: torch.cat(part) for name, part in zip(unit.outputs, parts, strict=True)}
