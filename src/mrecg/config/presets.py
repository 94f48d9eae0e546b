"""Recipes by name: a method, and the widths of weights and activations."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from mrecg.config.recipe import Recipe, validated
from mrecg.errors import RecipeError, did_you_mean, expect, quoted

__all__ = [
    "DEFAULT_PRESET",
    "METHODS",
    "SCHEDULES",
    "Schedule",
    "check_schedule",
    "preset",
    "preset_names",
    "read_widths",
]

DEFAULT_PRESET = "w4a4-qdrop-mrecg"
"""The recipe where none is named."""

Schedule = Literal["fast", "paper"]

METHODS: dict[str, dict[str, Any]] = {
    "rtn": {"reconstruct.steps": 0},
    "qronos": {
        "plan.granularity": "layer",
        "reconstruct.rounding": "qronos",
        "reconstruct.steps": 0,
    },
    "adaround": {"plan.granularity": "layer"},
    "brecq": {},
    "qdrop": {"reconstruct.keep_quantized_probability": 0.5},
}
"""Settings in which each method differs from the default recipe."""

SCHEDULES: Mapping[Schedule, Mapping[str, Any]] = {
    "fast": {},
    "paper": {
        "plan.cut": "behind-quantizers",
        "activation.ranges.running_mean": 0.9,
        "plan.keep": "all",
        "plan.joined_steps": "per-group",
        "plan.joined_start": "anew",
        "activation.ranges.sample": 1 << 14,
        "reconstruct.steps": 20000,
        "reconstruct.batch_size": 256,
        "reconstruct.batches": "fixed",
        "reconstruct.window": "none",
        "reconstruct.precision": "float32",
        "reconstruct.early_stop": False,
        "reconstruct.rounding_rate": 1e-3,
        "reconstruct.activation_rate": 4e-5,
        "reconstruct.activation_rate_unit": "absolute",
        "reconstruct.weight_scale_rate": 0.0,
        "reconstruct.penalty": 0.01,
        "reconstruct.warm_up": 0.2,
        "reconstruct.penalty_at": "end",
        "reconstruct.beta": [20.0, 2.0],
        "network.steps": 0,
    },
}
"""How long and how fast: `fast` is the default recipe, `paper` the code and the configuration files of MRECG's authors.

What the authors set by network, MobileNetV2's λ = 0.1 and ResNet-50's batches of 128, is in `mrecg.paper.published`.
"""

_JOINED: Mapping[Schedule, Mapping[str, Any]] = {
    "fast": {"plan.join": "loss", "plan.difference": "log-ratio", "plan.count": "all"},
    "paper": {"plan.join": "loss"},
}
"""Ours tries every neighbor, those of the largest difference first, and keeps what helps (docs/choices.md); the paper joins those
whose squared difference is largest."""
_PRESET = re.compile(rf"w(\d{{1,3}})a(\d{{1,3}})-({'|'.join(METHODS)})(-mrecg)?")


def preset_names() -> list[str]:
    """Return the presets at the widths of the papers' tables; any `w2…8a2…8` works the same way."""
    methods = [f"{method}{suffix}" for method in METHODS for suffix in ("", "-mrecg")]
    return [f"{bits}-{method}" for bits in ("w4a4", "w2a4", "w3a3", "w2a2") for method in methods]


def preset(
    name: str, overrides: Mapping[str, Any] | None = None, schedule: Schedule = "fast"
) -> Recipe:
    """Return the recipe of a named method, such as `w2a4-qdrop-mrecg`.

    Args:
        name: `w{bits}a{bits}-{rtn|qronos|adaround|brecq|qdrop}[-mrecg]`.
        overrides: dotted keys and values, such as `{"reconstruct.steps": 500, "seed": 1}`.
        schedule: `fast`, which takes minutes, or `paper`, the authors' settings: steps, batches, rates and ranges.

    Raises:
        RecipeError: the name, the schedule, a key or a value is not known; the message suggests the nearest.
    """
    expect(name, str, "The preset", "name one such as 'w4a4-qdrop-mrecg'", RecipeError)
    match = _PRESET.fullmatch(name)
    if match is None:
        raise RecipeError(f"There is no preset {quoted(name)}{did_you_mean(name, preset_names())}")
    weight_bits, activation_bits, method, joined = match.groups()
    settings = {
        "name": name,
        "weight": {"bits": int(weight_bits)},
        "activation": {"bits": int(activation_bits)},
    }
    recipe = validated(settings, f"The preset '{name}'")
    recipe = recipe.override({**SCHEDULES[check_schedule(schedule)], **METHODS[method]})
    recipe = recipe.override(_JOINED[check_schedule(schedule)] if joined else {})
    return recipe.override(overrides or {})


def read_widths(bits: str) -> tuple[int, int]:
    """Return the widths of weights and activations in a text such as `w4a8`.

    Raises:
        RecipeError: it cannot be read.
    """
    found = re.fullmatch(r"w(\d{1,3})a(\d{1,3})", bits)
    if found is None:
        raise RecipeError(
            f"The widths {quoted(bits)} cannot be read, expected such as w4a4 or w2a8."
        )
    return int(found[1]), int(found[2])


def check_schedule(name: str) -> Schedule:
    """Return the name of a schedule.

    Raises:
        RecipeError: there is none of that name.
    """
    for known in SCHEDULES:
        if name == known:
            return known
    raise RecipeError(
        f"There is no schedule {quoted(name)}{did_you_mean(str(name), list(SCHEDULES))}"
    )
