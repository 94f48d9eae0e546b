"""Views of the calibration images: the float network answers whatever it sees, so that a few images ask more questions.

A view has to stay close to what the float network was trained on, or its answers say nothing about the images to come.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg.errors import DataError, expect
from mrecg.preparation.judging import mirror

__all__ = [
    "Augment",
    "check_augment",
    "make_augment",
    "mirror_randomly",
    "mix_patches",
    "mix_pixels",
]

Augment = Callable[[Float[Tensor, "n ..."]], Float[Tensor, "n ..."]]
"""Takes a batch of images, returns another of the same shape and type."""


def mirror_randomly(
    images: Float[Tensor, "n ..."], generator: torch.Generator
) -> Float[Tensor, "n ..."]:
    """Mirror half of all batches."""
    return mirror(images) if torch.rand((), generator=generator) < 0.5 else images


def mix_patches(
    images: Float[Tensor, "n ..."], generator: torch.Generator
) -> Float[Tensor, "n ..."]:
    """Paste a rectangle of another image into each (CutMix: Yun et al., ICCV 2019); inputs that are no images stay.

    The rectangle's area is uniform between nothing and everything; it is at the same place in the whole batch.
    """
    if images.ndim != 4:
        return images
    share, down, right = torch.rand(3, generator=generator).tolist()
    height, width = images.shape[-2:]
    high, wide = round(height * share**0.5), round(width * share**0.5)
    top, left = round(down * (height - high)), round(right * (width - wide))
    others = images[torch.randperm(len(images), generator=generator)]
    mixed = images.clone()
    window = (..., slice(top, top + high), slice(left, left + wide))
    mixed[window] = others[window]
    return mixed


def mix_pixels(
    images: Float[Tensor, "n ..."], generator: torch.Generator
) -> Float[Tensor, "n ..."]:
    """Blend each image with another, by a uniform share (MixUp: Zhang et al., ICLR 2018)."""
    shares = torch.rand(len(images), generator=generator)
    shares = shares.view(-1, *(1,) * (images.ndim - 1)).to(images)
    return images.lerp(images[torch.randperm(len(images), generator=generator)], shares)


_VIEWS = {"mirror": mirror_randomly, "cutmix": mix_patches, "mixup": mix_pixels}


def check_augment(augment: object) -> Augment:
    """Return a user's function such that what it returns is checked.

    Raises:
        DataError: it is no function; or, when it is called, it returns another shape or type than it was given.
    """
    advice = "give a function that takes a batch of images and returns one of the same shape"
    expect(augment, Callable, "The augmentation", advice, DataError)  # type: ignore[arg-type]

    def checked(images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        made: Any = augment(images)  # type: ignore[operator]
        given = (tuple(images.shape), images.dtype)
        if not isinstance(made, Tensor):
            raise DataError(f"The augmentation returned {type(made).__name__}, expected a tensor.")
        if (tuple(made.shape), made.dtype) != given:
            raise DataError(
                f"The augmentation returned a batch of shape {list(made.shape)} and type {made.dtype}, expected "
                f"{list(images.shape)} and {images.dtype}, as it was given."
            )
        return made

    return checked


def make_augment(names: Sequence[str], seed: int) -> Augment:
    """Return a function that applies views one after the other, with random numbers of its own.

    Args:
        names: of `mirror`, `cutmix` and `mixup`.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def augment(images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        for name in names:
            images = _VIEWS[name](images, generator)
        return images

    return augment
