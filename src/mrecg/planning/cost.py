"""Memory that a unit's passes take, and so how many images go through it at once; steps that a group takes."""

import math
from collections.abc import Mapping, Sequence, Sized

import torch
from torch import Tensor, fx

from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ModelInputs
from mrecg.graph.layers import traced_value
from mrecg.graph.units import Chain, Unit

__all__ = [
    "IMAGES_OF_LOSSES",
    "fastest_layout",
    "images_per_pass",
    "images_per_training_pass",
    "is_tried",
    "largest_value",
    "output_positions",
    "output_sizes",
    "planned_steps",
    "remaining_steps",
    "saved_bytes",
]

IMAGES_OF_LOSSES = 32
"""Images of each process that the record's losses are measured on at most, where no group is optimized."""
_MOST_IMAGES = 64
_SAVED_PER_ELEMENT = 3
"""Tensors of an activation's size that a forward pass saves for its backward pass."""
_LARGEST_PASS = 2 << 30
"""Bytes that a pass through the whole network saves at most."""
_LARGEST_TENSOR = 1 << 25
"""Bytes of the largest tensor that a unit makes in a forward pass; a handful of them exist at a time.

More than these 32 MiB glibc never reuses: it maps new pages, which the kernel clears, for a third of a pass's time.
"""


def saved_bytes(units: Sequence[Unit]) -> int:
    """Return the bytes that a forward pass through units saves of one image for its backward pass."""
    nodes = [n for unit in units for n in unit.float_graph.graph.nodes if n.op == "call_function"]
    values = [value for node in nodes if isinstance(value := traced_value(node), Tensor)]
    return 4 * _SAVED_PER_ELEMENT * sum(int(math.prod(value.shape[1:])) for value in values)


def fastest_layout(chain: Chain, inputs: ModelInputs, device: torch.device) -> dict[str, Tensor]:
    """Return a network's inputs by the names in its graph, on its device and in the layout in which convolutions are fastest."""
    formats = {True: torch.channels_last, False: torch.preserve_format}
    return {
        name: one.to(device, memory_format=formats[one.ndim == 4])
        for name, one in chain.named(inputs).items()
    }


def images_per_training_pass(units: Sequence[Unit]) -> int:
    """Return how many images go through units forward and backward at once, within a bound of memory."""
    return max(1, _LARGEST_PASS // max(1, saved_bytes(units)))


def images_per_pass(unit: Unit) -> int:
    """Return how many images go through a unit forward at once, within a bound of memory."""
    return max(1, min(_MOST_IMAGES, _LARGEST_TENSOR // (4 * largest_value(unit))))


def largest_value(unit: Unit) -> int:
    """Return the elements per image of the largest tensor that a unit reads or makes."""
    sizes = [
        int(math.prod(value.shape[1:]))
        for node in unit.float_graph.graph.nodes
        if isinstance(value := traced_value(node), Tensor) and value.ndim > 1
        if node.op != "get_attr"
    ]
    return max(sizes, default=1)


def output_sizes(unit: Unit) -> dict[str, int]:
    """Return the elements per image of each output."""
    (nodes,) = unit.float_graph.graph.output_node().args
    assert isinstance(nodes, tuple | list)
    sizes = [
        int(math.prod(value.shape[1:]))
        if isinstance(node, fx.Node) and isinstance(value := traced_value(node), Tensor)
        else 0
        for node in nodes
    ]
    return dict(zip(unit.outputs, sizes, strict=False))


def output_positions(unit: Unit) -> dict[str, int]:
    """Return the positions per image of each output: its elements without the channels."""
    return {name: size // unit.channels[name] for name, size in output_sizes(unit).items()}


def remaining_steps(recipe: Recipe, taken: Sequence[int]) -> int:
    """Return the steps of a group, of whose units each was given some before, alone."""
    steps, rule = recipe.reconstruct.step_count, recipe.plan
    if len(taken) > 1 and rule.joined_start == "anew":
        taken = [0] * len(taken)
    remaining = [max(0, steps - one) for one in taken]
    return sum(remaining) if rule.joined_steps == "per-unit" else max(remaining)


def planned_steps(
    recipe: Recipe, members: Sequence[Unit], taken: Mapping[str, int]
) -> list[tuple[Sequence[Unit], int]]:
    """Return the optimizations of a planned group: its units jointly, and first one by one where the join is tried.

    Args:
        recipe: steps, and which joins are kept.
        members: the group.
        taken: steps that units were given before, by their names.

    Returns:
        The units of each optimization, and its steps.
    """
    counts = [taken.get(unit.name, 0) for unit in members]
    together: list[tuple[Sequence[Unit], int]] = [(members, remaining_steps(recipe, counts))]
    if not is_tried(recipe, members):
        return together
    alone = [
        ([unit], remaining_steps(recipe, [count]))
        for unit, count in zip(members, counts, strict=True)
    ]
    return alone + together


def is_tried(recipe: Recipe, members: Sized) -> bool:
    """Return whether a planned group is optimized unit by unit, too, to see which is better."""
    return len(members) > 1 and recipe.plan.keep == "better" and recipe.reconstruct.step_count > 0
