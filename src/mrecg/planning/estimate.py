"""What a reconstruction will take, before it starts."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mrecg import distributed
from mrecg.cache.activation_cache import images_tuned_at_once, kept_bytes, largest_value
from mrecg.cache.storage import Storage
from mrecg.config.recipe import Recipe
from mrecg.graph.layers import traced_value
from mrecg.graph.units import Chain, Unit
from mrecg.optimize.groups import steps_left
from mrecg.optimize.network import network_steps
from mrecg.optimize.precision import products
from mrecg.prepare.prepared_model import Assembly
from mrecg.quantizers.lsq import RandomMask
from mrecg.records.plan import Plan

__all__ = ["Estimate", "estimate"]

_STEP_PER_FORWARD = 4.0
"""Cost of a tuning step in forward passes of as many images: forward, twice as much backward, and the rest."""
_KEPT_PER_WEIGHT = 12
"""Tensors of a weight's size that a tuning step keeps: logits, their gradient, two moments, and what rounding needs."""
_HELD_PER_WEIGHT = 3
"""Tensors of a weight's size that a run holds throughout: the captured weight, its codes and their values."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take, in this process.

    Attributes:
        values: bytes of the calibration values that are held at once at most.
        files: how many of them exceed the memory budget and lie in files.
        working: bytes that a tuning step takes at most; what CUDA graphs hold besides is not counted.
        weights: bytes of the weights in all their forms.
        seconds: of the reconstruction; a guess from one forward pass.
    """

    values: int
    files: int
    working: int
    weights: int
    seconds: float

    @property
    def memory(self) -> int:
        """Bytes of memory beside the model and the images."""
        return self.values - self.files + self.working + self.weights


def estimate(
    assembly: Assembly,
    probe: Float[Tensor, "n ..."],
    count: int,
    recipe: Recipe,
    plan: Plan,
    storage: Storage,
    spent: float = 0.0,
) -> Estimate:
    """Estimate a reconstruction by `plan`.

    Args:
        assembly: the model; its quantizers are not used.
        probe: a few images of the right shape, whose values do not matter.
        count: how many images this process calibrates on.
        recipe: steps, batch size and the precision of stored values.
        plan: fits the assembly.
        storage: knows the budget.
        spent: fraction of the steps that units which stay single have taken already.
    """
    chain = assembly.chain
    batch = min(distributed.share_of_batch(recipe.reconstruct.batch_size), count)
    steps, network = recipe.reconstruct.steps, network_steps(recipe)
    with products(recipe.reconstruct.precision, assembly.device):
        seconds = _forward_seconds(assembly, probe)
    taken = sum(
        seconds[unit.name] * (steps_left(steps, spent) if len(members) == 1 else steps)
        for members in _members(chain, plan)
        for unit in members
    )
    whole = min(batch, images_tuned_at_once(chain.units)) * kept_bytes(chain.units)
    masked = recipe.reconstruct.keep_quantized_probability < 1
    groups = max(_working(members, batch, masked) for members in _members(chain, plan))
    values = storage.bytes_per_element * count * _most_elements(chain, plan)
    return Estimate(
        values=values,
        files=storage.overflow(values),
        working=max(groups, whole if network else 0),
        weights=4 * _HELD_PER_WEIGHT * _parameters(chain.units),
        seconds=3 * count * sum(seconds.values())
        + batch * _STEP_PER_FORWARD * (taken + network * sum(seconds.values())),
    )


def _members(chain: Chain, plan: Plan) -> list[tuple[Unit, ...]]:
    ends = [0, *itertools.accumulate(map(len, plan.groups))]
    return [chain.units[first:last] for first, last in itertools.pairwise(ends)]


def _most_elements(chain: Chain, plan: Plan) -> int:
    """Elements per image of the largest set of values that the stream holds, in both networks."""
    plain: dict[str, int] = {}
    quantized: dict[str, int] = {}
    most = done = 0
    for members in _members(chain, plan):
        done += len(members)
        made = {name: size for unit in members for name, size in _outputs(unit).items()}
        plain |= made
        quantized |= {n: s for n, s in made.items() if chain.last_reader.get(n, -1) >= done}
        most = max(most, sum(plain.values()) + sum(quantized.values()))
        for values in (plain, quantized):
            for name in [n for n in values if chain.last_reader.get(n, -1) < done]:
                del values[name]
    return most


def _outputs(unit: Unit) -> dict[str, int]:
    result = next(node for node in unit.quantized.graph.nodes if node.op == "output")
    return {
        name: _elements(traced_value(node))
        for name, node in zip(unit.outputs, result.all_input_nodes, strict=False)
    }


def _elements(value: object) -> int:
    return int(math.prod(value.shape[1:])) if isinstance(value, Tensor) else 0


def _working(members: Sequence[Unit], batch: int, masked: bool) -> int:
    """Bytes of a tuning step, which remembers all activations of the group, and of the random numbers that mask them."""
    masks = 4 * RandomMask.pool_of(batch * max(map(largest_value, members))) if masked else 0
    return batch * kept_bytes(members) + 4 * _KEPT_PER_WEIGHT * _parameters(members) + masks


def _parameters(units: Sequence[Unit]) -> int:
    return sum(layer.parameters for unit in units for layer in unit.layers)


@torch.no_grad()
def _forward_seconds(assembly: Assembly, images: Tensor) -> dict[str, float]:
    """Of every float unit, per image."""
    chain = assembly.chain
    laid_out = torch.channels_last if images.ndim == 4 else torch.preserve_format
    source = images.to(assembly.device, memory_format=laid_out)
    seconds: dict[str, float] = {}
    for _ in range(2):  # the first pass warms up
        values = {chain.input: source}
        for position, unit in enumerate(chain.units):
            started = time.perf_counter()
            results = unit.plain(*[values[name] for name in unit.inputs])
            if assembly.device.type == "cuda":
                torch.cuda.synchronize(assembly.device)
            seconds[unit.name] = (time.perf_counter() - started) / len(images)
            values |= dict(zip(unit.outputs, results, strict=False))
            values = {n: v for n, v in values.items() if chain.last_reader.get(n, -1) > position}
    return seconds
