"""How certain a difference of two accuracies is."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mrecg.records.evaluation import Evaluation

__all__ = ["AccuracyDifference"]

_Z = 1.959963984540054
"""Standard errors on either side of a mean that hold 95 % of a normal distribution."""
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The same of Student's distribution, by degrees of freedom, from 1."""


@dataclass(frozen=True)
class AccuracyDifference:
    """The difference of two top-1 accuracies, in points.

    Attributes:
        points: the second minus the first.
        standard_error: of that.
        low, high: the 95 % confidence interval.
        source: what it comes from: the `answers` of both to each image; the `counts` of right answers alone, which makes the
            interval wider; or runs with several `seeds`, compared seed by seed.
    """

    points: float
    standard_error: float
    low: float
    high: float
    source: Literal["answers", "counts", "seeds"]

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
            error = math.sqrt(((gained + lost) / total - middle**2) / total)
        else:
            first, second = ((one.correct1 + 1) / (one.count + 2) for one in (before, after))
            middle = second - first
            error = math.sqrt(
                first * (1 - first) / (before.count + 2) + second * (1 - second) / (after.count + 2)
            )
        low, high = 100 * (middle - _Z * error), 100 * (middle + _Z * error)
        source: Literal["answers", "counts"] = "counts" if pair is None else "answers"
        return cls(points, 100 * error, min(low, points), max(high, points), source)

    @classmethod
    def over_seeds(cls, differences: Sequence[float]) -> "AccuracyDifference":
        """Return the mean of differences in points, one for each of at least two seeds, by Student's distribution."""
        count = len(differences)
        mean = math.fsum(differences) / count
        variance = math.fsum((one - mean) ** 2 for one in differences) / (count - 1)
        error = math.sqrt(variance / count)
        reach = _student(count - 1) * error
        return cls(mean, error, mean - reach, mean + reach, "seeds")


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution; beyond the table by its expansion (Cornish and Fisher)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    return _Z + (_Z**3 + _Z) / 4 / freedom + second / freedom**2


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
