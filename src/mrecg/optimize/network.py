"""Optimize the whole network after its groups: codes and scales, against the float network's outputs.

A group knows nothing of the layers behind it. Here every code and every scale may change a little so that the network's
outputs come closer to the float network's (NWQ: Wang et al., 2022; EPTQ: Gordon et al., 2023).

The groups fitted the calibration images closely, and this stage fits them, too, so these cannot tell whether the network got
better. Their mirror images can: they are as natural, none was fitted, and setting images aside would cost accuracy.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg import distributed
from mrecg.config.recipe import Recipe
from mrecg.optimize.adam import Adam
from mrecg.optimize.network_objective import NetworkObjective, mirror
from mrecg.optimize.schedule import (
    cosine_decay,
    derive_seed,
    report_interval,
    shuffled_batches,
)
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.activation import FakeQuantizer
from mrecg.quantizers.latent import LatentCodes
from mrecg.quantizers.state import QuantizerState
from mrecg.records.record import NetworkRecord
from mrecg.torch_state import matmul_precision

__all__ = ["optimize_network"]


@torch.enable_grad()
def optimize_network(
    prepared: PreparedGraph,
    state: QuantizerState,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    report: Callable[[int, float], None],
) -> tuple[QuantizerState, NetworkRecord | None]:
    """Optimize codes and scales of a reconstructed network.

    Args:
        prepared: the network.
        state: reconstructed group by group.
        images: the calibration images of this process.
        recipe: steps, batch size and what may be learned.
        report: called now and then with the step and its loss.

    Returns:
        The state that is closer to the float network, and the figures, or `None` where there is nothing to learn.
    """
    started = time.perf_counter()
    variables = _start(prepared, state, recipe)
    if variables is None:
        return state, None
    objective = NetworkObjective(prepared, images, recipe)
    units = prepared.chain.units
    before = objective.mirrored_divergence(images, prepared.bind(units, state))
    _run(prepared, state, variables, objective, images, recipe, report)
    found = state | variables.current()
    after = objective.mirrored_divergence(images, prepared.bind(units, found))
    accepted = after < before
    record = NetworkRecord(
        steps=recipe.network_steps,
        divergence_before=before,
        divergence_after=after,
        accepted=accepted,
        seconds=time.perf_counter() - started,
    )
    return found if accepted else state, record


@dataclass(frozen=True)
class _Variables:
    """What is learned, by the names of quantizers, and the tensors by kind."""

    weights: Mapping[str, LatentCodes]
    activations: Mapping[str, FakeQuantizer]
    latents: Sequence[Tensor]
    scales: Sequence[Tensor]

    def current(self) -> QuantizerState:
        """Return the state as it is now, every code rounded."""
        return QuantizerState(
            {name: one.current() for name, one in self.weights.items()},
            {name: one.current() for name, one in self.activations.items()},
        )


def _start(prepared: PreparedGraph, state: QuantizerState, recipe: Recipe) -> _Variables | None:
    """Return the variables, or `None` where there are none."""
    stage, units = recipe.network, prepared.chain.units
    floats = prepared.learned_weights(units, recipe.reconstruct.exclude)
    weights = {
        name: LatentCodes.start(weight, state.weights[name], prepared.weights[name].grid)
        for name, weight in floats.items()
        if prepared.weights[name].grid.is_uniform
    }
    activations = {
        name: quantizer.learn(state.activations[name], None)
        for name, quantizer in prepared.learned_activations(units).items()
        if quantizer.grid.is_uniform
    }
    latents = [one.latent for one in weights.values()] if stage.code_rate else []
    scales: list[Tensor] = []
    if stage.scale_rate:
        scales = [one for each in activations.values() for one in each.variables]
        scales += [
            one.factor for name, one in weights.items() if not prepared.weights[name].fixed_scale
        ]
    if not recipe.network_steps or not (latents or scales):
        return None
    return _Variables(weights if latents or stage.scale_rate else {}, activations, latents, scales)


def _run(
    prepared: PreparedGraph,
    state: QuantizerState,
    variables: _Variables,
    objective: NetworkObjective,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    report: Callable[[int, float], None],
) -> None:
    """Take the steps; the variables hold the result."""
    stage, settings, steps = recipe.network, recipe.reconstruct, recipe.network_steps
    fixed = {**prepared.bind(prepared.chain.units, state), **variables.activations}
    learned = [*variables.latents, *variables.scales]
    adam = Adam(variables.latents, variables.scales)
    batches = shuffled_batches(len(images), settings, derive_seed(recipe.seed, "network"))
    coin = torch.Generator().manual_seed(derive_seed(recipe.seed, "mirror", distributed.rank()))
    for step in range(steps):
        batch = images[next(batches)]
        if stage.mirror and torch.rand((), generator=coin) < 0.5:
            batch = mirror(batch)
        loss = torch.zeros((), device=learned[0].device)
        with matmul_precision(settings.precision, prepared.device):
            for part in batch.split(objective.images_at_once):
                # Each part has a graph of its own.
                weights = {name: one.weight() for name, one in variables.weights.items()}
                distance = objective(part, {**fixed, **weights}) * (len(part) / len(batch))
                torch.autograd.backward(distance, inputs=learned)
                loss += distance.detach()
            distributed.average_gradients(learned)
            decay = cosine_decay(step / steps)
            adam.step(stage.code_rate * decay, stage.scale_rate * decay)
        if (step + 1) % report_interval(steps) == 0:
            report(step + 1, float(loss))
