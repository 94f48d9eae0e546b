"""Learned codes: where they start, their gradient, and what they become."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mrecg.quantizers.grid import Scaling, UniformGrid
from mrecg.quantizers.latent import LatentCodes
from mrecg.quantizers.weight import WeightState

GRID = UniformGrid(0, 3, False)


def start(codes: Tensor, weight: Tensor, scale: float = 0.5) -> tuple[LatentCodes, WeightState]:
    scaling = Scaling(torch.full((len(weight), 1), scale), torch.ones(len(weight), 1))
    state = WeightState(codes, scaling)
    return LatentCodes.start(weight, state, GRID), state


@pytest.mark.parametrize("distance", [-3.0, -0.9, 0.0, 0.4, 1.0, 5.0])
def test_the_start_is_the_state_it_is_given(distance: float) -> None:
    """However far the float weight is from its code: latents are half-way, and never at a tie."""
    codes = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    weight = (codes - 1 + distance) * 0.5
    learned, state = start(codes, weight)
    assert torch.equal(learned.current().codes, codes)
    assert torch.equal(learned.current().scaling.scale, state.scaling.scale)
    torch.testing.assert_close(learned.weight(), GRID.dequantize(*state))
    exact = (codes + distance).clamp(0, 3)
    half = 0.5 * (codes + exact)
    near = (half - codes).abs() < 0.49
    torch.testing.assert_close(learned.latent[near], half[near])


def test_gradients_pass_the_rounding_and_stop_outside_the_grid() -> None:
    learned, _ = start(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.zeros(1, 4))
    with torch.no_grad():
        learned.latent.copy_(torch.tensor([[-0.4, 1.2, 2.4, 3.3]]))
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    learned.weight().backward(upstream)
    assert learned.latent.grad is not None
    assert learned.factor.grad is not None
    torch.testing.assert_close(learned.latent.grad, torch.tensor([[0.0, 1.0, 1.5, 0.0]]))
    values = (torch.tensor([[0.0, 1.0, 2.0, 3.0]]) - 1) * 0.5
    torch.testing.assert_close(learned.factor.grad, (upstream * values).sum(1, keepdim=True))


def test_weights_and_gradients_are_bit_for_bit_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (6, 8), generator=generator).float()
    learned, state = start(codes, torch.randn(6, 8, generator=generator), 0.3)
    upstream = torch.randn(6, 8, generator=generator)
    learned.weight().backward(upstream)
    latent, factor = (one.detach().requires_grad_() for one in (learned.latent, learned.factor))
    inside = functional.hardtanh(latent, GRID.low, GRID.high)
    rounded = inside + (torch.round(inside) - inside).detach()
    composed = (rounded - state.scaling.zero_point) * (state.scaling.scale * factor)
    assert torch.equal(learned.weight(), composed)
    composed.backward(upstream)
    for one, other in ((learned.latent, latent), (learned.factor, factor)):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_codes_stay_on_the_grid_and_scales_grow_by_the_factor() -> None:
    learned, state = start(torch.tensor([[0.0, 3.0]]), torch.zeros(1, 2))
    with torch.no_grad():
        learned.latent.copy_(torch.tensor([[-7.0, 9.0]]))
        learned.factor.fill_(1.25)
    found = learned.current()
    assert found.codes.tolist() == [[0, 3]]
    torch.testing.assert_close(found.scaling.scale, 1.25 * state.scaling.scale)
    torch.testing.assert_close(learned.weight(), GRID.dequantize(*found))
