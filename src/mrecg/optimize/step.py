"""One step of a group's optimisation: what it computes, and what changes from one to the next."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import Values, run_units
from mrecg.config.settings import Precision
from mrecg.graph.units import Unit
from mrecg.optimize.adam import Adam
from mrecg.optimize.precision import precision, products
from mrecg.quantizers.adaround import Penalty
from mrecg.quantizers.losses import loss_and_slopes
from mrecg.quantizers.lsq import RandomMask
from mrecg.quantizers.weight import WeightQuantizer

__all__ = ["Batch", "Numbers", "Step"]

Tensors = dict[str, Tensor]


class Numbers(NamedTuple):
    """Where the schedules stand: the penalty, and a rate for each of Adam's groups. Tensors without axes, or floats."""

    penalty: Penalty
    rates: tuple[float | Tensor, ...]


class Batch(NamedTuple):
    """The values of some images.

    Attributes:
        quantized: the group's inputs behind the quantized units before.
        plain: the same in the float network, where a mask is to mix them; a step overwrites these,
        targets: and these, the group's outputs in the float network.
    """

    quantized: Tensors
    plain: Tensors
    targets: Tensors

    @classmethod
    def of(
        cls, chosen: Tensor, quantized: Values, plain: Values, targets: Values, mixes: bool
    ) -> "Batch":
        """Those of the images at `chosen`."""
        mixed = [name for name in quantized if mixes and plain[name] is not quantized[name]]
        return cls(
            {name: values.batch(chosen) for name, values in quantized.items()},
            {name: plain[name].batch(chosen) for name in mixed},
            {name: values.batch(chosen) for name, values in targets.items()},
        )


class Step:
    """Forward, penalty, backward, optimiser. Asks no tensor for its value.

    Args:
        units: neighbouring units, run in order.
        weights: whose rounding is learned.
        learned: every tensor that receives a gradient.
        adam: on those.
        mask: which elements of the inputs come from the float network (QDrop), or `None`.
        computed_in: the precision of convolutions and products.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        weights: Iterable[WeightQuantizer],
        learned: Sequence[Tensor],
        adam: Adam,
        mask: RandomMask | None,
        computed_in: Precision,
    ) -> None:
        self._units, self._weights, self._learned = units, list(weights), learned
        self._channels = {name: count for unit in units for name, count in unit.channels.items()}
        self._adam, self._mask, self._precision = adam, mask, computed_in

    def __call__(self, batch: Batch, numbers: Numbers) -> Tensor:
        """Take the step; returns its loss."""
        penalty = numbers.penalty if numbers.penalty.acts else None
        for quantizer in self._weights:
            quantizer.soften(penalty)
        given = {name: self._mixed(batch.plain.get(name), v) for name, v in batch.quantized.items()}
        device = next(iter(given.values())).device
        with products(self._precision, device):
            with precision(self._precision, device):
                made = run_units(self._units, given)
            outputs = [made[name].float() for name in batch.targets]
            channels = [self._channels[name] for name in batch.targets]
            loss, slopes = loss_and_slopes(outputs, list(batch.targets.values()), channels)
            self._backward(outputs, slopes)
        distributed.average_gradients(self._learned)
        self._adam.step(*numbers.rates)
        return loss

    def _mixed(self, plain: Tensor | None, quantized: Tensor) -> Tensor:
        """QDrop takes each element of an input from either network."""
        if plain is None or self._mask is None:
            return quantized
        return plain.lerp_(quantized, self._mask.like(quantized))

    def _backward(self, outputs: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Gradients of what is learned, and of nothing else; an output may depend on none of it."""
        depends = [output.requires_grad for output in outputs]
        torch.autograd.backward(
            list(itertools.compress(outputs, depends)),
            list(itertools.compress(slopes, depends)),
            inputs=list(self._learned),
        )
