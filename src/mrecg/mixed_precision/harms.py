"""Harms of single units: the answer's distance from the float network's with one unit quantized and everything else in float.

The float network runs once. A unit reads what the float units before it made, which is cached, and float units carry its result
on to the outputs; so a unit at a width costs the rest of a forward pass, and all of them units × widths of these.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mrecg.cache.activation_cache import ActivationCache, run_float_units, run_quantized_units
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.graph.extract import Unit
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.units import Chain
from mrecg.mixed_precision.divergence import FloatAnswers
from mrecg.mixed_precision.regridding import at_width
from mrecg.optimize.answer_distance import AnswerDistance
from mrecg.optimize.finite import require_finite_activations
from mrecg.optimize.group import GroupValues, optimize_group
from mrecg.optimize.network_objective import find_answers
from mrecg.optimize.reconstruction import round_to_nearest
from mrecg.optimize.schedule import derive_seed
from mrecg.planning.cost import images_per_pass
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.preparation.ranges import calibrate_activation
from mrecg.quantizers.activation_sample import ActivationSample
from mrecg.quantizers.state import QuantizerState
from mrecg.records.sensitivity import (
    QuantizedKind,
    UnitHarms,
    WholeHarm,
    WidthHarm,
)
from mrecg.shortage import Parts, Shortages
from mrecg.torch_state import compute_precision

__all__ = ["HarmMeter", "Scored", "distance_name"]

Scored = Callable[[Tensor], float]
"""A metric of the answers to all images, in order."""


def distance_name(distance: AnswerDistance) -> str:
    """Return what a distance of answers is called."""
    if distance.logits == distance.answers.keys():
        return "divergence"
    return "sum" if distance.logits else "relative error"


@torch.no_grad()
def _run_whole(
    chain: Chain,
    images: ModelInputs,
    device: torch.device,
    bound: tuple[PreparedGraph, QuantizerState] | None,
) -> dict[str, Tensor]:
    """Return the answers to all images: of the float network, or of a state."""
    bindings = None if bound is None else bound[0].bind(chain.units, bound[1])

    def forward(first: int, last: int) -> Mapping[str, Tensor]:
        values = chain.named(images[first:last].to(device))
        with compute_precision("float32", device):
            if bindings is None:
                return run_float_units(chain.units, values)
            return run_quantized_units(chain.units, values, bindings)

    return _in_parts(len(images), chain.units, chain.outputs, forward)


def _in_parts(
    images: int,
    units: Sequence[Unit],
    outputs: Sequence[str],
    forward: Callable[[int, int], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Return some values of all images, from passes over as many as memory holds."""
    parts = Parts(Shortages(), "passes through the network")
    size = min(map(images_per_pass, units))
    kept = [
        {name: made[name] for name in outputs} for _, _, made in parts.over(images, size, forward)
    ]
    return {name: torch.cat([part[name] for part in kept]) for name in outputs}


