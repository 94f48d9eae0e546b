"""Without a GPU: every tensor of an optimization step is on the device, and nothing asks it for a number.

Tensors on the device `meta` hold no values, so that mixing devices and waiting for a value both fail.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mrecg.cache.storage import Storage
from mrecg.quantizers.adaround import Penalty
from mrecg.quantizers.grid import Scaling, UniformGrid
from mrecg.quantizers.logarithmic import (
    LogarithmicGrid,
    LogarithmicQuantizer,
    Logarithms,
    logarithmic_scaling,
)
from mrecg.quantizers.losses import loss_and_slopes
from mrecg.quantizers.lsq import UniformQuantizer
from mrecg.quantizers.qdrop import RandomMask
from mrecg.quantizers.weight import WeightQuantizer

DEVICE = torch.device("meta")


def step(x: Tensor, weight: Tensor, keep_probability: float) -> tuple[Tensor, list[Tensor]]:
    """Take one step on a convolution, as a group does; return the loss and the gradients."""
    grid = UniformGrid(0, 3, False)
    mask = None if keep_probability == 1 else RandomMask(keep_probability, seed=0)
    activation = Scaling(x.new_full((), 0.5), x.new_zeros(()))
    quantizer = UniformQuantizer(grid).learn(activation, mask)
    scaling = Scaling(x.new_full((4, 1, 1, 1), 0.3), x.new_ones(4, 1, 1, 1))
    learned = WeightQuantizer(grid, scaling).learn_rounding(weight, scaling)
    output = functional.conv2d(quantizer(x, None), learned.soft_weight(Penalty(0.01, 10.0).slope()))
    loss, slopes = loss_and_slopes([output], [torch.zeros_like(output)], [4])
    variables = [learned.alpha, learned.scale.delta, *quantizer.variables]
    torch.autograd.backward([output], slopes, inputs=variables)
    return loss, [one.grad for one in variables if one.grad is not None]


def test_logarithms_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Read once, when a quantizer gets its range, as the limits below are.
    monkeypatch.setattr(Logarithms, "of", lambda scaling: Logarithms(-90.0))
    x, weight = torch.empty(8, 3, 6, 6, device=DEVICE), torch.empty(4, 3, 3, 3, device=DEVICE)
    scaling = logarithmic_scaling(weight.abs().amax())
    quantizer = LogarithmicQuantizer().learn(scaling, RandomMask(0.5, seed=0))
    learned = WeightQuantizer(LogarithmicGrid(), scaling, True).learn_rounding(weight, scaling)
    functional.conv2d(quantizer(x, None), learned.soft_weight()).sum().backward()
    assert learned.alpha.grad is not None
    assert learned.alpha.grad.device == DEVICE


@pytest.mark.parametrize("keep_probability", [1.0, 0.5])
def test_a_step_stays_on_the_device(
    keep_probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read once, when a quantizer gets its range: the only number that a step needs from a tensor.
    monkeypatch.setattr(UniformGrid, "limits", lambda grid, scaling: (0.0, 3.0))
    x, weight = torch.empty(8, 3, 6, 6, device=DEVICE), torch.empty(4, 3, 3, 3, device=DEVICE)
    loss, gradients = step(x, weight, keep_probability)
    assert {loss.device, *(gradient.device for gradient in gradients)} == {DEVICE}
    assert len(gradients) == 3


def test_the_device_would_notice() -> None:
    """What the test above relies on."""
    x = torch.empty(3, 3, device=DEVICE)
    with pytest.raises(RuntimeError):
        x + torch.ones(3, 3)
    with pytest.raises(RuntimeError):
        float(x.sum())


def test_batches_travel_to_the_device() -> None:
    stored = Storage(DEVICE).allocate(6, (3, 4, 4))
    stored.write(0, torch.zeros(6, 3, 4, 4))
    assert stored.batch(torch.tensor([1, 5])).device == DEVICE
    assert stored.portion(0, 4).device == DEVICE
