"""What was tried and is no setting: against the overfitting of the network as a whole, and to end groups sooner.

Each trial replaces parts of the method for the length of one run.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.held_out.stopping import stopped_by_held_out_images
from mrecg.optimize import network
from mrecg.optimize.adam import Adam
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.activation import ActivationQuantizer, FakeQuantizer
from mrecg.quantizers.grid import Scaling
from mrecg.quantizers.qdrop import RandomMask
from mrecg.records.record import Curve

__all__ = ["TRIALS", "generated_images", "trial"]

AVERAGED = 0.01
"""Part of an average that the newest latents make up."""
PULL = 0.05
"""Part of the way to its code that a latent goes in a step, as a multiple of the rate."""
KEPT = 0.9
"""Probability that a value is quantized while the stage drops quantization (QDrop inside it)."""
GENERATED = 256
GENERATED_AT_ONCE = 64
GENERATING_STEPS = 150
GENERATING_RATE = 0.1


_Ran = tuple[Curve, int | None]
"""Losses of the stage, and the step at which one was no number."""


class _AveragingAdam(Adam):
    """Adam that keeps a running average of what it learns."""

    def __init__(self, *groups: Sequence[Tensor]) -> None:
        super().__init__(*groups)
        self._learned = [one for group in groups for one in group]
        self._averages = [one.detach().clone() for one in self._learned]

    def step(self, *rates: float | Tensor) -> None:
        super().step(*rates)
        for average, one in zip(self._averages, self._learned, strict=True):
            average.lerp_(one.detach(), AVERAGED)

    @torch.no_grad()
    def take_averages(self) -> None:
        """Put the averages in the place of the last values."""
        for average, one in zip(self._averages, self._learned, strict=True):
            one.copy_(average)


class _PullingAdam(Adam):
    """Adam that pulls the tensors of the first group, the latents, towards their codes."""

    def __init__(self, *groups: Sequence[Tensor]) -> None:
        super().__init__(*groups)
        self._latents = groups[0]

    @torch.no_grad()
    def step(self, *rates: float | Tensor) -> None:
        super().step(*rates)
        for latent in self._latents:
            latent.lerp_(latent.round(), PULL * float(rates[0]))


class _Dropping(ActivationQuantizer):
    """A quantizer whose learning leaves some values in float."""

    def __init__(self, quantizer: ActivationQuantizer, seed: int) -> None:
        self.grid, self.prescribed = quantizer.grid, quantizer.prescribed
        self._quantizer, self._seed = quantizer, seed

    def fix(self, scaling: Scaling) -> FakeQuantizer:
        return self._quantizer.fix(scaling)

    def learn(
        self, scaling: Scaling, mask: RandomMask | None, relative: bool = True
    ) -> FakeQuantizer:
        return self._quantizer.learn(scaling, RandomMask(KEPT, self._seed), relative)


def _averaging_run(run: Callable[..., _Ran]) -> Callable[..., _Ran]:
    def averaged(*arguments: Any) -> _Ran:
        made: list[_AveragingAdam] = []

        def make(*groups: Sequence[Tensor]) -> _AveragingAdam:
            made.append(_AveragingAdam(*groups))
            return made[-1]

        with mock.patch.object(network, "Adam", make):
            ran = run(*arguments)
        made[0].take_averages()
        return ran

    return averaged


def _dropping_start(start: Callable[..., Any]) -> Callable[..., Any]:
    learned = PreparedGraph.learned_activations

    def dropping(self: PreparedGraph, units: Any) -> Mapping[str, ActivationQuantizer]:
        quantizers = learned(self, units).items()
        return {name: _Dropping(one, seed) for seed, (name, one) in enumerate(quantizers)}

    def started(*arguments: Any) -> Any:
        with mock.patch.object(PreparedGraph, "learned_activations", dropping):
            return start(*arguments)

    return started


Trial = contextlib.AbstractContextManager[object]


def _replaced(attribute: str, make: Callable[[], object]) -> Callable[[], Trial]:
    return lambda: mock.patch.object(network, attribute, make())


TRIALS: dict[str, Callable[[], Trial]] = {
    "averaged": _replaced("_run", lambda: _averaging_run(network._run)),
    "pulled": _replaced("Adam", lambda: _PullingAdam),
    "dropped": _replaced("_start", lambda: _dropping_start(network._start)),
    "held-out-stop": stopped_by_held_out_images,
}
"""By name: what replaces parts of a run."""


def trial(name: str | None) -> Trial:
    """Return the context in which a run is one of the trials."""
    return contextlib.nullcontext() if name is None else TRIALS[name]()


@cache
def generated_images(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return images on which a float network's batch norms see the statistics that they were trained with.

    Noise is optimized until the means and variances of every batch norm's input are its running ones (ZeroQ: Cai et al.,
    CVPR 2020; Genie: Jeon et al., CVPR 2023, has a generator besides).

    Args:
        model: the float network.
        shape: of one image.
    """
    model.eval()
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    losses: list[Tensor] = []

    def compare(norm: nn.BatchNorm2d, given: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(given[0], (0, 2, 3))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        losses.append((mean - norm.running_mean).square().mean())
        losses.append((var.sqrt() - norm.running_var.sqrt()).square().mean())

    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    generator, device = torch.Generator().manual_seed(0), norms[0].weight.device
    found = []
    for _ in range(GENERATED // GENERATED_AT_ONCE):
        noise = torch.randn(GENERATED_AT_ONCE, *shape, generator=generator)
        images = noise.to(device).requires_grad_()
        adam = torch.optim.Adam([images], GENERATING_RATE)
        for _ in range(GENERATING_STEPS):
            losses.clear()
            model(images)
            (images.grad,) = torch.autograd.grad(torch.stack(losses).sum(), [images])
            adam.step()
        found.append(images.detach().cpu())
    for hook in hooks:
        hook.remove()
    return torch.cat(found)
