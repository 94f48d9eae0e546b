"""Experiments: the content of foreign configuration files, as a recipe, a network and its data."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mrecg.config.recipe import Recipe

__all__ = ["Experiment", "Note"]


class Note(NamedTuple):
    """Say what became of one key."""

    key: str
    value: object
    remark: str


class Experiment(BaseModel):
    """Hold what a configuration file asks for.

    Attributes:
        recipe: the method.
        network: its name here, `None` where the file names none.
        num_classes: outputs of the classifier, where the file says.
        weights: the checkpoint.
        data: root of an ImageNet folder.
        images: how many are calibrated on.
        workers: processes that read images; `None` where the file does not say.
        crop, resize: sides of the evaluated images and of what they are cut from.
        mapped, ignored: every key of the file, with what became of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    network: str | None = None
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    weights: Path | None = None
    data: Path | None = None
    images: Annotated[int, Field(ge=1, le=100_000_000)]
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    crop: Annotated[int, Field(ge=1, le=10_000)] = 224
    resize: Annotated[int, Field(ge=1, le=10_000)] = 256
    mapped: tuple[Note, ...] = ()
    ignored: tuple[Note, ...] = ()
