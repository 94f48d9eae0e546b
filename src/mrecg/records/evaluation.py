"""Accuracy as counts of images."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Evaluation", "pack_hits"]


def pack_hits(hits: Sequence[bool]) -> str:
    """Return one bit for each image, the first in the lowest place, in base64."""
    bits = sum(1 << position for position, hit in enumerate(hits) if hit)
    return base64.b64encode(bits.to_bytes(-(-len(hits) // 8), "little")).decode()


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How many images were classified, and how many of them correctly.

    Attributes:
        count: images.
        correct1: the label is the largest logit.
        correct5: the label is among the five largest.
        hits: for each image whether the largest logit is its label, as `pack_hits` packs it; empty where it is not known.
        skipped: images that were to be classified, too, and could not be read.
    """

    count: int
    correct1: int
    correct5: int
    hits: str = field(default="", compare=False)
    skipped: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if (
            not 0 <= self.correct1 <= self.correct5 <= self.count
            or not self.count
            or self.skipped < 0
        ):
            raise ValueError("an accuracy is not a count of images")

    @property
    def asked(self) -> int:
        """Return how many images were to be classified."""
        return self.count + self.skipped

    @property
    def top1(self) -> float:
        """Return the accuracy in percent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Return the accuracy in percent when five guesses are allowed."""
        return 100 * self.correct5 / self.count

    def __repr__(self) -> str:
        return (
            f"Evaluation(top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, {self.count:,} images)"
        )

    def _repr_html_(self) -> str:
        return f"<p><strong>top-1 {self.top1:.2f} %</strong>, top-5 {self.top5:.2f} %, {self.count:,} images</p>"
