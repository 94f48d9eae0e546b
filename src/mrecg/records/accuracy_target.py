"""A target of accuracy: every try, what it cost, and whether it holds."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from mrecg.records.json_model import JsonModel

__all__ = ["AccuracyTarget", "Attempt"]


class Attempt(JsonModel):
    """One try.

    Attributes:
        name: what was done, in words.
        steps: optimizer steps of a group; 0 is rounding to nearest.
        bits: mean width of all quantized weights.
        left_in_float: how many layers.
        bytes: of the parameters.
        drop: of the metric, or the divergence from the float network.
        seconds: wall time.
    """

    name: str
    steps: int
    bits: float
    left_in_float: int
    bytes: int
    drop: float
    seconds: float


class AccuracyTarget(JsonModel):
    """The tries for a target, from the cheapest on; the first that holds it is the last.

    Attributes:
        metric: whose drop is limited; `divergence` is from the float network, without labels.
        max_drop: the limit.
        float_score: of the float network; `None` without labels.
        attempts: in order.
        kept: index of the one that was kept: the one that holds, or the one with the smallest drop.
    """

    metric: str
    max_drop: float
    float_score: float | None
    attempts: Annotated[tuple[Attempt, ...], Field(min_length=1)]
    kept: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _keeps_one_of_them(self) -> Self:
        if self.kept >= len(self.attempts):
            raise ValueError(f"it keeps try {self.kept} of {len(self.attempts)}, counted from 0")
        return self

    @property
    def is_held(self) -> bool:
        """Return whether one of the tries holds the target."""
        return self.attempts[self.kept].drop <= self.max_drop

    @property
    def verdict(self) -> str:
        """Return what was found, in a sentence."""
        best = self.attempts[self.kept]
        limit = f"{best.drop:.4g} of at most {self.max_drop:g} ({self.metric})"
        if not self.is_held:
            return f"None of {len(self.attempts)} tries holds the target; the nearest is {best.name}, with a drop of {limit}."
        if best.steps == 0 and len(self.attempts) == 1:
            return f"Rounding to nearest holds the target, with a drop of {limit}: learning buys nothing here."
        return f"The cheapest recipe that holds the target is {best.name}, with a drop of {limit}."
