"""The network as a whole, after its groups: widths of all steps and ranges against the float network's answer.

A group knows nothing of the layers behind it. Here all codes stay, and every activation step and weight range moves a
little so that the network answers as the float network does (NWQ: Wang et al., 2022; EPTQ: Gordon et al., 2023).

The groups fitted the calibration images closely, more closely than any others, so these cannot tell whether the network got
better. Their mirror images can: they are as natural, none was fitted, and setting images aside would cost accuracy.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mrecg import distributed
from mrecg.cache.activation_cache import images_at_once, images_tuned_at_once, run_plain, run_units
from mrecg.config.recipe import Recipe
from mrecg.config.settings import Precision
from mrecg.graph.units import Chain
from mrecg.optimize.adam import Adam
from mrecg.optimize.group import (
    REPORTS_PER_RUN,
    activation_rate,
    cosine,
    derived_seed,
    shuffled_batches,
    weight_scale_rate,
)
from mrecg.optimize.precision import precision, products
from mrecg.prepare.prepared_model import Assembly, Held
from mrecg.quantizers.adaround import LearnedRange
from mrecg.quantizers.losses import SMALLEST_POWER, reconstruction_loss, signal_power
from mrecg.quantizers.lsq import ActivationQuantizer
from mrecg.quantizers.weight import WeightQuantizer
from mrecg.records.record import NetworkRecord

__all__ = ["network_steps", "tune_network"]

ACTIVATION_REACH = 0.1
"""Rate × steps: with the cosine decay, a step can change by a twentieth of itself."""
LARGEST_ACTIVATION_RATE = 1e-3
RANGE_REACH = 3.0
"""Rate × steps of the weight ranges, in code steps."""
LARGEST_RANGE_RATE = 3e-2


def network_steps(recipe: Recipe) -> int:
    """Steps that a recipe spends on the network as a whole."""
    return round(recipe.reconstruct.network_share * recipe.reconstruct.steps)


@torch.enable_grad()
def tune_network(
    assembly: Assembly,
    images: Float[Tensor, "n ..."],
    recipe: Recipe,
    report: Callable[[int, float], None],
) -> NetworkRecord | None:
    """Tune the steps and ranges of a reconstructed network; its quantizers hold the result.

    Args:
        assembly: reconstructed group by group.
        images: for calibration.
        recipe: steps, batch size and what may be learned.
        report: called now and then with the step and its loss.

    Returns:
        What came of it, or `None` where there is nothing to learn.
    """
    started = time.perf_counter()
    settings, units, steps = recipe.reconstruct, assembly.chain.units, network_steps(recipe)
    if not steps:
        return None
    weights = [
        quantizer
        for quantizer, _ in assembly.learned_weights(units, settings.exclude).values()
        if not quantizer.fixed_scale and weight_scale_rate(settings)
    ]
    activations = [
        quantizer for quantizer in assembly.learned_activations(units).values() if quantizer.uniform
    ]
    learns_steps = any(one.learns for one in activations) and activation_rate(settings) > 0
    if not (weights or learns_steps):
        return None
    objective = _Objective(assembly.chain, images, assembly.device, settings.precision)
    before = objective.of_mirrored_answer(images)
    held = Held.of(assembly, units)
    learned = _Learned(weights, activations, steps, learns_steps)
    batches = shuffled_batches(len(images), settings, derived_seed(recipe.seed, "network"))
    for step in range(steps):
        with products(settings.precision, assembly.device):
            loss = learned.step(objective, images[next(batches)], step / steps)
        if (step + 1) % max(1, steps // REPORTS_PER_RUN) == 0:
            report(step + 1, float(loss))
    learned.stop()
    _round_biases(assembly)
    after = objective.of_mirrored_answer(images)
    accepted = after < before
    if not accepted:
        held.put_back()
        _round_biases(assembly)
    return NetworkRecord(
        steps=steps,
        divergence_before=before,
        divergence_after=after,
        accepted=accepted,
        seconds=time.perf_counter() - started,
    )


class _Learned:
    """What is learned, and Adam on it."""

    def __init__(
        self,
        weights: Sequence[WeightQuantizer],
        activations: Sequence[ActivationQuantizer],
        steps: int,
        learns_steps: bool,
    ) -> None:
        self._weights, self._activations = weights, activations
        ranges: list[LearnedRange] = [quantizer.start_growing() for quantizer in weights]
        factors = [quantizer.start_learning(None) for quantizer in activations]
        self._rates = (
            # Quantizers whose steps stay have to pass gradients on all the same.
            min(LARGEST_ACTIVATION_RATE, ACTIVATION_REACH / steps) if learns_steps else 0.0,
            min(LARGEST_RANGE_RATE, RANGE_REACH / steps),
        )
        groups = ([one for one in factors if one is not None], [one.growth for one in ranges])
        self._parameters = [one for group in groups for one in group]
        self._adam = Adam(*groups)

    def step(self, objective: "_Objective", images: Float[Tensor, "n ..."], done: float) -> Tensor:
        """One step on a batch; returns its loss."""
        loss = torch.zeros((), device=self._parameters[0].device)
        for part in images.split(objective.at_once):
            for quantizer in self._weights:  # each part has a graph of its own
                quantizer.grow()
            distance = objective(part) * (len(part) / len(images))
            torch.autograd.backward(distance, inputs=self._parameters)
            loss += distance.detach()
        distributed.average_gradients(self._parameters)
        self._adam.step(*(rate * cosine(done) for rate in self._rates))
        for quantizer in self._weights:
            quantizer.grow()
        return loss

    def stop(self) -> None:
        for weight in self._weights:
            weight.stop_growing()
        for activation in self._activations:
            activation.stop_learning()


def _mirrored(images: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Left and right exchanged; what has no left and right stays as it is."""
    return images.flip(-1) if images.ndim == 4 else images


