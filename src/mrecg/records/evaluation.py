"""Accuracy as counts of images, and how certain a difference of two is."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["AccuracyDifference", "Evaluation", "pack_hits"]

_Z = 1.959963984540054
"""Standard errors on either side of a mean that hold 95 % of a normal distribution."""


def pack_hits(hits: Sequence[bool]) -> str:
    """Return one bit for each image, the first in the lowest place, in base64."""
    bits = sum(1 << position for position, hit in enumerate(hits) if hit)
    return base64.b64encode(bits.to_bytes(-(-len(hits) // 8), "little")).decode()


@dataclass(frozen=True)
class Evaluation:
    """How many images were classified, and how many of them correctly.

    Attributes:
        count: images.
        correct1: the label is the largest logit.
        correct5: the label is among the five largest.
        hits: for each image whether the largest logit is its label, as `pack_hits` packs it; empty where it is not known.
    """

    count: int
    correct1: int
    correct5: int
    hits: str = field(default="", compare=False, repr=False)

    @property
    def top1(self) -> float:
        """Return the accuracy in percent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Return the accuracy in percent when five guesses are allowed."""
        return 100 * self.correct5 / self.count


@dataclass(frozen=True)
class AccuracyDifference:
    """The difference of two top-1 accuracies in points, with its 95 % confidence interval.

    Attributes:
        points: the second minus the first.
        low, high: the interval.
        paired: whether it comes from answers image by image; from counts alone, it is wider.
    """

    points: float
    low: float
    high: float
    paired: bool

    @property
    def is_certain(self) -> bool:
        """Return whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @classmethod
    def between(cls, before: Evaluation, after: Evaluation) -> "AccuracyDifference":
        """Compare two networks on the same images, or on images of the same kind.

        With the answers of both, by Agresti and Min (2005): from how many images only one of them has right, with half an image
        added to each of the four cases. From counts, by Agresti and Caffo (2000): one image more that is right and one that is
        wrong in either. Both keep their promise for few images and for accuracies near 100 %, where Wald's interval does not.
        """
        points = after.top1 - before.top1
        pair = _only_one_right(before, after)
        if pair is not None:
            lost, gained = (count + 0.5 for count in pair)
            total = before.count + 2
            middle = (gained - lost) / total
            error = math.sqrt((gained + lost) / total - middle**2) / math.sqrt(total)
        else:
            first, second = ((one.correct1 + 1) / (one.count + 2) for one in (before, after))
            middle = second - first
            error = math.sqrt(
                first * (1 - first) / (before.count + 2) + second * (1 - second) / (after.count + 2)
            )
        low, high = 100 * (middle - _Z * error), 100 * (middle + _Z * error)
        return cls(points, min(low, points), max(high, points), pair is not None)


def _only_one_right(before: Evaluation, after: Evaluation) -> tuple[int, int] | None:
    """Return how many images only the first has right, and only the second; `None` where that is not known."""
    if not (before.hits and after.hits) or before.count != after.count:
        return None
    try:
        first, second = (
            int.from_bytes(base64.b64decode(one.hits, validate=True), "little")
            for one in (before, after)
        )
    except ValueError:
        return None
    if (first.bit_count(), second.bit_count()) != (before.correct1, after.correct1):
        return None
    return (first & ~second).bit_count(), (second & ~first).bit_count()
