"""Divergence of other answers from the float network's, without labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from mrecg.config.optimization import Answer
from mrecg.config.recipe import Recipe
from mrecg.errors import DataError, RecipeError
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.outputs import named_tensors, plain_outputs
from mrecg.metrics import answer
from mrecg.optimize.answer_distance import AnswerDistance, AnswerKinds
from mrecg.quantizers.losses import SMALLEST_POWER, signal_power

__all__ = ["FloatAnswers", "returned_floats"]

_AT_ONCE = 32


@dataclass(frozen=True)
class FloatAnswers:
    """The float network's answers, and how others are compared with them.

    Attributes:
        wanted: the answers to all images, by the names of outputs.
        distance: Kullback-Leibler of predictions where they are logits, else the relative squared error.
    """

    wanted: Mapping[str, Tensor]
    distance: AnswerDistance

    @classmethod
    def of(
        cls,
        wanted: Mapping[str, Tensor],
        answers: Mapping[str, Answer],
        channels: Mapping[str, int],
    ) -> Self:
        """Find out which answers are logits, and how large the others are.

        Args:
            wanted: the answers to all images, by the names of outputs.
            answers: what the recipe says of each.
            channels: the number of channels of each.
        """
        kinds = AnswerKinds(answers, {name: wanted[name].shape[1:] for name in answers})
        kinds.add(wanted)
        power = {
            name: max(float(signal_power(wanted[name], channels[name])), SMALLEST_POWER)
            for name in answers
        }
        return cls(wanted, AnswerDistance(answers, kinds.taken_for(), channels, power))

    @classmethod
    def returned_by(cls, model: nn.Module, images: ModelInputs, recipe: Recipe) -> Self:
        """Run the float network as it is given; see `returned_floats`.

        Args:
            model: takes the images; run in evaluation mode and restored.
            images: of shape `(n, …)`.
            recipe: says what the outputs are (`reconstruct.answer`).

        Raises:
            DataError: it returns nothing that a divergence is defined for.
            RecipeError: the recipe describes another number of outputs.
        """
        wanted = returned_floats(model, images)
        if not wanted:
            raise DataError(
                "The network returns no floats, so there is no divergence from it; give labeled images as validation, and a metric."
            )
        given = recipe.reconstruct.answer
        answers = [Answer(kind=given)] * len(wanted) if isinstance(given, str) else list(given)
        if len(answers) != len(wanted):
            raise RecipeError(
                f"The recipe describes {len(answers)} outputs in reconstruct.answer, expected {len(wanted)} for a divergence, as "
                f"many as the network returns floats: {', '.join(wanted)}; or give labeled images as validation."
            )
        described = dict(zip(wanted, answers, strict=True))
        return cls.of(wanted, described, dict.fromkeys(wanted, 1))

    def compare(self, made: Mapping[str, Tensor]) -> float:
        """Return the distance, in double precision: that of 8 bits is a millionth; one that is NaN counts as infinite."""
        ours, wanted = (
            {name: one.double() for name, one in answers.items()} for answers in (made, self.wanted)
        )
        found = float(self.distance(ours, wanted))
        return math.inf if math.isnan(found) else max(found, 0.0)


@torch.no_grad()
def returned_floats(model: nn.Module, images: ModelInputs) -> Mapping[str, Tensor]:
    """Return the floats that a network returns for all images, in double precision on the CPU, by name."""
    parts = [
        named_tensors(plain_outputs(answer(model, part, "the comparison")))
        for part in images.split(_AT_ONCE)
    ]
    return {
        name: torch.cat([part[name].cpu() for part in parts]).double()
        for name, one in parts[0].items()
        if one.is_floating_point() and one.ndim > 0
    }
