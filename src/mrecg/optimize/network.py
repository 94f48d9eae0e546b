"""Optimize the whole network after its groups: its scales, or its codes, too, against the float network's outputs.

A group knows nothing of the layers behind it. Here every scale, and every code if asked for, may change a little so that the network's
outputs come closer to the float network's (NWQ: Wang et al., 2022; EPTQ: Gordon et al., 2023).

The groups fitted the calibration images closely, and this stage fits them, too, so these cannot tell whether the network got
better: images that tuned nothing do (`judging`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ChosenInputs, ModelInputs, joined
from mrecg.optimize.adam import Adam
from mrecg.optimize.augmentation import Augment, make_augment
from mrecg.optimize.checkpoints import Checkpoints, NetworkCheckpoint
from mrecg.optimize.network_objective import NetworkObjective
from mrecg.optimize.schedule import (
    cosine_decay,
    derive_seed,
    report_interval,
    shuffled_batches,
)
from mrecg.preparation.judging import SplitImages, judged_views
from mrecg.preparation.prepared_graph import Binding, PreparedGraph
from mrecg.quantizers.activation import FakeQuantizer
from mrecg.quantizers.latent import LatentCodes, LearnedWeight, ScaledCodes
from mrecg.quantizers.state import QuantizerState
from mrecg.records.record import Curve, NetworkRecord
from mrecg.shortage import Parts, Shortages
from mrecg.torch_state import matmul_precision

__all__ = ["optimize_network"]

NETWORK_ACTIVATION_REACH = 0.1
"""Rate × steps: with the cosine decay, an activation scale can change by a twentieth of itself."""
LARGEST_NETWORK_ACTIVATION_RATE = 1e-3
NETWORK_WEIGHT_SCALE_REACH = 3.0
"""Rate × steps of the weight scales, in code units."""
LARGEST_NETWORK_WEIGHT_SCALE_RATE = 3e-2
REPORTS_PER_CHECKPOINT = 4
"""Variables and moments are three times the network: at each report, to write them would take a percent of a short run."""


@torch.enable_grad()
def optimize_network(
    prepared: PreparedGraph,
    state: QuantizerState,
    images: SplitImages,
    recipe: Recipe,
    report: Callable[[int, float], None],
    augment: Augment | None = None,
    checkpoints: Checkpoints | None = None,
    shortages: Shortages | None = None,
) -> tuple[QuantizerState, NetworkRecord | None]:
    """Optimize codes and scales of a reconstructed network.

    Args:
        prepared: the network.
        state: reconstructed group by group.
        images: the calibration images of this process.
        recipe: steps, batch size and what may be learned.
        report: called now and then with the step and its loss.
        augment: replaces the recipe's views of the images, which are for codes; a function is used for scales alone, too.
        checkpoints: keeps where the optimization is, now and then, and says where it was.
        shortages: are told where memory is not enough for as many images as planned.

    Returns:
        The state that is closer to the float network, and the figures, or `None` where there is nothing to learn.
    """
    started = time.perf_counter()
    variables = _start(prepared, state, recipe)
    if variables is None:
        return state, None
    shortages = shortages or Shortages()
    objective = NetworkObjective(prepared, images.network, recipe, shortages)
    parts = Parts(shortages, "steps of the network")
    units = prepared.chain.units
    views: Augment = augment or make_augment(*_views(recipe, "views"))
    judging = _judged(images.judging, recipe, augment)
    before = objective.divergence(judging, prepared.bind(units, state))
    curve, diverged = _run(
        prepared,
        state,
        variables,
        objective,
        parts,
        images.network,
        views,
        recipe,
        report,
        checkpoints,
    )
    found = state | variables.current()
    after = objective.divergence(judging, prepared.bind(units, found))
    accepted = diverged is None and after < before
    record = NetworkRecord(
        steps=recipe.network_steps,
        divergence_before=before,
        divergence_after=after,
        accepted=accepted,
        seconds=time.perf_counter() - started,
        curve=curve,
        diverged=diverged,
        taken_for=objective.taken_for,
        precision=objective.precision,
    )
    return found if accepted else state, record


@dataclass(frozen=True)
class _Variables:
    """Variables of the stage, by the names of quantizers.

    Attributes:
        weights, activations: at their present values.
        rates: groups of variables, each with Adam's rate at the first step.
    """

    weights: Mapping[str, LearnedWeight]
    activations: Mapping[str, FakeQuantizer]
    rates: Sequence[tuple[Sequence[Tensor], float]]

    def current(self) -> QuantizerState:
        """Return the state as it is now, every code rounded."""
        return QuantizerState(
            {name: one.current() for name, one in self.weights.items()},
            {name: one.current() for name, one in self.activations.items()},
        )


def _start(prepared: PreparedGraph, state: QuantizerState, recipe: Recipe) -> _Variables | None:
    """Return the variables, or `None` where there are none."""
    if not recipe.network_steps:
        return None
    units, settings = prepared.chain.units, recipe.reconstruct
    uniform = {
        name: weight
        for name, weight in prepared.learned_weights(units, settings.exclude).items()
        if prepared.weights[name].grid.is_uniform
    }
    # Quantizers whose scales stay have to pass gradients on all the same.
    activations = {
        name: quantizer.learn(state.activations[name], None)
        for name, quantizer in prepared.learned_activations(units).items()
        if quantizer.grid.is_uniform
    }
    scales: list[Tensor] = []
    # A rate of 0 for the groups means that these scales stay as calibrated, whatever comes after.
    if settings.activation_rate != 0:
        scales = [one for each in activations.values() for one in each.variables]
    learn = _learn_codes if recipe.network.learn == "codes" else _learn_scales
    weights, rates = learn(prepared, state, uniform, scales, recipe)
    variables = _Variables(weights, activations, [(one, rate) for one, rate in rates if one])
    return variables if variables.rates else None


_Learning = tuple[Mapping[str, LearnedWeight], list[tuple[list[Tensor], float]]]


def _learn_scales(
    prepared: PreparedGraph,
    state: QuantizerState,
    floats: Mapping[str, Tensor],
    scales: list[Tensor],
    recipe: Recipe,
) -> _Learning:
    """Return weights whose codes stay, and the variables with rates that fall with the budget."""
    steps = recipe.network_steps
    weights = {
        name: ScaledCodes(
            state.weights[name],
            prepared.weights[name].dequantize(state.weights[name]),
            prepared.weights[name].learn_scale(state.weights[name]),
        )
        for name in floats
        if not prepared.weights[name].fixed_scale and recipe.reconstruct.weight_scale_rate != 0
    }
    deltas: list[Tensor] = [one.scale.delta for one in weights.values()]
    activation_rate = min(LARGEST_NETWORK_ACTIVATION_RATE, NETWORK_ACTIVATION_REACH / steps)
    weight_rate = min(LARGEST_NETWORK_WEIGHT_SCALE_RATE, NETWORK_WEIGHT_SCALE_REACH / steps)
    return weights, [(scales, activation_rate), (deltas, weight_rate)]


def _learn_codes(
    prepared: PreparedGraph,
    state: QuantizerState,
    floats: Mapping[str, Tensor],
    scales: list[Tensor],
    recipe: Recipe,
) -> _Learning:
    """Return weights whose codes are learned, and the variables with the recipe's rates."""
    weights = {
        name: LatentCodes.start(weight, state.weights[name], prepared.weights[name].grid)
        for name, weight in floats.items()
    }
    latents: list[Tensor] = [one.latent for one in weights.values()]
    factors: list[Tensor] = [
        one.factor
        for name, one in weights.items()
        if not prepared.weights[name].fixed_scale and recipe.reconstruct.weight_scale_rate != 0
    ]
    stage = recipe.network
    return weights, [(latents, stage.code_rate), ([*scales, *factors], stage.scale_rate)]


