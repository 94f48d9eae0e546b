"""Accuracy as counts of images."""

from dataclasses import dataclass

__all__ = ["Evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """How many images were classified, and how many of them correctly.

    Attributes:
        count: images.
        correct1: the label is the largest logit.
        correct5: the label is among the five largest.
    """

    count: int
    correct1: int
    correct5: int

    @property
    def top1(self) -> float:
        """Return the accuracy in percent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Return the accuracy in percent when five guesses are allowed."""
        return 100 * self.correct5 / self.count
