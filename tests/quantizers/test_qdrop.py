"""Random masks: they repeat, they differ, and they fit."""

import pytest
import torch

from mrecg.quantizers.qdrop import RandomMask


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_a_mask_takes_each_element_from_one_network(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By numbers as on the CPU, or by booleans as on a CUDA device."""
    mask = RandomMask(0.5, seed=0)
    kept = (torch.arange(12) % 3 == 0).view(3, 4)
    monkeypatch.setattr(mask, "like", lambda x: kept.to(dtype))
    of_float, quantized = torch.arange(12.0).view(3, 4), -torch.arange(12.0).view(3, 4)
    wanted = torch.where(kept, quantized, of_float)
    assert torch.equal(mask.mix(of_float.clone(), quantized), wanted)


def test_held_masks_are_the_masks() -> None:
    """In the same order, each in memory of its own."""
    shapes = [(2, 3, 4, 4), (5,), (2, 3, 4, 4)]
    drawn, held = RandomMask(0.5, seed=1), RandomMask(0.5, seed=1)
    held.hold()
    rounds = []
    for _ in range(3):
        wanted = [drawn.like(torch.zeros(shape)).clone() for shape in shapes]
        held.redraw()
        found = [held.like(torch.zeros(shape)) for shape in shapes]
        assert all(torch.equal(*pair) for pair in zip(wanted, found, strict=True))
        rounds.append([mask.data_ptr() for mask in found])
    assert rounds[0] == rounds[1] == rounds[2]
    assert len(set(rounds[0])) == 3