def _round_biases(assembly: Assembly) -> None:
    """To whole accumulator steps at the present scales, as they will be shipped."""
    for bias in assembly.biases.values():
        bias.fit()


class _Objective:
    """How far the quantized network is from the float one: in its answer, and on the way there.

    The answer's distance is the Kullback-Leibler divergence of the predictions where it is logits, else the squared error
    relative to the power. The distance on the way is the mean of the units' relative errors: it keeps the learning
    from trading their features for the answer to the calibration images.

    Attributes:
        at_once: images that one forward and backward pass takes.
    """

    def __init__(
        self,
        chain: Chain,
        images: Float[Tensor, "n ..."],
        device: torch.device,
        computed_in: Precision,
    ) -> None:
        self.at_once = images_tuned_at_once(chain.units)
        self._chain, self._device, self._precision = chain, device, computed_in
        self._measured_at_once = min(map(images_at_once, chain.units))
        self._power = self._powers(images)

    def __call__(self, images: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
        made, wanted = self._both(images, self._precision)
        answer = sum(self._distance(name, made[name], wanted[name]) for name in self._chain.outputs)
        errors = [self._relative_error(name, made[name], wanted[name]) for name in self._power]
        return answer + torch.stack(errors).mean()

    @torch.no_grad()
    def of_mirrored_answer(self, images: Float[Tensor, "n ..."]) -> float:
        """The answer's distance alone, on mirror images where there are images; the mean over those of all processes."""
        added = 0.0
        for part in self._portions(images):
            made, wanted = self._both(_mirrored(part))
            for name in self._chain.outputs:
                added += float(self._distance(name, made[name], wanted[name])) * len(part)
        return distributed.average([added / len(images)])[0]

    def _both(
        self, images: Float[Tensor, "n ..."], computed_in: Precision = "float32"
    ) -> tuple[Mapping[str, Tensor], ...]:
        source = images.to(self._device)
        with precision(computed_in, self._device):
            made = run_units(self._chain.units, {self._chain.input: source})
        compared = {*self._chain.outputs, *self._power}
        return {name: made[name].float() for name in compared}, self._plain(source)

    def _distance(self, name: str, made: Tensor, wanted: Tensor) -> Tensor:
        if wanted.ndim != 2 or wanted.shape[1] == 1:
            return self._relative_error(name, made, wanted)
        predictions = made.log_softmax(1), wanted.log_softmax(1)
        return functional.kl_div(*predictions, reduction="batchmean", log_target=True)

    def _relative_error(self, name: str, made: Tensor, wanted: Tensor) -> Tensor:
        return reconstruction_loss(made, wanted, self._chain.channels[name]) / self._power[name]

    @torch.no_grad()
    def _powers(self, images: Float[Tensor, "n ..."]) -> dict[str, float]:
        powers = {name: 0.0 for unit in self._chain.units for name in unit.outputs}
        for part in self._portions(images):
            made = self._plain(part.to(self._device))
            for name in powers:
                powers[name] += (
                    float(signal_power(made[name], self._chain.channels[name]))
                    * len(part)
                    / len(images)
                )
        shared = distributed.average(list(powers.values()))
        return {
            name: max(power, SMALLEST_POWER) for name, power in zip(powers, shared, strict=True)
        }

    @torch.no_grad()
    def _plain(self, images: Float[Tensor, "n ..."]) -> Mapping[str, Tensor]:
        with precision("float32", self._device):
            return run_plain(self._chain.units, {self._chain.input: images})

    def _portions(self, images: Float[Tensor, "n ..."]) -> Iterator[Tensor]:
        yield from images.split(self._measured_at_once)