def _views(recipe: Recipe, purpose: str) -> tuple[Sequence[str], int]:
    """Return names and seed of the recipe's views; where only scales are learned, images stay as they are."""
    names = recipe.network.augment if recipe.network.learn == "codes" else ()
    return names, derive_seed(recipe.seed, purpose, distributed.rank())


def _judged(images: ModelInputs, recipe: Recipe, augment: Augment | None) -> ModelInputs:
    """Return images that tuned nothing and, where they are few, views of them, like those that the stage learns from."""
    names, seed = _views(recipe, "judged views")
    if augment is None and not names:
        return images
    views = augment or make_augment(names, seed)
    return joined([images, *(views(images) for _ in range(judged_views(len(images)) - 1))])


def _run(
    prepared: PreparedGraph,
    state: QuantizerState,
    variables: _Variables,
    objective: NetworkObjective,
    parts: Parts,
    images: ModelInputs | ChosenInputs,
    augment: Augment,
    recipe: Recipe,
    report: Callable[[int, float], None],
    checkpoints: Checkpoints | None,
) -> tuple[Curve, int | None]:
    """Take the steps; the variables hold the result.

    Returns:
        The loss of the reported steps, in this process; and the step at which it was NaN or infinite, which ends the stage.
    """
    settings, steps = recipe.reconstruct, recipe.network_steps
    fixed = {
        **prepared.bind(prepared.chain.units, state, without=variables.weights),
        **variables.activations,
    }
    learned = [one for tensors, _ in variables.rates for one in tensors]
    adam = Adam(*(tensors for tensors, _ in variables.rates))
    batches = shuffled_batches(len(images), settings, derive_seed(recipe.seed, "network"))
    start, curve = _restore(checkpoints, learned, adam)
    total = torch.zeros((), device=learned[0].device)
    for step in range(steps):
        # Steps that were taken before the run was interrupted drew random numbers, too.
        batch = augment(images[next(batches)])
        if step < start:
            continue
        with matmul_precision(objective.precision, prepared.device):
            take = partial(_accumulate, batch, objective, variables, fixed, learned)
            _, loss = parts.run(min(objective.images_at_once, len(batch)), take)
            distributed.average_gradients(learned)
            decay = cosine_decay(step / steps)
            adam.step(*(rate * decay for _, rate in variables.rates))
        total += loss
        if (step + 1) % report_interval(steps) == 0:
            if not math.isfinite(distributed.average([float(total)])[0]):
                return tuple(curve), step + 1
            curve.append((step + 1, float(loss)))
            report(*curve[-1])
            if checkpoints and len(curve) % REPORTS_PER_CHECKPOINT == 0 and step + 1 < steps:
                values = tuple(one.detach() for one in learned)
                found = NetworkCheckpoint(step + 1, values, adam.moments(), tuple(curve))
                checkpoints.keep_network(found)
    return tuple(curve), None


