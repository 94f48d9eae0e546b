"""Optimize the scales of the whole network after its groups.

A group knows nothing of the layers behind it. Here all codes stay, and every activation scale and weight scale moves a
little so that the network's outputs come closer to the float network's (NWQ: Wang et al., 2022; EPTQ: Gordon et al., 2023).

The groups fitted the calibration images closely, so these cannot tell whether the network got better. Their mirror images
can: they are as natural, none was fitted, and setting images aside would cost accuracy.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrecg import distributed
from mrecg.cache.activation_cache import run_float_units, run_quantized_units
from mrecg.config.recipe import Recipe
from mrecg.config.settings import Precision, Reconstruction
from mrecg.optimize.adam import Adam
from mrecg.optimize.schedule import (
    cosine_decay,
    derive_seed,
    group_rates,
    report_interval,
    shuffled_batches,
)
from mrecg.planning.cost import images_per_pass, images_per_training_pass
from mrecg.preparation.prepared_graph import Binding, PreparedGraph
from mrecg.quantizers.activation import FakeQuantizer
from mrecg.quantizers.adaround import LearnedScale
from mrecg.quantizers.losses import SMALLEST_POWER, reconstruction_loss, signal_power
from mrecg.quantizers.state import QuantizerState
from mrecg.quantizers.weight import WeightState
from mrecg.records.record import NetworkRecord
from mrecg.torch_state import compute_precision, matmul_precision

__all__ = ["optimize_network"]

NETWORK_ACTIVATION_REACH = 0.1
"""Rate × steps: with the cosine decay, an activation scale can change by a twentieth of itself."""
LARGEST_NETWORK_ACTIVATION_RATE = 1e-3
NETWORK_WEIGHT_SCALE_REACH = 3.0
"""Rate × steps of the weight scales, in code units."""
LARGEST_NETWORK_WEIGHT_SCALE_RATE = 3e-2


@torch.enable_grad()
def optimize_network(
    prepared: PreparedGraph,
    state: QuantizerState,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    report: Callable[[int, float], None],
) -> tuple[QuantizerState, NetworkRecord | None]:
    """Optimize the scales of a reconstructed network.

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
    settings = recipe.reconstruct
    variables = _start(prepared, state, settings)
    if variables is None:
        return state, None
    objective = _Objective(prepared, images, settings.precision)
    before = objective.mirrored_divergence(images, prepared.bind(prepared.chain.units, state))
    _run(prepared, state, variables, objective, images, recipe, report)
    found = state | variables.current(state)
    after = objective.mirrored_divergence(images, prepared.bind(prepared.chain.units, found))
    accepted = after < before
    record = NetworkRecord(
        steps=settings.network_steps,
        divergence_before=before,
        divergence_after=after,
        accepted=accepted,
        seconds=time.perf_counter() - started,
    )
    return found if accepted else state, record


@dataclass(frozen=True)
class _Variables:
    """Learned variables, by the names of quantizers."""

    weights: Mapping[str, LearnedScale]
    activations: Mapping[str, FakeQuantizer]
    learns_activations: bool

    def current(self, start: QuantizerState) -> QuantizerState:
        """Return the state with the scales as they are now."""
        return QuantizerState(
            {n: WeightState(start.weights[n].codes, w.current()) for n, w in self.weights.items()},
            {name: one.current() for name, one in self.activations.items()},
        )


def _start(
    prepared: PreparedGraph, state: QuantizerState, settings: Reconstruction
) -> _Variables | None:
    """Return the variables, or `None` where there are none."""
    if not settings.network_steps:
        return None
    units, rates = prepared.chain.units, group_rates(settings)
    weights = {
        name: prepared.weights[name].learn_scale(state.weights[name])
        for name in prepared.learned_weights(units, settings.exclude)
        if not prepared.weights[name].fixed_scale and rates.weight_scale > 0
    }
    quantizers = {
        name: quantizer
        for name, quantizer in prepared.learned_activations(units).items()
        if quantizer.grid.is_uniform
    }
    learns_activations = rates.activation_scale > 0 and any(q.learns for q in quantizers.values())
    if not (weights or learns_activations):
        return None
    activations = {n: q.learn(state.activations[n], None) for n, q in quantizers.items()}
    return _Variables(weights, activations, learns_activations)


