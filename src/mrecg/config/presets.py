"""Recipes by name: a method, and the widths of weights and activations."""

import re
from collections.abc import Mapping
from typing import Any

from mrecg.config.recipe import Recipe, validated
from mrecg.errors import RecipeError, did_you_mean, expect

__all__ = ["METHODS", "preset", "preset_names"]

METHODS: dict[str, dict[str, Any]] = {
    "rtn": {"reconstruct.steps": 0},
    "adaround": {"plan.granularity": "layer"},
    "brecq": {},
    "qdrop": {"reconstruct.keep_quantized_probability": 0.5},
}
"""Settings in which each method differs from the default recipe."""

_JOINED = {"plan.join": "loss"}
_PRESET = re.compile(rf"w(\d+)a(\d+)-({'|'.join(METHODS)})(-mrecg)?")


def preset_names() -> list[str]:
    """Return the presets at the widths of the papers' tables; any `w2…8a2…8` works the same way."""
    methods = [f"{method}{suffix}" for method in METHODS for suffix in ("", "-mrecg")]
    return [f"{bits}-{method}" for bits in ("w4a4", "w2a4", "w3a3", "w2a2") for method in methods]


def preset(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe of a named method, such as `w2a4-qdrop-mrecg`.

    Args:
        name: `w{bits}a{bits}-{rtn|adaround|brecq|qdrop}[-mrecg]`.
        overrides: dotted keys and values, such as `{"reconstruct.steps": 500, "seed": 1}`.

    Raises:
        RecipeError: the name, a key or a value is not known; the message suggests the nearest.
    """
    expect(name, str, "The preset", "name one such as 'w4a4-qdrop-mrecg'", RecipeError)
    match = _PRESET.fullmatch(name)
    if match is None:
        raise RecipeError(f"There is no preset '{name}'{did_you_mean(name, preset_names())}.")
    weight_bits, activation_bits, method, joined = match.groups()
    settings = {
        "name": name,
        "weight": {"bits": int(weight_bits)},
        "activation": {"bits": int(activation_bits)},
    }
    recipe = validated(settings, f"The preset '{name}'")
    recipe = recipe.override(METHODS[method] | (_JOINED if joined else {}))
    return recipe.override(overrides or {})
