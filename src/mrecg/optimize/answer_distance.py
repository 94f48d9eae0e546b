"""Distance of a network's answer from the float network's: divergence of predictions, or relative error."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrecg.config.optimization import Answer
from mrecg.optimize.tables import TableFigures
from mrecg.quantizers.losses import reconstruction_loss

__all__ = ["AnswerDistance", "logits_among"]


def logits_among(
    answers: Mapping[str, Answer], outputs: Mapping[str, Float[Tensor, "n ..."]]
) -> frozenset[str]:
    """Return the names of the outputs that are logits: by the recipe, or, where it leaves that open, by what they are like.

    Args:
        answers: what the recipe says of each.
        outputs: the float network's, for some images.
    """
    return frozenset(
        name
        for name, one in answers.items()
        if one.kind == "logits" or (one.kind == "auto" and _are_logits(outputs[name]))
    )


def _are_logits(output: Float[Tensor, "n ..."]) -> bool:
    if output.ndim != 2 or output.shape[1] < 2:
        return False
    figures = TableFigures(output.shape[1])
    figures.add(output)
    return figures.kind == "logits"


@dataclass(frozen=True)
class AnswerDistance:
    """The weighted sum over a network's outputs of their distances from the float network's.

    The distance of logits is the Kullback-Leibler divergence of the predictions, divided by a temperature and multiplied by its
    square (Hinton et al., 2015); that of values is the squared error relative to the power.

    Attributes:
        answers: each compared output.
        logits: names of those that are logits.
        channels, power: of each value that is compared by its relative error.
        temperature: by which logits are divided.
    """

    answers: Mapping[str, Answer]
    logits: frozenset[str]
    channels: Mapping[str, int]
    power: Mapping[str, float]
    temperature: float = 1.0

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
