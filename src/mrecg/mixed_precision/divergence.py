"""Divergence of a quantized network from the float one, by what they return, without labels."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mrecg.config.optimization import Answer
from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.outputs import named_tensors
from mrecg.metrics import answer
from mrecg.optimize.answer_distance import AnswerDistance, logits_among
from mrecg.quantizers.losses import SMALLEST_POWER, signal_power

__all__ = ["answer_divergence"]

_AT_ONCE = 32


@torch.no_grad()
def answer_divergence(
    float_model: nn.Module, model: nn.Module, images: ModelInputs, recipe: Recipe
) -> float:
    """Return the distance of the answers: Kullback-Leibler of predictions where they are logits, else the relative squared error.

    Args:
        float_model, model: take the images; run in evaluation mode and restored.
        images: of shape `(n, …)`.
        recipe: says what the outputs are (`reconstruct.answer`).
    """
    wanted, made = (_answers(one, images) for one in (float_model, model))
    shared = {name: one for name, one in wanted.items() if one.is_floating_point()}
    kinds = recipe.reconstruct.answer
    listed = [Answer(kind=kinds)] * len(shared) if isinstance(kinds, str) else list(kinds)
    answers = dict(zip(shared, listed, strict=True))
    logits = logits_among(answers, shared)
    power = {name: max(float(signal_power(one, 1)), SMALLEST_POWER) for name, one in shared.items()}
    distance = AnswerDistance(answers, logits, dict.fromkeys(answers, 1), power)
    return max(float(distance(made, shared)), 0.0)


def _answers(model: nn.Module, images: ModelInputs) -> Mapping[str, Tensor]:
    """Return what a network returns for all images, in double precision on the CPU, by name."""
    parts = [
        named_tensors(answer(model, part, "the comparison")) for part in images.split(_AT_ONCE)
    ]
    return {
        name: torch.cat([part[name].cpu() for part in parts]).double()
        for name, one in parts[0].items()
        if one.is_floating_point() and one.ndim > 0
    }
