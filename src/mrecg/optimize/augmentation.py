"""Views of the calibration images: the float network answers whatever it sees, so that a few images ask more questions.

A view has to stay close to what the float network was trained on, or its answers say nothing about the images to come.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrecg.errors import DataError, expect
from mrecg.graph.inputs import ModelInputs, NamedInputs, are_images, each, tensors_of
from mrecg.preparation.judging import mirror

__all__ = [
    "Augment",
    "check_augment",
    "make_augment",
    "mirror_randomly",
    "mix_patches",
    "mix_pixels",
]

Augment = Callable[[Any], Any]
"""Takes a batch of images, returns another of the same shape and type; of several inputs, a dictionary by name."""


def mirror_randomly(images: ModelInputs, generator: torch.Generator) -> ModelInputs:
    """Mirror half of all batches."""
    return mirror(images) if torch.rand((), generator=generator) < 0.5 else images


def mix_patches(images: ModelInputs, generator: torch.Generator) -> ModelInputs:
    """Paste a rectangle of another image into each (CutMix: Yun et al., ICCV 2019); inputs that are no images stay.

    The rectangle's area is uniform between nothing and everything; it is at the same place in the whole batch, and in all
    inputs.
    """
    if not are_images(images):
        return images
    share, down, right = torch.rand(3, generator=generator).tolist()
    height, width = tensors_of(images)[0].shape[-2:]
    high, wide = round(height * share**0.5), round(width * share**0.5)
    top, left = round(down * (height - high)), round(right * (width - wide))
    order = torch.randperm(len(images), generator=generator)
    window = (..., slice(top, top + high), slice(left, left + wide))

    def paste(one: Tensor) -> Tensor:
        mixed = one.clone()
        mixed[window] = one[order][window]
        return mixed

    return each(images, paste)


def mix_pixels(images: ModelInputs, generator: torch.Generator) -> ModelInputs:
    """Blend each image with another, by a uniform share, the same in all inputs (MixUp: Zhang et al., ICLR 2018)."""
    if isinstance(images, NamedInputs) and not are_images(images):
        return images
    shares = torch.rand(len(images), generator=generator)
    order = torch.randperm(len(images), generator=generator)

    def blend(one: Tensor) -> Tensor:
        return one.lerp(one[order], shares.view(-1, *(1,) * (one.ndim - 1)).to(one))

    return each(images, blend)


_VIEWS = {"mirror": mirror_randomly, "cutmix": mix_patches, "mixup": mix_pixels}


def check_augment(augment: object) -> Augment:
    """Return a user's function such that what it returns is checked.

    Raises:
        DataError: it is no function; or, when it is called, it returns another shape or type than it was given.
    """
    advice = "give a function that takes a batch of images and returns one of the same shape"
    expect(augment, Callable, "The augmentation", advice, DataError)  # type: ignore[arg-type]

    def checked(images: ModelInputs) -> ModelInputs:
        if isinstance(images, Tensor):
            return _checked_view(augment(images), images)  # type: ignore[operator]
        made = augment(dict(images.tensors))  # type: ignore[operator]
        if not isinstance(made, Mapping) or set(made) != set(images.tensors):
            kind = ", ".join(map(str, made)) if isinstance(made, Mapping) else type(made).__name__
            raise DataError(
                f"The augmentation returned {kind}, expected a dictionary of {', '.join(images.tensors)}."
            )
        return NamedInputs({n: _checked_view(made[n], one) for n, one in images.tensors.items()})

    return checked


def _checked_view(made: Any, given: Tensor) -> Tensor:
    if not isinstance(made, Tensor):
        raise DataError(f"The augmentation returned {type(made).__name__}, expected a tensor.")
    if (made.shape, made.dtype) != (given.shape, given.dtype):
        raise DataError(
            f"The augmentation returned a batch of shape {list(made.shape)} and type {made.dtype}, expected "
            f"{list(given.shape)} and {given.dtype}, as it was given."
        )
    return made


def make_augment(names: Sequence[str], seed: int) -> Augment:
    """Return a function that applies views one after the other, with random numbers of its own.

    Args:
        names: of `mirror`, `cutmix` and `mixup`.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def augment(images: ModelInputs) -> ModelInputs:
        for name in names:
            images = _VIEWS[name](images, generator)
        return images

    return augment
