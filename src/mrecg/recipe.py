"""What a user chooses: frozen models, YAML in and out, named presets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mrecg.errors import RecipeError, did_you_mean

__all__ = [
    "FLOAT_BITS",
    "METHODS",
    "Bits",
    "LayerOverride",
    "Placement",
    "PlanRule",
    "Ranges",
    "Recipe",
    "Reconstruction",
    "TensorSettings",
    "preset",
    "preset_names",
    "read_recipe",
]

FLOAT_BITS = 32
"""The width that means "leave in float"."""


def _check_bits(bits: int) -> int:
    if not (2 <= bits <= 8 or bits == FLOAT_BITS):
        raise ValueError(f"expected 2 to 8 bits, or {FLOAT_BITS} for float, got {bits}")
    return bits


Bits = Annotated[int, AfterValidator(_check_bits)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ranges(_Settings):
    """How a quantizer finds its range.

    Attributes:
        method: `minmax`; `percentile`, which cuts tails; or `error`, which minimises the mean |x − x_q|^p.
        p: exponent of the error search.
        percentile: percent of the values that stay inside on either side.
    """

    method: Literal["minmax", "percentile", "error"] = "error"
    p: float = Field(default=2.4, gt=0)
    percentile: float = Field(default=99.9, gt=50, le=100)


class TensorSettings(_Settings):
    """The grid of weights or of activations."""

    bits: Bits
    symmetric: bool = False
    ranges: Ranges = Ranges()


class LayerOverride(_Settings):
    """Widths for the layers whose name matches a shell pattern; `None` leaves a width as it is."""

    layers: str
    weight_bits: Bits | None = None
    activation_bits: Bits | None = None


class Placement(_Settings):
    """Which tensors are quantized, in the papers' simulation.

    Attributes:
        first_last: `qdrop` (first and last layer at `first_last_bits`, the first layer's output already at
            the low width), `brecq` (the input of the second layer too) or `same` (no exception). The two
            conventions differ by points: never mix them in a table.
        first_last_bits: width of the layers that `first_last` excepts.
        shortcut: whether a shortcut sees the `quantized` or the `float` tensor that a layer reads.
        per_channel_weights: one range per output channel, or one per tensor.
        overrides: ordered; a later one wins; one that matches no layer is an error.
    """

    first_last: Literal["qdrop", "brecq", "same"] = "qdrop"
    first_last_bits: Bits = 8
    shortcut: Literal["quantized", "float"] = "quantized"
    per_channel_weights: bool = True
    overrides: tuple[LayerOverride, ...] = ()


class PlanRule(_Settings):
    """Which pieces are reconstructed, and which neighbours jointly (METHOD: MRECG).

    Attributes:
        granularity: the pieces: single `layer`s or `block`s.
        join: `none`; by difference of `capacity` (ModCap, data-free) or of `loss` (a short run without
            joining); at every change of `stage`; or `explicit`.
        difference: CapDiff as `square` (the paper) or as `log-ratio`, which does not favour deep layers.
        count: how many neighbours to join; `auto` takes those whose CapDiff exceeds the mean.
        largest_group: units in one group at most.
        loss_steps: fraction of the steps that the run for `loss` takes.
        groups: the groups of an explicit plan, as lists of unit names; other units stay single.
    """

    granularity: Literal["layer", "block"] = "block"
    join: Literal["none", "capacity", "loss", "stage", "explicit"] = "none"
    difference: Literal["square", "log-ratio"] = "square"
    count: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    largest_group: int = Field(default=3, ge=2)
    loss_steps: float = Field(default=0.25, gt=0, le=1)
    groups: tuple[tuple[str, ...], ...] = ()


class Reconstruction(_Settings):
    """How one group is tuned.

    Attributes:
        steps: optimisation steps per group; 0 is rounding to nearest.
        batch_size: images per step.
        rounding_rate: Adam's rate for the rounding variables; `auto` scales it with the budget.
        activation_rate: the same for the activation steps, as a fraction of each step; it decays to 0 by a cosine.
        penalty: weight λ of the rounding penalty, against a loss that is summed over channels.
        warm_up: fraction of the steps without penalty.
        beta: exponent of the penalty, from its first to its last value.
        keep_quantized_probability: 1 is BRECQ; below, each activation stays float with the rest (QDrop).
        batches: `reshuffled` every epoch, or the authors' `fixed` ones.
    """

    steps: int = Field(default=500, ge=0)
    batch_size: int = Field(default=32, ge=1)
    rounding_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    activation_rate: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    penalty: float = Field(default=0.01, ge=0)
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    beta: tuple[float, float] = (20.0, 2.0)
    keep_quantized_probability: float = Field(default=1.0, gt=0, le=1)
    batches: Literal["reshuffled", "fixed"] = "reshuffled"


class Recipe(_Settings):
    """Everything that decides a result, apart from the model and the images."""

    name: str
    seed: int = Field(default=1005, ge=0, lt=2**32)
    weight: TensorSettings
    activation: TensorSettings
    placement: Placement = Placement()
    plan: PlanRule = PlanRule()
    reconstruct: Reconstruction = Reconstruction()

    def to_yaml(self) -> str:
        """The resolved recipe, every default included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def override(self, overrides: Mapping[str, Any]) -> "Recipe":
        """A copy with some settings replaced.

        Args:
            overrides: dotted keys, such as `{"reconstruct.steps": 500}`.

        Raises:
            RecipeError: a key does not exist or a value does not fit.
        """
        settings = self.model_dump(mode="json")
        for key, value in overrides.items():
            _set(settings, key, value)
        return _validated(settings, "The recipe")