@dataclass(frozen=True)
class HarmMeter:
    """Measures units at several widths, of their weights or of what they read.

    Attributes:
        prepared: the network with quantizers of one kind alone.
        kind: which.
        images: that ranges are found on and answers compared on.
        recipe: how ranges are found, and what a reconstruction does.
        widths: to measure, in ascending order.
        after: steps of a reconstruction of the unit alone; 0 is rounding to nearest.
        memory: bytes of cached activations; `None` is no limit.
        scored: a metric of the answers; `None` for none.
    """

    prepared: PreparedGraph
    kind: QuantizedKind
    images: ModelInputs
    recipe: Recipe
    widths: tuple[int, ...]
    after: int = 0
    memory: int | None = None
    scored: Scored | None = None

    @cached_property
    def answers(self) -> FloatAnswers:
        """Return the float network's answers."""
        prepared, chain = self.prepared, self.prepared.chain
        require_finite_activations(prepared, self.images, range(len(self.images)))
        found = _run_whole(chain, self.images, prepared.device, None)
        return FloatAnswers.of(found, find_answers(chain, self.recipe), chain.channels)

    @cached_property
    def _at_widths(self) -> dict[int, PreparedGraph]:
        return {bits: at_width(self.prepared, self.recipe, bits) for bits in self.widths}

    def float_score(self) -> float | None:
        """Return the metric of the float network."""
        return self._score(self.answers.wanted)

    def measure(
        self, advance: Callable[[str], None] = lambda name: None
    ) -> tuple[list[UnitHarms], list[WholeHarm]]:
        """Return the harms of all units that have something to quantize, and the check of their sum.

        Args:
            advance: called with the name of each unit that is done.
        """
        states = {bits: QuantizerState() for bits in self.widths}
        found: list[UnitHarms] = []
        for index, unit, cache in self._walk():
            readers = self._layers_of(unit)
            samples = cache.run_float(unit, self.recipe.activation.ranges.sample)
            harms = []
            for bits in self.widths if readers else ():
                harm, state = self._measure_unit(index, bits, cache, samples)
                states[bits] = states[bits] | state
                harms.append(harm)
            if harms:
                layers = tuple(readers)
                found.append(
                    UnitHarms(name=unit.name, kind=self.kind, layers=layers, harms=tuple(harms))
                )
            advance(unit.name)
        return found, [self._check(bits, states[bits], found) for bits in self.widths]

    def _walk(self) -> Iterator[tuple[int, Unit, ActivationCache]]:
        """Yield the units with a cache of the float values that they and the units behind them read."""
        prepared = self.prepared
        storage = Storage(prepared.device, self.memory)
        cache = ActivationCache(prepared.chain, self.images, prepared.device, storage)
        for index, unit in enumerate(prepared.chain.units):
            yield index, unit, cache
            cache.drop([unit])
        cache.clear()

    def _layers_of(self, unit: Unit) -> list[str]:
        """Return the layers whose width a unit's quantizers decide."""
        mine = {*unit.weights, *unit.activations}
        read = [
            reader for one in self.prepared.placed if one.name in mine for reader in one.readers
        ]
        return list(dict.fromkeys(read))

    def _measure_unit(
        self,
        index: int,
        bits: int,
        cache: ActivationCache,
        samples: Mapping[str, ActivationSample],
    ) -> tuple[WidthHarm, QuantizerState]:
        prepared, batch = self._at_widths[bits], self.recipe.reconstruct.images_per_step
        unit = prepared.chain.units[index]
        ranges = {
            name: calibrate_activation(
                prepared.activations[name], sample, self.recipe.activation, batch
            )
            for name, sample in samples.items()
        }
        nearest = round_to_nearest(prepared, [unit], QuantizerState(), ranges)
        tried = [nearest]
        if self.after and self._learns(prepared, unit):
            tried.append(self._reconstruct(index, prepared, cache, nearest))
        made = [self._answers_behind(index, prepared, cache, state) for state in tried]
        harms = [self.answers.compare(one) for one in made]
        best = harms.index(min(harms))
        found = WidthHarm(bits=bits, harm=harms[best], score=self._score(made[best]))
        return found, tried[best]

    def _learns(self, prepared: PreparedGraph, unit: Unit) -> bool:
        scales = prepared.learned_activations([unit]).values()
        weights = prepared.learned_weights([unit], self.recipe.reconstruct.exclude)
        return bool(weights) or any(one.learns for one in scales)

    def _reconstruct(
        self,
        index: int,
        prepared: PreparedGraph,
        cache: ActivationCache,
        nearest: QuantizerState,
    ) -> QuantizerState:
        unit = prepared.chain.units[index]
        inputs = {name: cache.of_float[name] for name in unit.inputs}
        settings = self.recipe.reconstruct.model_copy(update={"steps": self.after})
        found, result = optimize_group(
            prepared,
            [unit],
            nearest,
            GroupValues(inputs, inputs, cache.targets([unit])),
            settings,
            derive_seed(self.recipe.seed, "sensitivity", index),
            lambda step, loss: None,
        )
        return nearest if result.diverged else found

    @torch.no_grad()
    def _answers_behind(
        self, index: int, prepared: PreparedGraph, cache: ActivationCache, state: QuantizerState
    ) -> dict[str, Tensor]:
        """Return the answers to all images with one unit under a state, and float units before and behind it."""
        unit, *behind = prepared.chain.units[index:]
        bindings = prepared.bind([unit], state)

        def forward(first: int, last: int) -> Mapping[str, Tensor]:
            given = {name: one.portion(first, last) for name, one in cache.of_float.items()}
            with compute_precision("float32", prepared.device):
                return run_float_units(behind, run_quantized_units([unit], given, bindings))

        units, outputs = (unit, *behind), prepared.chain.outputs
        return _in_parts(len(self.images), units, outputs, forward)

    def _check(self, bits: int, state: QuantizerState, found: Sequence[UnitHarms]) -> WholeHarm:
        prepared = self._at_widths[bits]
        made = _run_whole(prepared.chain, self.images, prepared.device, (prepared, state))
        return WholeHarm(
            kind=self.kind,
            bits=bits,
            added=math.fsum(unit.harm_at(bits) for unit in found),
            measured=self.answers.compare(made),
        )

    def _score(self, made: Mapping[str, Tensor]) -> float | None:
        if self.scored is None:
            return None
        return self.scored(made[self.prepared.chain.outputs[0]])
