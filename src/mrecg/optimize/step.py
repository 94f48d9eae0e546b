"""One optimization step of a group."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import CachedActivations, run_quantized_units
from mrecg.cache.stored import copy_to_device
from mrecg.config.optimization import Precision
from mrecg.graph.units import Unit
from mrecg.optimize.adam import Adam
from mrecg.optimize.schedule import ScheduledValues
from mrecg.planning.windows import DrawnWindows
from mrecg.preparation.prepared_graph import Binding
from mrecg.quantizers import kernels
from mrecg.quantizers.adaround import LearnedRounding
from mrecg.quantizers.kernels import Slope
from mrecg.quantizers.losses import loss_and_slopes
from mrecg.quantizers.qdrop import RandomMask
from mrecg.shortage import Parts
from mrecg.torch_state import compute_precision, matmul_precision

__all__ = ["Batch", "BatchReader", "Drawn", "Step", "Tensors"]

Tensors = dict[str, Tensor]


class Batch(NamedTuple):
    """The activations of some images.

    Attributes:
        quantized: the group's inputs behind the quantized units before.
        of_float: the same in the float network, where a mask mixes them; a step may overwrite these.
        targets: the group's outputs in the float network; a step may overwrite these, too.
        inside: 1 for each position of a target that is compared and 0 for the others, where all are windows; else empty.
    """

    quantized: Tensors
    of_float: Tensors
    targets: Tensors
    inside: Tensors


class Drawn(NamedTuple):
    """Images that a step sees, or windows of them.

    Attributes:
        chosen: the images' numbers.
        windows: the parts of their maps; `None` for whole maps.
    """

    chosen: Int64[Tensor, " b"]
    windows: DrawnWindows | None = None


@dataclass(frozen=True)
class BatchReader:
    """Read the batches of a group.

    Attributes:
        quantized: its inputs behind the quantized units before.
        of_float: those of its inputs in the float network that a mask mixes with them.
        targets: its outputs in the float network.
    """

    quantized: CachedActivations
    of_float: CachedActivations
    targets: CachedActivations

    @property
    def images(self) -> int:
        """Return how many there are."""
        return len(next(iter(self.targets.values())))

    @property
    def is_on_device(self) -> bool:
        """Return whether all is where the units run."""
        values = (self.quantized, self.of_float, self.targets)
        return all(one.is_on_device for part in values for one in part.values())

    def read(self, drawn: Drawn) -> Batch:
        """Return the activations of the images that were drawn, or windows of them."""
        made, windows = self.read_targets(drawn), drawn.windows
        inside = {
            name: copy_to_device(windows.inside(name), values.device)
            for name, values in made.items()
            if windows is not None
        }
        return Batch(_read(self.quantized, drawn), _read(self.of_float, drawn), made, inside)

    def read_targets(self, drawn: Drawn) -> Tensors:
        """Return the batch's targets alone."""
        return _read(self.targets, drawn)


def _as_compared(output: Tensor) -> Tensor:
    """Return an output in float32, in which it is compared, or as it is where compiled kernels do the conversion."""
    return output if kernels.fit(output) else output.float()


def _read(values: CachedActivations, drawn: Drawn) -> Tensors:
    cut = (lambda name: None) if drawn.windows is None else drawn.windows.cut
    return {name: one.batch(drawn.chosen, cut(name)) for name, one in values.items()}


