"""Distance of a network's answer from the float network's: divergence of predictions, or relative error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrecg.config.optimization import Answer
from mrecg.optimize.tables import TableFigures
from mrecg.quantizers.losses import reconstruction_loss

__all__ = ["AnswerDistance", "AnswerKinds", "TakenFor"]

TakenFor = Mapping[str, Literal["logits", "values"]]
"""What `reconstruct.answer = auto` takes the tables among the outputs for, by their names."""


class AnswerKinds:
    """Tells, from batches of the float network's outputs, which are logits where the recipe leaves that open.

    Args:
        answers: what the recipe says of each output.
        sizes: of each for one image.
    """

    def __init__(self, answers: Mapping[str, Answer], sizes: Mapping[str, Sequence[int]]) -> None:
        self._tables = {
            name: TableFigures(sizes[name][0])
            for name, one in answers.items()
            if one.kind == "auto" and len(sizes[name]) == 1 and sizes[name][0] > 1
        }

    def add(self, outputs: Mapping[str, Float[Tensor, "n ..."]]) -> None:
        """Take the outputs for a batch into account."""
        for name, table in self._tables.items():
            table.add(outputs[name])

    def taken_for(self) -> TakenFor:
        """Return what each table is taken for, by the images of all processes."""
        return {name: table.of_all_processes().kind for name, table in self._tables.items()}


@dataclass(frozen=True)
class AnswerDistance:
    """The weighted sum over a network's outputs of their distances from the float network's.

    The distance of logits is the Kullback-Leibler divergence of the predictions, divided by a temperature and multiplied by its
    square (Hinton et al., 2015); that of values is the squared error relative to the power.

    Attributes:
        answers: each compared output.
        taken_for: what those are whose kind the recipe leaves open; one that is not named is values.
        channels, power: of each value that is compared by its relative error.
        temperature: by which logits are divided.
    """

    answers: Mapping[str, Answer]
    taken_for: TakenFor
    channels: Mapping[str, int]
    power: Mapping[str, float]
    temperature: float = 1.0

    @cached_property
    def logits(self) -> frozenset[str]:
        """Return the names of the outputs that are compared as logits."""
        return frozenset(
            name
            for name, one in self.answers.items()
            if "logits" in (one.kind, self.taken_for.get(name))
        )

    def __call__(
        self, made: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
    ) -> Float[Tensor, ""]:
        distances = [
            answer.weight * self._divergence(name, made[name], wanted[name])
            for name, answer in self.answers.items()
        ]
        return torch.stack(distances).sum()

    def relative_error(self, name: str, made: Tensor, wanted: Tensor) -> Float[Tensor, ""]:
        """Return the squared error of a value, relative to its power."""
        return reconstruction_loss(made, wanted, self.channels[name]) / self.power[name]

    def _divergence(self, name: str, made: Tensor, wanted: Tensor) -> Tensor:
        if name not in self.logits:
            return self.relative_error(name, made, wanted)
        ours, theirs = ((logits / self.temperature).log_softmax(1) for logits in (made, wanted))
        divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2