METHODS: dict[str, dict[str, Any]] = {
    "rtn": {"reconstruct.steps": 0},
    "adaround": {"plan.granularity": "layer"},
    "brecq": {},
    "qdrop": {"reconstruct.keep_quantized_probability": 0.5},
}
"""What each method changes in the default recipe."""

_JOINED = {"plan.join": "loss"}
_PRESET = re.compile(rf"w(\d+)a(\d+)-({'|'.join(METHODS)})(-mrecg)?")


def preset_names() -> list[str]:
    """The presets at the widths of the papers' tables; any `w2…8a2…8` works the same way."""
    methods = [f"{method}{suffix}" for method in METHODS for suffix in ("", "-mrecg")]
    return [f"{bits}-{method}" for bits in ("w4a4", "w2a4", "w3a3", "w2a2") for method in methods]


def preset(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a named method, such as `w2a4-qdrop-mrecg`.

    Args:
        name: `w{bits}a{bits}-{rtn|adaround|brecq|qdrop}[-mrecg]`.
        overrides: dotted keys and values, such as `{"reconstruct.steps": 500, "seed": 1}`.

    Raises:
        RecipeError: the name, a key or a value is not known; the message suggests the nearest.
    """
    match = _PRESET.fullmatch(name)
    if match is None:
        raise RecipeError(f"There is no preset '{name}'{did_you_mean(name, preset_names())}.")
    weight_bits, activation_bits, method, joined = match.groups()
    settings = {
        "name": name,
        "weight": {"bits": int(weight_bits)},
        "activation": {"bits": int(activation_bits)},
    }
    recipe = _validated(settings, f"The preset '{name}'")
    recipe = recipe.override(METHODS[method] | (_JOINED if joined else {}))
    return recipe.override(overrides or {})


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, as `Recipe.to_yaml` writes it.

    Raises:
        RecipeError: the file cannot be read, is no YAML mapping, or holds an unknown key or a bad value.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"The recipe {path} cannot be read: {reason}.") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"The recipe {path} holds {type(settings).__name__}, expected a mapping.")
    return _validated(settings, f"The recipe {path}")


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = settings.get(parent)
        if not isinstance(inner, dict):
            raise RecipeError(_unknown_key(key))
        settings = inner
    if last not in settings:
        raise RecipeError(_unknown_key(key))
    settings[last] = value


def _unknown_key(key: str) -> str:
    return f"A recipe has no key '{key}'{did_you_mean(key, _keys(Recipe))}."


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _keys(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _validated(settings: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{where}: {_unknown_key(key)}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{where} has a bad value for '{key}': {message} (got {first['input']!r})."
        ) from error
