"""Adam without the cost of gathering tensors in every step."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Adam"]


class _Group:
    """The tensors of one learning rate that have a gradient, and their moments."""

    def __init__(self, parameters: Sequence[Tensor], step: Tensor) -> None:
        self.parameters = [one for one in parameters if one.grad is not None]
        self._means = [torch.zeros_like(one) for one in self.parameters]
        self._squares = [torch.zeros_like(one) for one in self.parameters]
        self._steps = [step] * len(self.parameters)

    def step(self, rate: float | Tensor) -> None:
        gradients = [one.grad for one in self.parameters if one.grad is not None]
        assert len(gradients) == len(self.parameters), "a gradient is missing that was there before"
        if not gradients:
            return
        # Private, but the schema has not changed since it appeared; a test holds it against `torch.optim.Adam`.
        torch._fused_adam_(
            self.parameters,
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        for one in self.parameters:
            one.grad = None


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with torch's constants and torch's kernel.

    `torch.optim.Adam` gathers parameters, gradients and moments anew in every step, which takes longer than the kernel
    where a step is a few milliseconds. Here the first step decides which tensors have a gradient: one that no output depends
    on has none in any step.

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
            self._groups = [_Group(parameters, self._step) for parameters in self._given]
        self._step += 1
        for group, rate in zip(self._groups, rates, strict=True):
            group.step(rate)