@dataclass(frozen=True)
class Step:
    """Forward, backward, optimizer. Reads no tensor's value, which would make the host wait for a GPU.

    Attributes:
        reader: of the group's batches.
        units: neighboring units, run in order.
        bindings: what their graphs take, but for the weights of `roundings`.
        roundings: the learned roundings by the names of their quantizers.
        variables: every tensor that receives a gradient.
        adam: on those.
        mask: which elements of the inputs come from the quantized network (QDrop); `None` for all.
        precision: of convolutions and products.
        parts: of a batch, where memory is not enough for the whole.
    """

    reader: BatchReader
    units: Sequence[Unit]
    bindings: Mapping[str, Binding]
    roundings: Mapping[str, LearnedRounding]
    variables: Sequence[Tensor]
    adam: Adam
    mask: RandomMask | None
    precision: Precision
    parts: Parts

    def __call__(self, drawn: Drawn, scheduled: ScheduledValues) -> Tensor:
        """Read a batch and take the step on it; return its loss."""
        reread = partial(self.reader.read_targets, drawn)
        return self.take(self.reader.read(drawn), scheduled, reread)

    def take(
        self,
        batch: Batch,
        scheduled: ScheduledValues,
        reread: Callable[[], Tensors] | None = None,
    ) -> Tensor:
        """Take the step; return its loss.

        Args:
            batch: of all images.
            scheduled: the penalty's slope and the rates.
            reread: returns the batch's targets once more, for a second try in smaller parts; without it there is none.
        """
        given = {
            name: self._mix(batch.of_float.get(name), values)
            for name, values in batch.quantized.items()
        }
        unread = [batch.targets]

        def accumulate(at_once: int) -> Tensor:
            targets = unread.pop() if reread is None or unread else reread()
            return self._accumulate(given, targets, batch.inside, scheduled.slope, at_once)

        size = len(next(iter(given.values())))
        loss = accumulate(size) if reread is None else self.parts.run(size, accumulate)[1]
        distributed.average_gradients(self.variables)
        self.adam.step(*scheduled.rates)
        return loss

    def _accumulate(
        self, given: Tensors, targets: Tensors, inside: Tensors, slope: Slope | None, at_once: int
    ) -> Tensor:
        """Compute the gradients of a batch in parts; the loss is a mean over its images, so a part counts by its size."""
        size = len(next(iter(given.values())))
        if at_once >= size:
            return self._compute_gradients(given, targets, inside, slope, 1.0)
        for one in self.variables:
            one.grad = None  # of a try that memory was not enough for
        losses = []
        for first in range(0, size, at_once):
            inputs, wanted, compared = (
                {name: values[first : first + at_once] for name, values in whole.items()}
                for whole in (given, targets, inside)
            )
            share = min(at_once, size - first) / size
            losses.append(self._compute_gradients(inputs, wanted, compared, slope, share))
        return torch.stack(losses).sum()

    def _compute_gradients(
        self, given: Tensors, targets: Tensors, inside: Tensors, slope: Slope | None, share: float
    ) -> Tensor:
        """Add a part's share to the gradients; return its share of the loss."""
        if share < 1 and slope is not None:
            slope = share * slope[0], slope[1]
        # Once per part, however often a weight is read, so that the penalty counts once.
        soft = {name: one.soft_weight(slope) for name, one in self.roundings.items()}
        device = next(iter(given.values())).device
        channels = {name: count for unit in self.units for name, count in unit.channels.items()}
        with matmul_precision(self.precision, device):
            with compute_precision(self.precision, device):
                made = run_quantized_units(self.units, given, {**self.bindings, **soft})
            outputs = [_as_compared(made[name]) for name in targets]
            loss, slopes = loss_and_slopes(
                outputs,
                list(targets.values()),
                [channels[name] for name in targets],
                [inside.get(name) for name in targets],
            )
            if share < 1:
                loss, slopes = loss * share, [one.mul_(share) for one in slopes]
            self._backward(outputs, slopes)
        return loss

    def _mix(self, of_float: Tensor | None, quantized: Tensor) -> Tensor:
        if of_float is None or self.mask is None:
            return quantized
        return self.mask.mix(of_float, quantized)

    def _backward(self, outputs: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Compute the gradients of the variables and of nothing else; an output may depend on none of them."""
        depends = [output.requires_grad for output in outputs]
        torch.autograd.backward(
            list(itertools.compress(outputs, depends)),
            list(itertools.compress(slopes, depends)),
            inputs=list(self.variables),
        )
