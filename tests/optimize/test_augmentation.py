"""Views of images: what they keep, and that a seed decides them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import toys
from mrecg.errors import DataError
from mrecg.optimize.augmentation import (
    check_augment,
    make_augment,
    mirror_randomly,
    mix_patches,
    mix_pixels,
)
from mrecg.preparation.judging import mirror


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_only_images_have_mirror_images() -> None:
    assert torch.equal(mirror(toys.images(2)), toys.images(2).flip(-1))
    vectors = torch.randn(4, 6)
    assert torch.equal(mirror(vectors), vectors)


def test_half_of_the_batches_are_mirrored() -> None:
    images, random = toys.images(4), generator()
    made = [mirror_randomly(images, random) for _ in range(400)]
    mirrored = [torch.equal(one, images.flip(-1)) for one in made]
    assert all(
        torch.equal(one, images) for one, is_not in zip(made, mirrored, strict=True) if not is_not
    )
    assert 150 < sum(mirrored) < 250


@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_patch_is_a_rectangle_of_one_other_image(seed: int, height: int, width: int) -> None:
    """Each pixel is the image's own or, inside of one rectangle that is the same for all, another's."""
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, height, width).contiguous()
    mixed = mix_patches(images, generator(seed))
    others = mixed != images
    assert torch.equal(images, torch.arange(5.0).view(5, 1, 1, 1).expand_as(images))
    window = others.flatten(0, 1).any(0)
    rows, columns = window.any(1), window.any(0)
    assert torch.equal(window, rows[:, None] & columns[None, :])
    for along in (rows, columns):
        inside = along.nonzero().flatten()
        assert len(inside) == 0 or int(inside[-1] - inside[0]) + 1 == len(inside)
    for image, changed in zip(mixed, others, strict=True):
        assert len(set(image[changed].tolist())) <= 1


def test_patches_are_of_every_size() -> None:
    """The share of the pixels is uniform."""
    images = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 1, 32, 32).contiguous()
    random = generator()
    shares = torch.tensor(
        [float((mix_patches(images, random) != images).float().mean()) for _ in range(300)]
    )
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(shares.min()) < 0.05
    assert float(shares.max()) > 0.9


@given(seed=st.integers(0, 10_000))
def test_blended_images_are_between_two(seed: int) -> None:
    images = torch.eye(6)
    mixed = mix_pixels(images, generator(seed))
    assert torch.allclose(mixed.sum(1), torch.ones(6))
    assert bool((mixed >= 0).all())
    assert int((mixed > 1e-6).sum(1).max()) <= 2


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 6), (4, 2, 6, 6)])
def test_views_keep_shape_and_type(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape)
    augment = make_augment(("mirror", "cutmix", "mixup"), 1)
    assert augment(images).shape == images.shape
    assert augment(images).dtype == images.dtype


def test_a_seed_decides_all_views() -> None:
    def made(seed: int) -> Tensor:
        augment = make_augment(("mirror", "cutmix", "mixup"), seed)
        return torch.cat([augment(toys.images(8)) for _ in range(4)])

    state = torch.get_rng_state()
    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_no_view_is_the_images_themselves() -> None:
    images = toys.images(4)
    assert make_augment((), 1)(images) is images


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("mirror", "The augmentation is a str, expected a Callable; give a function"),
        (lambda images: images[:2], r"shape \[2, 2, .*expected \[4, 2"),
        (lambda images: images.double(), "type torch.float64, expected .* torch.float32"),
        (lambda images: None, "returned NoneType, expected a tensor"),
    ],
)
def test_an_augmentation_that_cannot_be_used_is_refused(augment: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_augment(augment)(toys.images(4))
