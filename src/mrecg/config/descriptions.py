"""The meaning of every setting, from the docstrings of the sections of a recipe."""

import inspect
import re
from typing import NamedTuple

from pydantic import BaseModel

from mrecg.config.recipe import Recipe

__all__ = ["Description", "described_settings"]


class Description(NamedTuple):
    """Hold a setting's value in a recipe, and what it decides."""

    value: object
    meaning: str


def described_settings(recipe: Recipe) -> dict[str, Description]:
    """Return every setting of a recipe by its dotted key."""
    return _described(recipe, "")


def _described(section: BaseModel, prefix: str) -> dict[str, Description]:
    found: dict[str, Description] = {}
    meanings = _meanings(type(section))
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            found |= _described(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = Description(value, meanings.get(name, ""))
    return found


def _meanings(section: type[BaseModel]) -> dict[str, str]:
    """Return what docstrings say about the fields of a section; those of its bases hold where its own says nothing."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        _, _, attributes = (inspect.cleandoc(owner.__doc__ or "")).partition("Attributes:\n")
        # A name at the first indentation starts an entry; deeper lines go on with it.
        for entry in re.split(r"\n(?=    \w)", attributes.partition("\n\n")[0]):
            names, separator, meaning = entry.strip().partition(": ")
            if separator and issubclass(owner, BaseModel):
                found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found
