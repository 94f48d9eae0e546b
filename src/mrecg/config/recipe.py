"""The recipe, everything that a user chooses: a frozen model, read from and written to YAML."""

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from mrecg.config.optimization import NetworkStage, Reconstruction
from mrecg.config.sections import Settings
from mrecg.config.settings import (
    FLOAT_BITS,
    ActivationSettings,
    Placement,
    PlanRule,
    TensorSettings,
)
from mrecg.config.targets import ACADEMIC, find_backend
from mrecg.config.yaml_files import first_problem, flat, parse_mapping, read_mapping
from mrecg.errors import RecipeError, did_you_mean, expect, quoted

__all__ = ["Recipe", "parse_recipe", "read_recipe", "validated"]

NETWORK_STEPS_PER_GROUP_STEP = {"scales": 0.2, "codes": 1.0}
"""Steps of the network stage in units of those per group, by what it learns, where the recipe does not say."""


class Recipe(Settings):
    """Everything that decides a result, apart from the model and the images.

    Attributes:
        name: for people; it decides nothing.
        seed: of everything random.
    """

    name: Annotated[str, Field(max_length=255)]
    seed: int = Field(default=1005, ge=0, lt=2**32)
    weight: TensorSettings
    activation: ActivationSettings
    placement: Placement = Placement()
    plan: PlanRule = PlanRule()
    reconstruct: Reconstruction = Reconstruction()
    network: NetworkStage = NetworkStage()

    @property
    def network_steps(self) -> int:
        """Return the steps that optimize the network as a whole."""
        if self.network.steps == "auto":
            return round(
                NETWORK_STEPS_PER_GROUP_STEP[self.network.learn] * self.reconstruct.step_count
            )
        return self.network.steps

    @model_validator(mode="after")
    def _suits_backend(self) -> "Recipe":
        name = self.placement.backend
        if name == ACADEMIC:
            if self.weight.logarithmic or self.activation.logarithmic:
                raise ValueError("logarithmic codes need a backend that has them, such as 'nnie'")
            return self
        try:
            backend = find_backend(name)
        except RecipeError as error:  # pydantic reports what a validator raises only as ValueError
            raise ValueError(str(error).rstrip(".?")) from error
        for key, wanted in backend.settings.items():
            if (found := attrgetter(key)(self)) != wanted:
                raise ValueError(f"the backend '{name}' needs {key} = {wanted}, got {found}")
        layers = self.placement.overrides
        for kind, widest, widths in (
            ("weight", backend.weight_bits, [layer.weight_bits for layer in layers]),
            ("activation", backend.activation_bits, [layer.activation_bits for layer in layers]),
        ):
            used = [getattr(self, kind).bits, *(width for width in widths if width)]
            if self.placement.first_last != "same":
                used.append(self.placement.first_last_bits)
            narrowest = backend.narrowest_bits
            for width in used:
                if not (narrowest <= width <= widest or width == FLOAT_BITS):
                    wanted = "exactly" if narrowest == widest else "at most"
                    raise ValueError(
                        f"the backend '{name}' holds {kind}s of {wanted} {widest} bits, got {width}"
                    )
        return self

    def for_backend(self, name: str) -> "Recipe":
        """Return a copy whose grids and placement suit a deployment target; wider codes than it holds become narrower.

        Raises:
            RecipeError: there is no such backend.
        """
        backend = find_backend(name)
        widest = min(backend.weight_bits, backend.activation_bits)
        widths = {
            "weight.bits": min(self.weight.bits, backend.weight_bits),
            "activation.bits": min(self.activation.bits, backend.activation_bits),
            "placement.first_last_bits": min(self.placement.first_last_bits, widest),
        }
        return self.override({**backend.settings, **widths, "placement.backend": name})

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML, every default included."""
        # Escaped, because PyYAML folds line separators of Unicode that it writes as they are.
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def differences(self, other: "Recipe") -> list[tuple[str, tuple[Any, Any]]]:
        """Return the dotted keys at which another recipe differs, each with this recipe's value and the other's."""
        ours, theirs = (dict(flat(one.model_dump(mode="json"))) for one in (self, other))
        return [(key, (ours[key], theirs[key])) for key in ours if ours[key] != theirs[key]]

    def override(self, overrides: Mapping[str, Any]) -> "Recipe":
        """Return a copy with some settings replaced.

        Args:
            overrides: dotted keys, such as `{"reconstruct.steps": 500}`.

        Raises:
            RecipeError: a key does not exist or a value does not fit.
        """
        advice = "give dotted keys and values, such as {'reconstruct.steps': 500}"
        expect(overrides, Mapping, "What replaces settings", advice, RecipeError)
        settings = self.model_dump(mode="json")
        for key, value in overrides.items():
            expect(key, str, f"The key {quoted(key)}", advice, RecipeError)
            _set(settings, key, value)
        return validated(settings, "The recipe")


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe in a YAML file, as `Recipe.to_yaml` writes it.

    Raises:
        RecipeError: the file cannot be read, is no YAML mapping, or holds an unknown key or a bad value.
    """
    expect(path, (str, Path), "The recipe's path", "name a YAML file", RecipeError)
    return validated(read_mapping(Path(path), "recipe"), f"The recipe {path}")


def parse_recipe(contents: bytes, path: Path) -> Recipe:
    """Return the recipe in the contents of a YAML file, as `read_recipe` does; `path` names it in a message.

    Raises:
        RecipeError: they are no YAML mapping, or hold an unknown key or a bad value.
    """
    return validated(parse_mapping(contents, path, "recipe"), f"The recipe {path}")


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = settings.get(parent)
        if not isinstance(inner, dict):
            raise RecipeError(_unknown_key(key))
        settings = inner
    if last not in settings:
        raise RecipeError(_unknown_key(key))
    if isinstance(settings[last], dict):
        raise RecipeError(
            f"'{key}' is a section of the recipe; set one of {', '.join(f'{key}.{name}' for name in settings[last])}."
        )
    settings[last] = value


def _unknown_key(key: str) -> str:
    keys = _keys(Recipe)
    section = key.rpartition(".")[0]
    siblings = [one for one in keys if section and one.startswith(f"{section}.")]
    return f"A recipe has no key {quoted(key)}{did_you_mean(key, keys, siblings or Recipe.model_fields)}"


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _keys(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def validated(settings: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe of these settings; `where` names their source in a message.

    Raises:
        RecipeError: a key does not exist or a value does not fit.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key, reason = first_problem(error)
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"{where}: {_unknown_key(key)}") from error
        if not key or isinstance(first["input"], dict):
            place = f" in {quoted(key)}" if key else ""
            raise RecipeError(f"{where} contradicts itself{place}: {reason}.") from error
        raise RecipeError(
            f"{where} has a bad value for {quoted(key)}: {reason} (got {quoted(first['input'])})."
        ) from error
