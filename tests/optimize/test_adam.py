"""Our short way to torch's kernel takes the very steps of torch's own class."""

import pytest
import torch
from torch import Tensor

from mrecg.optimize.adam import Adam


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last)
    return [weight, torch.randn(7, generator=generator), torch.randn((), generator=generator)]


def loss(weight: Tensor, vector: Tensor, number: Tensor) -> Tensor:
    return ((weight * number).sin().sum() + vector.exp().sum()) ** 2


@pytest.mark.parametrize("unused", [False, True])
def test_the_steps_are_torchs(unused: bool) -> None:
    ours, theirs = ([one.requires_grad_() for one in tensors()] for _ in range(2))
    idle = torch.ones(2, requires_grad=True)
    adam = Adam(ours[:1], [*ours[1:], *([idle] if unused else [])])
    groups = [{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:], "lr": 0.01}]
    optimizer = torch.optim.Adam(groups, fused=True)
    for _ in range(5):
        loss(*ours).backward()
        adam.step(0.1, 0.01)
        optimizer.zero_grad()
        loss(*theirs).backward()
        optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert all(one.grad is None for one in ours)
    assert torch.equal(idle, torch.ones(2))


def test_a_group_may_be_empty() -> None:
    """Where nothing of a kind is learned; the others take their own rate."""
    ours, theirs = ([one.requires_grad_() for one in tensors()] for _ in range(2))
    adam = Adam([], ours)
    optimizer = torch.optim.Adam(theirs, lr=0.01, fused=True)
    loss(*ours).backward()
    adam.step(0.5, 0.01)
    loss(*theirs).backward()
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
