"""A few steps of every unit on a few images, which tell how long a run's steps will take."""

import time
from collections.abc import Mapping

from mrecg import distributed
from mrecg.cache.activation_cache import ActivationCache
from mrecg.config.recipe import Recipe
from mrecg.graph.inputs import ModelInputs
from mrecg.optimize.reconstruction import GroupReconstruction, calibrate_units
from mrecg.preparation.prepared_graph import PreparedGraph
from mrecg.quantizers.state import QuantizerState

__all__ = ["try_steps"]

_STEPS = 3
"""The first one, in which kernels are chosen and memory is asked for, does not count."""
_MOST_IMAGES = 32


def try_steps(prepared: PreparedGraph, images: ModelInputs, recipe: Recipe) -> Mapping[str, float]:
    """Return the seconds of a step of every unit, per image; 0 where nothing is learned.

    On a CUDA device, steps are timed that are not recorded.

    Args:
        prepared: the network; nothing of it changes.
        images: the first ones are a batch.
        recipe: what is learned, and how.
    """
    seconds = dict.fromkeys((unit.name for unit in prepared.chain.units), 0.0)
    if not recipe.reconstruct.step_count and not recipe.network_steps:
        return seconds
    share = distributed.share_of_batch(recipe.reconstruct.images_per_step)
    batch = images[: min(share, _MOST_IMAGES)]
    settings = {
        "reconstruct.rounding": "learned",
        "reconstruct.steps": _STEPS,
        "reconstruct.batch_size": len(batch) * distributed.count(),
        "reconstruct.images": None,
        "reconstruct.window": "none",
        "reconstruct.early_stop": False,
        "reconstruct.cuda_graphs": False,
    }
    trial = recipe.override(settings)
    cache = ActivationCache(prepared.chain, batch, prepared.device)
    reconstruction = GroupReconstruction(prepared, cache, trial, QuantizerState())
    state = QuantizerState()
    for unit in prepared.chain.units:
        ends: list[float] = []
        ranges, _ = calibrate_units(prepared, cache, [unit], trial)
        found = reconstruction.run(
            [unit], state, ranges, 0, lambda *_, ends=ends: ends.append(time.perf_counter())
        )
        state = state | found.state
        cache.drop([unit])
        if len(ends) > 1:
            seconds[unit.name] = (ends[-1] - ends[0]) / (len(ends) - 1) / len(batch)
    return seconds