def _run(
    prepared: PreparedGraph,
    state: QuantizerState,
    variables: _Variables,
    objective: "_Objective",
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    report: Callable[[int, float], None],
) -> None:
    """Take the steps; the variables hold the result."""
    settings, steps = recipe.reconstruct, recipe.reconstruct.network_steps
    fixed = {**prepared.bind(prepared.chain.units, state), **variables.activations}
    hard = {name: fixed[name] for name in variables.weights}
    scales = [one for each in variables.activations.values() for one in each.variables]
    deltas = [one.delta for one in variables.weights.values()]
    learned, adam = [*scales, *deltas], Adam(scales, deltas)
    rates = (
        min(LARGEST_NETWORK_ACTIVATION_RATE, NETWORK_ACTIVATION_REACH / steps)
        # Where activation scales stay, their quantizers have to pass gradients on all the same.
        if variables.learns_activations
        else 0.0,
        min(LARGEST_NETWORK_WEIGHT_SCALE_RATE, NETWORK_WEIGHT_SCALE_REACH / steps),
    )
    batches = shuffled_batches(len(images), settings, derive_seed(recipe.seed, "network"))
    for step in range(steps):
        batch = images[next(batches)]
        loss = torch.zeros((), device=learned[0].device)
        with matmul_precision(settings.precision, prepared.device):
            for part in batch.split(objective.images_at_once):
                scaled = {n: hard[n] * one.factor() for n, one in variables.weights.items()}  # type: ignore[operator]
                distance = objective(part, {**fixed, **scaled}) * (len(part) / len(batch))
                torch.autograd.backward(distance, inputs=learned)
                loss += distance.detach()
            distributed.average_gradients(learned)
            adam.step(*(rate * cosine_decay(step / steps) for rate in rates))
        if (step + 1) % report_interval(steps) == 0:
            report(step + 1, float(loss))


def _mirror(images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Exchange left and right of images; other inputs have neither and stay as they are."""
    return images.flip(-1) if images.ndim == 4 else images


class _Objective:
    """Distance of the quantized network from the float one: of the outputs, and of the units on the way.

    The distance of an output is the Kullback-Leibler divergence of the predictions where it is logits, else the squared
    error relative to the power. On the way it is the mean of the units' relative errors, which keeps the optimization from
    trading their features for the outputs on the calibration images.

    Attributes:
        images_at_once: images that one forward and backward pass takes.
    """

    def __init__(
        self, prepared: PreparedGraph, images: Float[Tensor, "n ..."], precision: Precision
    ) -> None:
        self._chain, self._device = prepared.chain, prepared.device
        self.images_at_once = images_per_training_pass(self._chain.units)
        self._precision = precision
        self._measured_at_once = min(map(images_per_pass, self._chain.units))
        self._power = self._measure_power(images)

    def __call__(
        self, images: Float[Tensor, "n ..."], bindings: Mapping[str, Binding]
    ) -> Float[Tensor, ""]:
        made, wanted = self._run_both(images, bindings, self._precision)
        outputs = self._chain.outputs
        answer = sum(self._divergence(name, made[name], wanted[name]) for name in outputs)
        errors = [self._relative_error(name, made[name], wanted[name]) for name in self._power]
        return answer + torch.stack(errors).mean()

    @torch.no_grad()
    def mirrored_divergence(
        self, images: Float[Tensor, "n ..."], bindings: Mapping[str, Binding]
    ) -> float:
        """Return the distance of the outputs alone, on mirrored images, over those of all processes."""
        added = 0.0
        for part in self._portions(images):
            made, wanted = self._run_both(_mirror(part), bindings, "float32")
            for name in self._chain.outputs:
                added += float(self._divergence(name, made[name], wanted[name])) * len(part)
        return distributed.average([added / len(images)])[0]

    def _run_both(
        self,
        images: Float[Tensor, "n ..."],
        bindings: Mapping[str, Binding],
        precision: Precision,
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        source = images.to(self._device)
        with compute_precision(precision, self._device):
            made = run_quantized_units(self._chain.units, {self._chain.input: source}, bindings)
        compared = {*self._chain.outputs, *self._power}
        return {name: made[name].float() for name in compared}, self._run_float(source)

    def _divergence(self, name: str, made: Tensor, wanted: Tensor) -> Tensor:
        if wanted.ndim != 2 or wanted.shape[1] == 1:
            return self._relative_error(name, made, wanted)
        predictions = made.log_softmax(1), wanted.log_softmax(1)
        return functional.kl_div(*predictions, reduction="batchmean", log_target=True)

    def _relative_error(self, name: str, made: Tensor, wanted: Tensor) -> Tensor:
        return reconstruction_loss(made, wanted, self._chain.channels[name]) / self._power[name]

    @torch.no_grad()
    def _measure_power(self, images: Float[Tensor, "n ..."]) -> dict[str, float]:
        powers = {name: 0.0 for unit in self._chain.units for name in unit.outputs}
        for part in self._portions(images):
            made = self._run_float(part.to(self._device))
            for name in powers:
                power = float(signal_power(made[name], self._chain.channels[name]))
                powers[name] += power * len(part) / len(images)
        shared = distributed.average(list(powers.values()))
        return {
            name: max(power, SMALLEST_POWER) for name, power in zip(powers, shared, strict=True)
        }

    @torch.no_grad()
    def _run_float(self, images: Float[Tensor, "n ..."]) -> Mapping[str, Tensor]:
        with compute_precision("float32", self._device):
            return run_float_units(self._chain.units, {self._chain.input: images})

    def _portions(self, images: Float[Tensor, "n ..."]) -> Iterator[Tensor]:
        yield from images.split(self._measured_at_once)
