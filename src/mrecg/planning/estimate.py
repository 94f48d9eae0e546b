"""Memory and time that a reconstruction will take."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mrecg import distributed
from mrecg.config.optimization import Reconstruction
from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.layers import traced_value
from mrecg.graph.units import Chain, Unit
from mrecg.planning.cost import (
    IMAGES_OF_LOSSES,
    fastest_layout,
    images_per_training_pass,
    is_tried,
    largest_value,
    output_sizes,
    planned_steps,
    saved_bytes,
)
from mrecg.planning.windows import find_view
from mrecg.preparation.judging import SplitCounts, judged_views
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.qdrop import RandomMask
from mrecg.records.plan import Plan
from mrecg.torch_state import compute_precision

__all__ = ["Estimate", "estimate_run"]

_GROUP_STEP = 1.1
"""Cost of a group's step in trial steps of its units: its batch comes from all images."""
_NETWORK_STEP = 1.05
"""Cost of a step of the network as a whole in trial steps of all units; the float network runs besides."""
_QUANTIZED_PASS = 1.3
"""Cost of a forward pass of quantized units in forward passes of the float ones."""
_SAVED_PER_WEIGHT = 12
"""Tensors of a weight's size during a step: alpha, its gradient, two moments, and what rounding needs."""
_HELD_PER_WEIGHT = 3
"""Tensors of a weight's size throughout a run: the float weight, its codes and their values."""


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a run, in this process.

    Attributes:
        values: bytes of the activation cache at its largest.
        files: how many of them exceed the memory budget and go to files.
        working: bytes of an optimization step at most, or of the samples that ranges are found from, if these are more; what CUDA graphs hold besides is not counted.
        weights: bytes of the weights in all their forms.
        phases: seconds of each phase that is ahead, by its name in the record; extrapolated from a forward pass and a step of a few images.
        steps: optimizer steps of those phases that may take some, at most: a group may stop early.
    """

    values: int
    files: int
    working: int
    weights: int
    phases: Mapping[str, float]
    steps: Mapping[str, int]

    @property
    def seconds(self) -> float:
        """Return the seconds of all phases that are ahead."""
        return sum(self.phases.values())

    @property
    def memory(self) -> int:
        """Return the bytes of memory, without the model and the images."""
        return self.values - self.files + self.working + self.weights

    def behind(self, run: "Estimate") -> "Estimate":
        """Return the same where the plan takes a run of its own, whose groups are estimated there."""
        return replace(
            self,
            phases={**self.phases, "plan": self.phases["plan"] + run.phases["reconstruction"]},
            steps={**self.steps, "plan": run.steps["reconstruction"]},
        )

    def without(self, *phases: str) -> "Estimate":
        """Return what is left once some phases are over."""
        return replace(
            self,
            phases={name: one for name, one in self.phases.items() if name not in phases},
            steps={name: one for name, one in self.steps.items() if name not in phases},
        )


def estimate_run(
    prepared: PreparedGraph,
    probe: ModelInputs,
    images: SplitCounts,
    recipe: Recipe,
    plan: Plan,
    in_a_step: Mapping[str, float],
    memory: int | None = None,
    taken: Mapping[str, int] | None = None,
) -> Estimate:
    """Estimate the reconstruction by `plan`, and what comes after it.

    Args:
        prepared: the model; its quantizers are not used.
        probe: inputs for a few images, of the right shape; their values do not matter.
        images: how many there are in this process, and for what.
        recipe: steps, batch size and the precision of cached values.
        plan: fits the model.
        in_a_step: seconds of a trial step of each unit, per image (`optimize.trial`).
        memory: bytes that the cache may take; `None` is no limit.
        taken: steps that units were given before, by their names.
    """
    chain, settings = prepared.chain, recipe.reconstruct
    groups, (given, count, fitted, judging) = _members(chain, plan), images
    tries = any(is_tried(recipe, members) for members in groups)
    batch = min(distributed.share_of_batch(settings.images_per_step), count)
    seconds = _forward_seconds(prepared, probe)
    optimizations = [
        one for members in groups for one in planned_steps(recipe, members, taken or {})
    ]
    in_steps = sum(
        steps * batch * _fraction(chain, units, settings) * _sum(in_a_step, units)
        for units, steps in optimizations
    )
    in_passes = sum(
        _passes(recipe, members, count, judging if tries else 0) * _sum(seconds, members)
        for members in groups
    )
    of_network = _passes_of_network(recipe, fitted, judging) * _sum(seconds, chain.units)
    if recipe.network_steps:
        a_step = _NETWORK_STEP * _sum(in_a_step, chain.units) + _sum(seconds, chain.units)
        of_network += recipe.network_steps * min(batch, fitted) * a_step
    whole = min(batch, images_per_training_pass(chain.units)) * saved_bytes(chain.units)
    masked = settings.keep_quantized_probability < 1
    elements = count * _most_elements(chain, groups, keeps_inner=tries)
    if tries:
        elements += judging * _most_elements(chain, groups, keeps_inner=False)
    values = settings.cached_bytes_per_element * elements
    return Estimate(
        values=values,
        files=0 if memory is None else max(0, values - memory),
        working=max(
            *(
                _working(members, batch, masked, _fraction(chain, members, settings))
                for members in groups
            ),
            whole if recipe.network_steps else 0,
            *(_sampled(members, count, recipe.activation.ranges.sample) for members in groups),
        ),
        weights=4 * _HELD_PER_WEIGHT * _parameters(chain.units),
        phases={
            # Every image is looked at for numbers that are none.
            "plan": given * _sum(seconds, chain.units) if settings.reads_images else 0.0,
            "reconstruction": in_passes + _GROUP_STEP * in_steps,
            "network": of_network,
        },
        steps={
            "plan": 0,
            "reconstruction": sum(steps for _, steps in optimizations),
            "network": recipe.network_steps,
        },
    )


def _sum(seconds: Mapping[str, float], units: Sequence[Unit]) -> float:
    return sum(seconds[unit.name] for unit in units)


def _passes(recipe: Recipe, members: Sequence[Unit], count: int, judging: int) -> float:
    """Return how many forward passes of an image a group's ranges and losses take, beside its steps.

    Args:
        recipe: what is learned.
        members: the group.
        count: images that tune.
        judging: images that judge joins; 0 where none is tried.
    """
    if not recipe.reconstruct.reads_images:
        return count + min(count, IMAGES_OF_LOSSES) * _QUANTIZED_PASS
    # Quantized to nearest and as learned; of a join that is tried, twice.
    tuned, judged = (4, 3) if is_tried(recipe, members) else (2, 1)
    return count + judging + _QUANTIZED_PASS * (count * tuned + judging * judged)


def _passes_of_network(recipe: Recipe, fitted: int, judging: int) -> float:
    """Return the same of the network as a whole: its outputs' power, and the judging images before and after."""
    if not recipe.network_steps:
        return 0
    views = recipe.network.learn == "codes" and recipe.network.augment
    judged = judging * (judged_views(judging) if views else 1)
    return fitted + 2 * judged * (1 + _QUANTIZED_PASS)


