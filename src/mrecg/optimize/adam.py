"""Adam without the cost of gathering tensors in every step."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mrecg.quantizers.kernels import fused

__all__ = ["Adam"]

_STEPS = "steps"
_BETAS, _EPS = (0.9, 0.999), 1e-8


class _Group:
    """The tensors of one learning rate that have a gradient, and their moments."""

    def __init__(self, parameters: list[Tensor], step: Tensor) -> None:
        self.parameters = parameters
        self.means = [torch.zeros_like(one) for one in self.parameters]
        self.squares = [torch.zeros_like(one) for one in self.parameters]
        self._steps = [step] * len(self.parameters)

    def step(self, rate: float | Tensor) -> None:
        gradients = [one.grad for one in self.parameters if one.grad is not None]
        assert len(gradients) == len(self.parameters), "a gradient is missing that was there before"
        if not gradients:
            return
        if isinstance(rate, Tensor) and all(map(fused.fits, self.parameters)):
            # In a recorded step, where launches cost nothing: torch's kernel gives a device little to do at once.
            moments = zip(self.means, self.squares, strict=True)
            for one, slope, (mean, square) in zip(self.parameters, gradients, moments, strict=True):
                fused.adam(one, slope, mean, square, self._steps[0], rate, _BETAS, _EPS)
        else:
            self._step_by_torch(gradients, rate)
        for one in self.parameters:
            one.grad = None

    def _step_by_torch(self, gradients: list[Tensor], rate: float | Tensor) -> None:
        for one in gradients:
            # A root is infinitely steep at 0: without this, one such slope makes its variable NaN for good.
            one.nan_to_num_(0.0, 0.0, 0.0)
        # Private, but the schema has not changed since it appeared; a test holds it against `torch.optim.Adam`.
        torch._fused_adam_(
            self.parameters,
            gradients,
            self.means,
            self.squares,
            [],
            self._steps,
            lr=rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with torch's constants and torch's kernel, or ours in Triton in steps that a CUDA device repeats.

    `torch.optim.Adam` gathers parameters, gradients and moments anew in every step, which takes longer than the kernel
    where a step is a few milliseconds. Here the first step decides which tensors have a gradient: one that no output depends
    on has none in any step.

    Elements of a gradient that are NaN or infinite count as 0.

    Args:
        groups: tensors of the same rate each.
    """

    def __init__(self, *groups: Sequence[Tensor]) -> None:
        self._given = groups
        self._groups: list[_Group] | None = None
        device = next((one.device for group in groups for one in group), None)
        self._step = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def step(self, *rates: float | Tensor) -> None:
        """Take one step with a rate for each group, a float32 tensor or a number, and clear the gradients."""
        if self._groups is None:
            self._groups = [
                _Group([one for one in parameters if one.grad is not None], self._step)
                for parameters in self._given
            ]
        self._step += 1
        for group, rate in zip(self._groups, rates, strict=True):
            group.step(rate)

    def moments(self) -> dict[str, Tensor]:
        """Return copies of the number of steps and of the moments, by the places of group and tensor."""
        found = {_STEPS: self._step.clone()}
        for place, mean, square in self._places():
            found[f"{place}.mean"], found[f"{place}.square"] = mean.clone(), square.clone()
        return found

    @torch.no_grad()
    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Go on from moments that another optimizer of the same tensors had.

        Raises:
            ValueError: they are of other tensors.
        """
        self._groups = [
            _Group(
                [one for place, one in enumerate(group) if f"{number}.{place}.mean" in moments],
                self._step,
            )
            for number, group in enumerate(self._given)
        ]
        own = self.moments()
        if {name: one.shape for name, one in own.items()} != {
            name: one.shape for name, one in moments.items()
        }:
            self._groups = None
            raise ValueError("the moments are of other tensors")
        self._step.copy_(moments[_STEPS])
        for place, mean, square in self._places():
            mean.copy_(moments[f"{place}.mean"])
            square.copy_(moments[f"{place}.square"])

    def _places(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the place and the moments of all that has a gradient."""
        for number, (given, group) in enumerate(zip(self._given, self._groups or (), strict=False)):
            places = {id(one): place for place, one in enumerate(given)}
            for one, mean, square in zip(group.parameters, group.means, group.squares, strict=True):
                yield f"{number}.{places[id(one)]}", mean, square
