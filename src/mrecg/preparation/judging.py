"""Which images tune, and which judge what tuning did."""

import math
from typing import NamedTuple

import torch

from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ChosenInputs, ModelInputs, are_images, each

__all__ = [
    "JUDGED_EVERY",
    "SplitCounts",
    "SplitImages",
    "judged_views",
    "mirror",
    "split_counts",
    "split_images",
]

JUDGED_EVERY = 8
"""Of so many images, one is set aside where codes are learned."""
SMALLEST_JUDGED = 256
"""Images, or views of them, that decide whether the network as a whole is kept."""


def mirror(images: ModelInputs) -> ModelInputs:
    """Exchange left and right of images, of all inputs at once; other inputs have neither and stay as they are."""
    return each(images, lambda one: one.flip(-1)) if are_images(images) else images


class SplitImages(NamedTuple):
    """The inputs for the calibration images of this process, by what they are for.

    Attributes:
        groups: the groups are reconstructed on these.
        network: the network as a whole is optimized on these.
        judging: nothing is tuned on these; they decide whether what was learned is kept.
    """

    groups: ModelInputs | ChosenInputs
    network: ModelInputs | ChosenInputs
    judging: ModelInputs


def split_images(images: ModelInputs, recipe: Recipe) -> SplitImages:
    """Return which images tune and which judge.

    Where the network as a whole learns scales only, the mirrored images judge: none was fitted, and images set aside would be
    missed. Codes have so much freedom that learning them on images makes their mirror images worse even where other images of
    the same kind get better. So there every eighth image is set aside, if there are as many.

    Args:
        images: the inputs for at least two.
        recipe: what is learned, and how many images the groups read.
    """
    first = recipe.reconstruct.images
    if not _sets_aside(len(images), recipe):
        return SplitImages(images[:first], images, mirror(images))
    numbers = torch.arange(len(images))
    fitted = numbers[numbers % JUDGED_EVERY != 0]
    return SplitImages(
        ChosenInputs(images, fitted[:first]),
        ChosenInputs(images, fitted),
        images[::JUDGED_EVERY],
    )


class SplitCounts(NamedTuple):
    """How many images there are in each part of `SplitImages`, and how many were given."""

    given: int
    groups: int
    network: int
    judging: int


def split_counts(images: int, recipe: Recipe) -> SplitCounts:
    """Return how many of some images are for what."""
    aside = len(range(0, images, JUDGED_EVERY)) if _sets_aside(images, recipe) else 0
    fitted = images - aside
    groups = min(fitted, recipe.reconstruct.images or fitted)
    return SplitCounts(images, groups, fitted, aside or images)


def judged_views(images: int) -> int:
    """Return in how many views, its own included, an image that is set aside judges the network as a whole.

    A few dozen images alone can call a stage worse that brings a network much nearer to float.

    Args:
        images: how many are set aside.
    """
    # Of all calibration images together at most, so that the work stays in proportion to them.
    return min(math.ceil(SMALLEST_JUDGED / images), JUDGED_EVERY)


def _sets_aside(images: int, recipe: Recipe) -> bool:
    learns = recipe.network.learn == "codes" and recipe.network_steps > 0
    return learns and images >= JUDGED_EVERY