def _fraction(chain: Chain, units: Sequence[Unit], settings: Reconstruction) -> float:
    """Return which part of a batch's maps a step of a group sees."""
    if settings.window == "none":
        return 1.0
    return find_view(units, chain.read_later(units), settings.window).fraction


def _members(chain: Chain, plan: Plan) -> list[tuple[Unit, ...]]:
    ends = [0, *itertools.accumulate(map(len, plan.groups))]
    return [chain.units[first:last] for first, last in itertools.pairwise(ends)]


def _most_elements(chain: Chain, groups: Sequence[Sequence[Unit]], keeps_inner: bool) -> int:
    """Return the elements per image of the largest set of values that a cache holds, of both networks.

    Args:
        chain: the units.
        groups: as planned.
        keeps_inner: values inside of a group are kept, too, because its units are tried one by one.
    """
    of_float: dict[str, int] = {}
    of_quantized: dict[str, int] = {}
    most = done = 0
    for members in groups:
        done += len(members)
        made = {name: size for unit in members for name, size in output_sizes(unit).items()}
        of_float |= made
        of_quantized |= {
            n: s for n, s in made.items() if keeps_inner or chain.last_reader.get(n, -1) >= done
        }
        most = max(most, sum(of_float.values()) + sum(of_quantized.values()))
        for values in (of_float, of_quantized):
            for name in [n for n in values if chain.last_reader.get(n, -1) < done]:
                del values[name]
    return most


def _elements(value: object) -> int:
    return int(math.prod(value.shape[1:])) if isinstance(value, Tensor) else 0


def _working(members: Sequence[Unit], batch: int, masked: bool, fraction: float) -> int:
    """Return the bytes of an optimization step: the group's activations, its variables, and random masks."""
    seen = fraction * batch
    masks = RandomMask.pool_size(round(seen * max(map(largest_value, members)))) if masked else 0
    saved = round(seen * saved_bytes(members))
    return saved + 4 * (_SAVED_PER_WEIGHT * _parameters(members) + masks)


def _sampled(members: Sequence[Unit], images: int, kept: int) -> int:
    """Return the bytes of what a group's quantizers read, as their ranges are found from it: all samples, and two copies of one."""
    sizes = dict.fromkeys((name for unit in members for name in unit.activations), 0)
    for unit in members:
        nodes = unit.float_graph.graph.output_node().args[0]
        assert isinstance(nodes, tuple | list)
        for name, node in zip(unit.observed, nodes[len(unit.outputs) :], strict=True):
            sizes[name] += min(kept, _elements(traced_value(node)))
    return 4 * images * (sum(sizes.values()) + 2 * max(sizes.values(), default=0))


def _parameters(units: Sequence[Unit]) -> int:
    return sum(layer.parameters for unit in units for layer in unit.layers)


@torch.no_grad()
def _forward_seconds(prepared: PreparedGraph, images: ModelInputs) -> dict[str, float]:
    """Measure the seconds of every float unit, per image."""
    chain = prepared.chain
    source = fastest_layout(chain, images, prepared.device)
    seconds: dict[str, float] = {}
    for _ in range(2):  # the first pass warms up
        values = dict(source)
        for position, unit in enumerate(chain.units):
            started = time.perf_counter()
            with compute_precision("float32", prepared.device):
                results = unit.float_graph(*[values[name] for name in unit.inputs])
            if prepared.device.type == "cuda":
                torch.cuda.synchronize(prepared.device)
            seconds[unit.name] = (time.perf_counter() - started) / len(images)
            values |= dict(zip(unit.outputs, results, strict=False))
            values = {n: v for n, v in values.items() if chain.last_reader.get(n, -1) > position}
    return seconds
