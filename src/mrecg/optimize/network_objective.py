"""Distance of the quantized network from the float one, in its outputs and on the way to them."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import run_float_units, run_quantized_units
from mrecg.config.optimization import Answer, Precision
from mrecg.config.recipe import Recipe
from mrecg.errors import RecipeError
from mrecg.graph.inputs import ChosenInputs, ModelInputs
from mrecg.graph.units import Chain
from mrecg.optimize.answer_distance import AnswerDistance, AnswerKinds, TakenFor
from mrecg.planning.cost import fastest_layout, images_per_pass, images_per_training_pass
from mrecg.planning.precision import choose_precision
from mrecg.preparation.prepared_graph import Binding, PreparedGraph
from mrecg.quantizers.losses import SMALLEST_POWER, signal_power
from mrecg.shortage import Parts, Shortages
from mrecg.torch_state import compute_precision

__all__ = ["NetworkObjective", "find_answers"]

_Result = TypeVar("_Result")


def find_answers(chain: Chain, recipe: Recipe) -> dict[str, Answer]:
    """Return what each compared output is, by its name in the graph.

    Raises:
        RecipeError: the recipe describes another number of outputs, or takes for logits what is no table.
    """
    given = recipe.reconstruct.answer
    answers = (Answer(kind=given),) * len(chain.outputs) if isinstance(given, str) else given
    if len(answers) != len(chain.outputs):
        raise RecipeError(
            f"The recipe describes {len(answers)} outputs in reconstruct.answer, expected {len(chain.outputs)}, as many as "
            f"the network is compared by: {', '.join(chain.outputs)}."
        )
    found = dict(zip(chain.outputs, answers, strict=True))
    for name, answer in found.items():
        size = chain.sizes[name]
        if answer.kind == "logits" and (len(size) != 1 or size[0] < 2):
            raise RecipeError(
                f"The output '{name}' has the shape {list(size)} for an image, expected one axis of classes for "
                "reconstruct.answer = logits; set values."
            )
    return found


class NetworkObjective:
    """Distance of the quantized network from the float one: of the outputs, and of the units on the way.

    The distance of an output is the Kullback-Leibler divergence of the predictions where it is logits, divided by a
    temperature and multiplied by its square (Hinton et al., 2015), else the squared error relative to the power
    (`config.optimization.Answer`). On the way it is the mean of the units' relative errors.

    Raises:
        RecipeError: the recipe describes another number of outputs, or takes for logits what is no table.

    Args:
        prepared: the network.
        images: whose outputs tell the power of each, and which are logits.
        recipe: what is compared, and how.
        shortages: are told where memory is not enough for as many images as planned.

    Attributes:
        precision: of convolutions and products while something is learned.
        images_at_once: images that one forward and backward pass takes.
        taken_for: what `auto` takes the tables among the outputs for.
    """

    def __init__(
        self,
        prepared: PreparedGraph,
        images: ModelInputs | ChosenInputs,
        recipe: Recipe,
        shortages: Shortages,
    ) -> None:
        self._chain, self._device = prepared.chain, prepared.device
        self.images_at_once = images_per_training_pass(self._chain.units)
        stage = recipe.network
        self._feature_weight = stage.feature_weight
        self.precision = choose_precision(recipe.reconstruct.precision, self._device)
        self._parts = Parts(shortages, "passes through the network")
        self._measured_at_once = min(map(images_per_pass, self._chain.units))
        self._answers = find_answers(self._chain, recipe)
        self._power, self.taken_for = self._measure_outputs(images)
        self._distance = AnswerDistance(
            answers=self._answers,
            taken_for=self.taken_for,
            channels=self._chain.channels,
            power=self._power,
            temperature=stage.temperature if stage.learn == "codes" else 1.0,
        )

    def __call__(self, images: ModelInputs, bindings: Mapping[str, Binding]) -> Float[Tensor, ""]:
        made, wanted = self._run_both(images, bindings, self.precision)
        distance = self._distance(made, wanted)
        if not self._feature_weight:
            return distance
        errors = [
            self._distance.relative_error(name, made[name], wanted[name]) for name in self._power
        ]
        return distance + self._feature_weight * torch.stack(errors).mean()

    @torch.no_grad()
    def divergence(self, images: ModelInputs, bindings: Mapping[str, Binding]) -> float:
        """Return the distance of the outputs alone, on images of all processes; one that is NaN counts as infinite.

        Its temperature is the objective's: divided by 4, logits of a few dozen images tell which of two states is nearer, where
        undivided ones depend on the few images that lie between two classes.
        """
        added = 0.0
        measure = partial(self._measure, images, bindings)
        for first, last, distance in self._portions(len(images), measure):
            added += distance * (last - first)
        (found,) = distributed.average([added / len(images)])
        return math.inf if math.isnan(found) else found

    def _run_both(
        self,
        images: ModelInputs,
        bindings: Mapping[str, Binding],
        precision: Precision,
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        given = fastest_layout(self._chain, images, self._device)
        with compute_precision(precision, self._device):
            made = run_quantized_units(self._chain.units, given, bindings)
        compared = {*self._chain.outputs, *self._power}
        # A convolution may have been computed in another precision.
        return {name: made[name].float() for name in compared}, self._run_float(given)

    @torch.no_grad()
    def _measure_outputs(
        self, images: ModelInputs | ChosenInputs
    ) -> tuple[dict[str, float], TakenFor]:
        """Return the power of each unit's outputs, and what the tables among the network's outputs are taken for."""
        powers = {name: 0.0 for unit in self._chain.units for name in unit.outputs}
        kinds = AnswerKinds(self._answers, self._chain.sizes)

        def forward(first: int, last: int) -> Mapping[str, Tensor]:
            portion = images[first:last]
            return self._run_float(fastest_layout(self._chain, portion, self._device))

        for first, last, made in self._portions(len(images), forward):
            for name in powers:
                power = float(signal_power(made[name], self._chain.channels[name]))
                powers[name] += power * (last - first) / len(images)
            kinds.add(made)
        shared = distributed.average(list(powers.values()))
        found = {
            name: max(power, SMALLEST_POWER) for name, power in zip(powers, shared, strict=True)
        }
        return found, kinds.taken_for()

    @torch.no_grad()
    def _run_float(self, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with compute_precision("float32", self._device):
            return run_float_units(self._chain.units, given)

    def _measure(
        self, images: ModelInputs, bindings: Mapping[str, Binding], first: int, last: int
    ) -> float:
        """Return the distance of some images."""
        return float(self._distance(*self._run_both(images[first:last], bindings, "float32")))

    def _portions(
        self, images: int, work: Callable[[int, int], _Result]
    ) -> Iterator[tuple[int, int, _Result]]:
        return self._parts.over(images, self._measured_at_once, work)