def _accumulate(
    batch: Tensor,
    objective: NetworkObjective,
    variables: _Variables,
    fixed: Mapping[str, Binding],
    learned: Sequence[Tensor],
    at_once: int,
) -> Tensor:
    """Compute the gradients of a batch in parts; return its loss."""
    for one in learned:
        one.grad = None  # of a try that memory was not enough for
    loss = torch.zeros((), device=learned[0].device)
    for part in batch.split(at_once):
        # Each part has a graph of its own.
        weights = {name: one.weight() for name, one in variables.weights.items()}
        distance = objective(part, {**fixed, **weights}) * (len(part) / len(batch))
        torch.autograd.backward(distance, inputs=learned)
        loss += distance.detach()
    return loss


@torch.no_grad()
def _restore(
    checkpoints: Checkpoints | None, learned: Sequence[Tensor], adam: Adam
) -> tuple[int, list[tuple[int, float]]]:
    """Put variables and moments where an interrupted run left them; return the steps it had taken, and its losses."""
    found = checkpoints.network() if checkpoints else None
    if found is None or [one.shape for one in found.variables] != [one.shape for one in learned]:
        return 0, []
    try:
        adam.restore(found.moments)
    except ValueError:  # it is of another network
        return 0, []
    for one, value in zip(learned, found.variables, strict=True):
        one.copy_(value)
    return found.step, list(found.curve)
