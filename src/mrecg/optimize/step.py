"""One optimization step of a group."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import CachedActivations, run_quantized_units
from mrecg.cache.storage import copy_to_device
from mrecg.config.optimization import Precision
from mrecg.graph.units import Unit
from mrecg.optimize.adam import Adam
from mrecg.optimize.schedule import ScheduledValues
from mrecg.planning.windows import DrawnWindows
from mrecg.preparation.prepared_graph import Binding
from mrecg.quantizers.adaround import LearnedRounding, Penalty
from mrecg.quantizers.losses import loss_and_slopes
from mrecg.quantizers.qdrop import RandomMask
from mrecg.shortage import Parts
from mrecg.torch_state import compute_precision, matmul_precision

__all__ = ["Batch", "Step", "Tensors", "read_values"]

Tensors = dict[str, Tensor]


class Batch(NamedTuple):
    """The activations of some images.

    Attributes:
        quantized: the group's inputs behind the quantized units before.
        of_float: the same in the float network, where a mask mixes them; a step overwrites these.
        targets: the group's outputs in the float network; a step overwrites these, too.
        inside: 1 for each position of a target that is compared and 0 for the others, where all are windows; else empty.
    """

    quantized: Tensors
    of_float: Tensors
    targets: Tensors
    inside: Tensors

    @classmethod
    def read(
        cls,
        chosen: Tensor,
        quantized: CachedActivations,
        of_float: CachedActivations,
        targets: CachedActivations,
        mixes: bool,
        windows: DrawnWindows | None = None,
    ) -> "Batch":
        """Read the activations of the images at `chosen`, or only windows of them."""
        mixed = {
            name: of_float[name]
            for name in quantized
            if mixes and of_float[name] is not quantized[name]
        }
        made = read_values(targets, chosen, windows)
        inside = {
            name: copy_to_device(windows.inside(name), values.device)
            for name, values in made.items()
            if windows is not None
        }
        given, floats = (read_values(one, chosen, windows) for one in (quantized, mixed))
        return cls(given, floats, made, inside)


def read_values(
    values: CachedActivations, chosen: Tensor, windows: DrawnWindows | None
) -> dict[str, Tensor]:
    """Return the values of the images at `chosen`, or windows of them."""
    cut = (lambda name: None) if windows is None else windows.cut
    return {name: one.batch(chosen, cut(name)) for name, one in values.items()}


@dataclass(frozen=True)
class Step:
    """Forward, backward, optimizer. Reads no tensor's value, which would make the host wait for a GPU.

    Attributes:
        units: neighboring units, run in order.
        bindings: what their graphs take, but for the weights of `roundings`.
        roundings: the learned roundings by the names of their quantizers.
        variables: every tensor that receives a gradient.
        adam: on those.
        mask: which elements of the inputs come from the quantized network (QDrop); `None` for all.
        precision: of convolutions and products.
        parts: of a batch, where memory is not enough for the whole.
    """

    units: Sequence[Unit]
    bindings: Mapping[str, Binding]
    roundings: Mapping[str, LearnedRounding]
    variables: Sequence[Tensor]
    adam: Adam
    mask: RandomMask | None
    precision: Precision
    parts: Parts

    def __call__(
        self,
        batch: Batch,
        scheduled: ScheduledValues,
        reread: Callable[[], Tensors] | None = None,
    ) -> Tensor:
        """Take the step; return its loss.

        Args:
            batch: of all images.
            scheduled: the penalty and the rates.
            reread: returns the batch's targets once more, for a second try in smaller parts; without it there is none.
        """
        given = {
            name: self._mix(batch.of_float.get(name), values)
            for name, values in batch.quantized.items()
        }
        unread = [batch.targets]

        def accumulate(at_once: int) -> Tensor:
            targets = unread.pop() if reread is None or unread else reread()
            return self._accumulate(given, targets, batch.inside, scheduled.penalty, at_once)

        size = len(next(iter(given.values())))
        loss = accumulate(size) if reread is None else self.parts.run(size, accumulate)[1]
        distributed.average_gradients(self.variables)
        self.adam.step(*scheduled.rates)
        return loss

    def _accumulate(
        self, given: Tensors, targets: Tensors, inside: Tensors, penalty: Penalty, at_once: int
    ) -> Tensor:
        """Compute the gradients of a batch in parts; the loss is a mean over its images, so a part counts by its size."""
        size = len(next(iter(given.values())))
        if at_once >= size:
            return self._compute_gradients(given, targets, inside, penalty, 1.0)
        for one in self.variables:
            one.grad = None  # of a try that memory was not enough for
        losses = []
        for first in range(0, size, at_once):
            inputs, wanted, compared = (
                {name: values[first : first + at_once] for name, values in whole.items()}
                for whole in (given, targets, inside)
            )
            share = min(at_once, size - first) / size
            losses.append(self._compute_gradients(inputs, wanted, compared, penalty, share))
        return torch.stack(losses).sum()

    def _compute_gradients(
        self, given: Tensors, targets: Tensors, inside: Tensors, penalty: Penalty, share: float
    ) -> Tensor:
        """Add a part's share to the gradients; return its share of the loss."""
        if share < 1:
            penalty = penalty._replace(strength=penalty.strength * share)
        # Once per part, however often a weight is read, so that the penalty counts once.
        soft = {
            name: one.soft_weight(penalty if penalty.acts else None)
            for name, one in self.roundings.items()
        }
        device = next(iter(given.values())).device
        channels = {name: count for unit in self.units for name, count in unit.channels.items()}
        with matmul_precision(self.precision, device):
            with compute_precision(self.precision, device):
                made = run_quantized_units(self.units, given, {**self.bindings, **soft})
            outputs = [made[name].float() for name in targets]
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
        """Take each element of an input from either network (QDrop, eq. 8)."""
        if of_float is None or self.mask is None:
            return quantized
        return of_float.lerp_(quantized, self.mask.like(quantized))

    def _backward(self, outputs: Sequence[Tensor], slopes: Sequence[Tensor]) -> None:
        """Compute the gradients of the variables and of nothing else; an output may depend on none of them."""
        depends = [output.requires_grad for output in outputs]
        torch.autograd.backward(
            list(itertools.compress(outputs, depends)),
            list(itertools.compress(slopes, depends)),
            inputs=list(self.variables),
        )
