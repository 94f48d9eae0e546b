"""Fake quantization with dropping, its masks, and the loss."""

import pytest
import torch
from torch import Tensor

from mrecg.quantizers.grid import (
    Grid,
    Scaling,
    dequantize,
    quantize,
)
from mrecg.quantizers.losses import loss_and_slopes, reconstruction_loss, signal_power
from mrecg.quantizers.lsq import ActivationQuantizer, RandomMask


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def calibrated(grid: Grid, scaling: Scaling) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(grid)
    quantizer.scaling = scaling
    return quantizer


def test_fake_quantize_values_and_gradients() -> None:
    """LSQ, eq. 3, written out."""
    grid, scaling = Grid(0, 3, False), Scaling(torch.tensor(0.3), torch.tensor(1.0))
    quantizer = calibrated(grid, scaling)
    x = normal(2, 3, 4, 5).requires_grad_()
    expected = dequantize(quantize(x.detach(), scaling, grid), scaling)
    torch.testing.assert_close(quantizer(x.detach()), expected)
    step = quantizer.start_learning(None)
    out = quantizer(x)
    torch.testing.assert_close(out, expected)
    upstream = normal(2, 3, 4, 5, seed=1)
    out.backward(upstream)
    ratio = x.detach() / 0.3
    codes = ratio.round()
    inside = (codes >= -1) & (codes <= 2)
    torch.testing.assert_close(x.grad, upstream * inside)
    slope = torch.where(inside, codes - ratio, codes.clamp(-1, 2))
    torch.testing.assert_close(step.grad, 0.3 * (slope * upstream).sum())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropped_elements_pass_in_float(layout: torch.memory_format) -> None:
    scaling = Scaling(torch.tensor(0.5), torch.tensor(0.0))
    quantizer = calibrated(Grid(0, 3, False), scaling)
    x = normal(2, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    step = quantizer.start_learning(RandomMask(0.5, seed=0))
    out = quantizer(x)
    quantized = dequantize(quantize(x.detach(), scaling, quantizer.grid), scaling)
    kept = torch.isclose(out, quantized, rtol=0, atol=1e-6)
    dropped = out == x
    assert (kept | dropped).all()
    assert 0.3 < dropped.float().mean() < 0.7
    upstream = normal(2, 3, 8, 8, seed=1)
    out.backward(upstream)
    only_dropped = dropped & ~kept
    assert torch.equal(x.grad[only_dropped], upstream[only_dropped])
    only_kept = kept & ~dropped
    ratio = x.detach() / 0.5
    inside = (ratio.round() >= 0) & (ratio.round() <= 3)
    torch.testing.assert_close(x.grad[only_kept], (upstream * inside)[only_kept])
    slope = torch.where(inside, ratio.round() - ratio, ratio.round().clamp(0, 3))
    torch.testing.assert_close(
        step.grad, 0.5 * (slope * upstream)[only_kept].sum(), rtol=1e-3, atol=1e-3
    )
    quantizer.stop_learning()
    assert torch.equal(quantizer(x), quantized)


def test_masks_repeat_with_their_seed_and_move_on() -> None:
    first, second = RandomMask(0.25, seed=3), RandomMask(0.25, seed=3)
    x = torch.zeros(64, 64)
    masks = [first.like(x) for _ in range(3)]
    assert all(torch.equal(mask, second.like(x)) for mask in masks)
    assert not torch.equal(masks[0], masks[1])
    assert abs(float(torch.stack(masks).mean()) - 0.25) < 0.03


def test_masks_fit_tensors_of_any_layout() -> None:
    mask, base = RandomMask(0.5, seed=0), torch.zeros(2, 400, 30, 30)
    for x in (base[:, :2], base[:, :, ::7, 3], base[:1, :1].expand(2, 4, 30, 30)):
        assert mask.like(x).shape == x.shape
    laid_out = base.contiguous(memory_format=torch.channels_last)
    assert mask.like(laid_out).stride() == laid_out.stride()


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


def test_a_prescribed_scale_stays_although_others_become_powers_of_two() -> None:
    prescribed = Scaling(torch.tensor(0.1), torch.tensor(0.0))
    quantizer = ActivationQuantizer(Grid(0, 255, False), prescribed, power_of_two=True)
    x = torch.tensor([0.3], requires_grad=True)
    assert quantizer.start_learning(None) is None
    torch.testing.assert_close(quantizer(x), torch.tensor([0.3]))
    quantizer.stop_learning()
    assert quantizer.scaling == prescribed
