"""Without a card: every tensor of a tuning step is on the device, and nothing asks it for a number.

Tensors on the device `meta` hold no values, so that mixing devices and waiting for a value both fail.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mrecg.cache.storage import Storage
from mrecg.quantizers import lsq as activation
from mrecg.quantizers.adaround import LearnedRounding, Penalty
from mrecg.quantizers.grid import Grid, Scaling, neighbours
from mrecg.quantizers.logarithmic import (
    LogarithmicActivation,
    LogarithmicWeight,
    Logarithms,
    logarithmic_scaling,
)
from mrecg.quantizers.losses import loss_and_slopes
from mrecg.quantizers.lsq import ActivationQuantizer, RandomMask

CARD = torch.device("meta")


def step(x: Tensor, weight: Tensor, keep_probability: float) -> tuple[Tensor, list[Tensor]]:
    """One step on a convolution, as `tune` takes it; the loss and the gradients."""
    grid = Grid(0, 3, False)
    quantizer = ActivationQuantizer(grid)
    quantizer.scaling = Scaling(x.new_full((), 0.5), x.new_zeros(()))
    mask = None if keep_probability == 1 else RandomMask(keep_probability, seed=0)
    factor = quantizer.start_learning(mask)
    scaling = Scaling(x.new_full((4, 1, 1, 1), 0.3), x.new_ones(4, 1, 1, 1))
    learned = LearnedRounding(neighbours(weight, scaling, grid), scaling, grid)
    output = functional.conv2d(quantizer(x), learned(Penalty(0.01, 10.0)))
    loss, slopes = loss_and_slopes([output], [torch.zeros_like(output)], [4])
    parameters = [learned.logits, factor]
    torch.autograd.backward([output], slopes, inputs=parameters)
    return loss, [one.grad for one in parameters if one.grad is not None]


def test_logarithms_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Logarithms, "of", lambda scaling: Logarithms(-90.0))
    x, weight = torch.empty(8, 3, 6, 6, device=CARD), torch.empty(4, 3, 3, 3, device=CARD)
    scaling = logarithmic_scaling(weight.abs().amax())
    activations, weights = LogarithmicActivation(), LogarithmicWeight(weight, scaling)
    activations.scaling = scaling
    activations.start_learning(RandomMask(0.5, seed=0))
    learned = weights.start_learning(weight)
    functional.conv2d(activations(x), weights(weight)).sum().backward()
    assert learned.logits.grad is not None
    assert learned.logits.grad.device == CARD


@pytest.mark.parametrize("keep_probability", [1.0, 0.5])
def test_a_step_stays_on_the_device(
    keep_probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read once, when a quantizer gets its range: the only number that a step needs from a tensor.
    monkeypatch.setattr(activation, "limits", lambda scaling, grid: (0.0, 3.0))
    x, weight = torch.empty(8, 3, 6, 6, device=CARD), torch.empty(4, 3, 3, 3, device=CARD)
    loss, gradients = step(x, weight, keep_probability)
    assert {loss.device, *(gradient.device for gradient in gradients)} == {CARD}
    assert len(gradients) == 2


def test_the_device_would_notice() -> None:
    """What the test above relies on."""
    x = torch.empty(3, 3, device=CARD)
    with pytest.raises(RuntimeError):
        x + torch.ones(3, 3)
    with pytest.raises(RuntimeError):
        float(x.sum())


def test_batches_travel_to_the_device() -> None:
    stored = Storage(CARD).allocate(6, (3, 4, 4))
    stored.write(0, torch.zeros(6, 3, 4, 4))
    assert stored.batch(torch.tensor([1, 5])).device == CARD
    assert stored.portion(0, 4).device == CARD
