"""The reconstruction loss, its gradient, and the signal power, against formulas written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mrecg.quantizers.losses import loss_and_slopes, reconstruction_loss, signal_power
from toys import normal


def test_losses_follow_their_formula() -> None:
    output, target = normal(3, 4, 5, 5), normal(3, 4, 5, 5, seed=1)
    expected = (output - target).pow(2).sum(1).mean()
    torch.testing.assert_close(reconstruction_loss(output, target, 4), expected)
    tokens = normal(3, 7, 4)
    torch.testing.assert_close(signal_power(tokens, 4), tokens.pow(2).sum(-1).mean())


def test_slopes_of_the_loss_are_its_gradient() -> None:
    shapes, channels = [(3, 4, 5, 5), (3, 7, 4), (3, 6)], [4, 4, 6]
    outputs = [normal(*shape).requires_grad_() for shape in shapes]
    targets = [normal(*shape, seed=1) for shape in shapes]
    expected = sum(map(reconstruction_loss, outputs, targets, channels))
    assert isinstance(expected, Tensor)
    expected.backward()
    loss, slopes = loss_and_slopes(outputs, [target.clone() for target in targets], channels)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slopes, [output.grad for output in outputs])


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_torchs_in_the_memory_order_of_the_output(
    order: torch.memory_format,
) -> None:
    output, target = (
        normal(3, 4, 5, 5, seed=one).contiguous(memory_format=order) for one in (0, 1)
    )
    gradients = []
    for loss in (reconstruction_loss, lambda *given: functional.mse_loss(*given[:2]) * given[2]):
        given = output.clone().requires_grad_()
        loss(given, target, 4).backward()
        assert given.grad is not None
        gradients.append(given.grad)
    assert gradients[0].stride() == output.stride()
    assert torch.equal(*gradients)
